"""The batch job on a local Ray cluster: the bytes of a job without Ray, also when a worker is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import Qwen3Config, Qwen3ForCausalLM

from genrec.data.sequences import Sequences
from genrec.decoding.beam import beam_search
from genrec.decoding.torch_scorer import TorchScorer
from genrec.decoding.trie import CodeTrie
from genrec.decoding.vocabulary import SidVocabulary
from genrec.inference.batch.job import BatchJob, Recommend, Shard, ShardError, in_process, write_shards
from genrec.inference.batch.users import User
from genrec.recommendations import RankedRows
from genrec.semtok.errors import InputError

ray = pytest.importorskip("ray")
from genrec.inference.batch.ray_executor import IN_FLIGHT, Slots, on_ray  # noqa: E402

pytestmark = pytest.mark.slow
SIZES = (8, 8, 8)
N_ITEMS = 200
ITEM_IDS = tuple(f"item {i}" for i in range(N_ITEMS))
JOB = BatchJob(run_id="r", ranking="beam", index_version="v", k=5, shard_size=8)


def catalogue() -> NDArray[np.int32]:
    flat = np.random.default_rng(0).choice(8**3, size=N_ITEMS, replace=False)
    return np.stack(np.unravel_index(flat, SIZES), axis=1).astype(np.int32)


@dataclass(frozen=True)
class Shoppers:
    """Users with random histories."""

    count: int
    digest: str = "d"

    def __iter__(self) -> Iterator[User]:
        rng = np.random.default_rng(1)
        for user in range(self.count):
            yield f"user {user}", rng.integers(N_ITEMS, size=user % 9).astype(np.int32)


@dataclass(frozen=True)
class Spec:
    """A model folder, and the shard (by its first history's length) that kills its first worker, or fails always."""

    folder: str
    kill: int | None = None
    fail: int | None = None


def engine(spec: Spec) -> Recommend:
    """Beam search with the torch engine."""
    torch.set_num_threads(1)
    codes = catalogue()
    tokens = tuple(np.arange(1, 25).reshape(3, 8))
    vocabulary = SidVocabulary(tokens, 0)
    scorer = TorchScorer(Qwen3ForCausalLM.from_pretrained(spec.folder, dtype=torch.float32), vocabulary)
    trie = CodeTrie(codes, SIZES)

    def recommend(histories: Sequences) -> RankedRows:
        if len(histories[0]) == spec.kill:
            mark = Path(spec.folder) / "killed"
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        if len(histories[0]) == spec.fail:
            raise RuntimeError("no luck\nat all")
        found = beam_search(scorer, trie, [vocabulary.prompt(codes[history]) for history in histories], beams=10, k=5)
        return RankedRows.from_padded(found.rows, found.scores, (None,) * len(histories))

    return recommend


def mistaken(spec: Spec) -> Recommend:
    """An engine that can't be built."""
    raise InputError(f"{spec.folder}: no such run")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Two slots on this machine; their processes don't step aside for others, as Ray's do by default."""
    here = {"env_vars": {"PYTHONPATH": str(Path(__file__).parent)}}  # workers import `engine` from this file
    kind = {"worker_niceness": 0}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=here, _system_config=kind)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=32,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=128,
    )
    path = tmp_path_factory.mktemp("lm")
    Qwen3ForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def undisturbed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the job writes in one process."""
    out = tmp_path_factory.mktemp("batch") / "topk"
    recommend = engine(Spec(str(folder)))
    write_shards(in_process(recommend), Shoppers(70), out, job=JOB, item_ids=ITEM_IDS, log=out.parent / "log.jsonl")
    return contents(out)


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def run(spec: Spec, out: Path) -> None:
    slots = Slots(workers=2)
    log = out.parent / "l.jsonl"
    write_shards(on_ray(engine, spec, slots=slots), Shoppers(70), out, job=JOB, item_ids=ITEM_IDS, log=log)


@pytest.mark.usefixtures("cluster")
def test_same_bytes_as_in_one_process(folder: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    """And no more shards are taken from the users than the actors may hold."""
    taken = done = 0
    execute = on_ray(engine, Spec(str(folder)), slots=Slots(workers=2))

    def counted(shards: Iterable[Shard]) -> Iterator[tuple[Shard, RankedRows]]:
        nonlocal done

        def taking() -> Iterator[Shard]:
            nonlocal taken
            for shard in shards:
                taken += 1
                yield shard

        for answer in execute(taking()):
            done += 1
            assert taken < done + 2 * IN_FLIGHT
            yield answer

    write_shards(counted, Shoppers(70), tmp_path / "topk", job=JOB, item_ids=ITEM_IDS, log=tmp_path / "l.jsonl")
    assert taken == done == 9
    assert contents(tmp_path / "topk") == undisturbed


@pytest.mark.usefixtures("cluster")
def test_a_killed_worker_is_replaced(
    folder: Path, undisturbed: dict[str, bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """SIGKILL inside a shard: every shard is there, to the byte."""
    run(Spec(str(folder), kill=7), tmp_path / "topk")
    assert (folder / "killed").exists()
    assert contents(tmp_path / "topk") == undisturbed
    assert any("Actor" in record.message for record in caplog.records)


@pytest.mark.usefixtures("cluster")
def test_a_shard_that_always_fails_ends_the_job(folder: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    """With one line; what was finished stays, and a run in one process completes it."""
    with pytest.raises(ShardError, match=r"^shard 4 \(.*\) failed, attempt 3 of 3: RuntimeError: no luck$"):
        run(Spec(str(folder), fail=len(list(Shoppers(33))[32][1])), tmp_path / "topk")
    assert not (tmp_path / "topk" / "manifest.json").exists()
    log = tmp_path / "l.jsonl"
    write_shards(
        in_process(engine(Spec(str(folder)))), Shoppers(70), tmp_path / "topk", job=JOB, item_ids=ITEM_IDS, log=log
    )
    assert contents(tmp_path / "topk") == undisturbed


@pytest.mark.usefixtures("cluster")
def test_mistakes_arrive_as_they_are(tmp_path: Path) -> None:
    spec, users = Spec("nowhere"), Shoppers(9)
    options = {"job": JOB, "item_ids": ITEM_IDS, "log": tmp_path / "l.jsonl"}
    with pytest.raises(InputError, match=r"^nowhere: no such run$"):
        write_shards(on_ray(mistaken, spec, slots=Slots()), users, tmp_path / "a", **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="3 workers need 3 CPUs; the cluster has 2"):
        write_shards(on_ray(engine, spec, slots=Slots(workers=3)), users, tmp_path / "b", **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="1 workers need 1 GPUs; the cluster has 0"):
        write_shards(on_ray(engine, spec, slots=Slots(gpus=1)), users, tmp_path / "c", **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="workers must be at least 1"):
        replace(Slots(), workers=0)
    with pytest.raises(ValueError, match="must be a function of a module"):
        on_ray(lambda spec: engine(spec), spec, slots=Slots())
