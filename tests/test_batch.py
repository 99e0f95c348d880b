"""The batch job: what it writes, that any interruption is made good to the byte, and what it refuses."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec.data.sequences import Sequences
from genrec.inference.batch import job as batch
from genrec.inference.batch.job import BatchJob, ShardError, cut, in_process, write_shards
from genrec.inference.batch.users import User
from genrec.recommendations import RankedRows
from genrec.semtok import folders
from genrec.semtok.errors import InputError

N_ITEMS = 50
ITEM_IDS = tuple(f"item {i}" for i in range(N_ITEMS))
JOB = BatchJob(run_id="r1", ranking="beam", index_version="v1", k=5, shard_size=4, about={"model": {"layers": 2}})


@dataclass(frozen=True)
class Counted:
    """`count` users with histories that their number decides."""

    count: int
    digest: str = "d"

    def __iter__(self) -> Iterator[User]:
        for user in range(self.count):
            yield f"user {user}", np.arange(user % 7, dtype=np.int32)


def recommend(histories: Sequences) -> RankedRows:
    """Next items after the last one; the list of an empty history is short and says why."""
    lists = [(history[-1] + 1 + np.arange(5)) % N_ITEMS if len(history) else np.array([3]) for history in histories]
    reasons = tuple(None if len(one) == 5 else "one item is allowed" for one in lists)
    rows = Sequences.from_lists(lists)
    return RankedRows(rows, -np.arange(len(rows.values), dtype=np.float32), reasons)


def run(out: Path, users: Counted = Counted(10), job: BatchJob = JOB, **options: object) -> dict[str, int]:
    log = out.parent / "log.jsonl"
    return write_shards(in_process(recommend), users, out, job=job, item_ids=ITEM_IDS, log=log, **options)  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def undisturbed(tmp_path: Path) -> dict[str, bytes]:
    run(tmp_path / "undisturbed")
    return contents(tmp_path / "undisturbed")


def test_what_is_written(tmp_path: Path) -> None:
    out = tmp_path / "topk"
    counts = run(out)
    assert counts == {"users": 10, "items": 5 * 8 + 2, "short_lists": 2, "shards": 3}
    assert sorted(contents(out)) == ["job.json", "manifest.json", *(f"part-0000{i}.parquet" for i in range(3))]
    table = pl.concat([pl.read_parquet(path) for path in sorted(out.glob("*.parquet"))])
    assert dict(table.schema) == {
        "user_id": pl.String(),
        "item_ids": pl.List(pl.String()),
        "scores": pl.List(pl.Float32()),
        "reason": pl.String(),
    }
    assert table["user_id"].to_list() == [f"user {i}" for i in range(10)]
    assert table["item_ids"].to_list()[3] == ["item 3", "item 4", "item 5", "item 6", "item 7"]
    assert table["item_ids"].to_list()[7] == ["item 3"]
    assert table["scores"].to_list()[1] == [-1.0, -2.0, -3.0, -4.0, -5.0]
    assert table["reason"].to_list()[6:8] == [None, "one item is allowed"]
    facts = pl.read_parquet_metadata(out / "part-00002.parquet")
    assert {key: facts[key] for key in ("run_id", "ranking", "index_version", "k")} == {
        "run_id": "r1",
        "ranking": "beam",
        "index_version": "v1",
        "k": "5",
    }
    manifest = folders.check_folder(out, hashes=True)
    assert manifest["inputs"]["counts"] == counts
    assert manifest["inputs"]["job"]["about"] == {"model": {"layers": 2}}
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["shard", "shard", "shard", "batch"]
    assert lines[-1]["users_written"] == 10
    assert lines[-1]["speed"] > 0


def test_a_failure_at_any_write_is_made_good(
    tmp_path: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before and after each renaming of each file, three runs in a row: the same bytes as the undisturbed job."""
    real = os.replace
    for nth in range(5):
        for after in (False, True):
            out = tmp_path / f"killed {nth} {after}"
            for kill_at in (nth, 0, None):
                calls = 0

                def flaky(source: str, target: str, kill_at: int | None = kill_at, after: bool = after) -> None:
                    nonlocal calls
                    calls += 1
                    if after or calls - 1 != kill_at:
                        real(source, target)
                    if calls - 1 == kill_at:
                        raise KeyboardInterrupt

                monkeypatch.setattr(folders.os, "replace", flaky)
                if kill_at is None:
                    run(out)
                else:
                    try:
                        run(out)
                    except KeyboardInterrupt:
                        assert not (out / "manifest.json").exists() or after
                monkeypatch.setattr(folders.os, "replace", real)
            assert contents(out) == undisturbed


def test_finished_shards_and_jobs_are_not_worked_on_again(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    seen: list[int] = []

    def watched(histories: Sequences) -> RankedRows:
        seen.append(len(histories))
        return recommend(histories)

    out = tmp_path / "undisturbed"
    noted = [{"file": name, "sha256": folders.hash_file(out / name)} for name in sorted(undisturbed) if "part" in name]
    for removed, expected in (
        (["manifest.json"], []),
        (["manifest.json", "part-00001.parquet"], [4]),
        ([], []),
        (["manifest.json", ".parts.jsonl"], [4, 4, 2]),
    ):
        if removed:  # as a kill before the end leaves it
            (out / ".parts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in noted))
        for name in removed:
            (out / name).unlink()
        seen.clear()
        counts = write_shards(
            in_process(watched), Counted(10), out, job=JOB, item_ids=ITEM_IDS, log=tmp_path / "log.jsonl"
        )
        assert seen == expected
        assert counts["users"] == 10
        assert contents(out) == undisturbed


@pytest.mark.parametrize(
    ("users", "job", "message"),
    [
        (Counted(10), replace(JOB, k=6), "its k was 5, now 6"),
        (Counted(10), replace(JOB, about={"model": {"layers": 3}}), "its layers was 2, now 3"),
        (Counted(10), replace(JOB, about={}), "its model was {'layers': 2}, now None"),
        (Counted(11), JOB, "its users was 10, now 11"),
        (Counted(10, "e"), JOB, "its users_digest was 'd', now 'e'"),
    ],
)
def test_another_job_is_refused_or_replaced(tmp_path: Path, users: Counted, job: BatchJob, message: str) -> None:
    out, fresh = tmp_path / "topk", tmp_path / "fresh"
    run(out)
    before = contents(out)
    with pytest.raises(InputError, match=message):
        run(out, users, job)
    assert contents(out) == before
    run(out, users, job, restart=True)
    run(fresh, users, job)
    assert contents(out) == contents(fresh)


def test_folders_of_others_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "part-00000.parquet").write_bytes(b"x")
    with pytest.raises(InputError, match=r"has part-00000\.parquet but no job\.json"):
        run(out)
    (out / "notes.txt").write_text("dear diary")
    for restart in (False, True):
        with pytest.raises(InputError, match=r"notes\.txt was not made by a batch job"):
            run(out, restart=restart)
    assert (out / "notes.txt").exists()


def test_a_second_job_on_the_folder_is_refused(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    """Lists of two jobs never mix: neither a restart for other users nor the same job again gets in meanwhile."""
    out, refused = tmp_path / "topk", []
    (tmp_path / "link").symlink_to(out)

    def interrupted(histories: Sequences) -> RankedRows:
        for users, restart in ((Counted(10, "others"), True), (Counted(10), False)):
            with pytest.raises(InputError, match="link: another job is writing here") as error:
                run(tmp_path / "link", users, restart=restart)
            refused.append(error)
        return recommend(histories)

    write_shards(in_process(interrupted), Counted(10), out, job=JOB, item_ids=ITEM_IDS, log=tmp_path / "log.jsonl")
    assert len(refused) == 2 * 3
    assert contents(out) == undisturbed
    run(out, Counted(10, "others"), restart=True)  # the lock went with the job


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "topk").write_text("dear diary")
    with pytest.raises(InputError, match="topk: a file, not a folder; give another"):
        run(tmp_path / "topk", restart=True)
    assert (tmp_path / "topk").read_text() == "dear diary"


@pytest.mark.parametrize("damage", ["bit", "cut", "of another job", "note"])
def test_a_finished_part_that_is_damaged_is_made_anew(
    tmp_path: Path, undisturbed: dict[str, bytes], damage: str
) -> None:
    """Whether the job finds it when it goes on, or only when it has written the last part."""
    out, part = tmp_path / "topk", tmp_path / "topk/part-00000.parquet"
    run(tmp_path / "other", Counted(10, "e"), replace(JOB, k=5, run_id="r2"))

    def spoil() -> None:
        whole = part.read_bytes()
        if damage == "bit":
            part.write_bytes(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
        elif damage == "cut":
            part.write_bytes(whole[:-9])
        elif damage == "of another job":
            part.write_bytes((tmp_path / "other" / part.name).read_bytes())
        else:
            (out / ".parts.jsonl").write_text("not what was noted\n")

    def failing(histories: Sequences) -> RankedRows:
        if len(histories) == 2:  # the last shard
            spoil()
            raise RuntimeError("out of memory")
        return recommend(histories)

    def spoiling(histories: Sequences) -> RankedRows:
        if len(histories) == 2:
            spoil()
        return recommend(histories)

    options = {"job": JOB, "item_ids": ITEM_IDS, "log": tmp_path / "log.jsonl"}
    with pytest.raises(ShardError, match="out of memory"):
        write_shards(in_process(failing, attempts=1), Counted(10), out, **options)  # type: ignore[arg-type]
    with pytest.raises(ShardError, match=r"part-0000\d\.parquet: changed since it was written"):
        write_shards(in_process(spoiling), Counted(10), out, **options)  # type: ignore[arg-type]
    assert not (out / "manifest.json").exists()
    run(out)
    assert contents(out) == undisturbed


def test_a_bit_that_turned_in_a_sealed_job_is_named(tmp_path: Path) -> None:
    run(tmp_path / "topk")
    part = tmp_path / "topk/part-00001.parquet"
    whole = part.read_bytes()
    part.write_bytes(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
    with pytest.raises(InputError, match=r"part-00001\.parquet: contents differ"):
        run(tmp_path / "topk")


def test_a_full_disk_is_one_line_and_loses_nothing(
    tmp_path: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, full_at = os.fsync, 0

    def fsync(file: int) -> None:
        nonlocal full_at
        full_at -= 1
        if full_at < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "topk/a file"))
        real(file)

    monkeypatch.setattr(folders.os, "fsync", fsync)
    failures = []
    for full_at in range(6):  # noqa: B007 (counted down in `fsync`)
        try:
            run(tmp_path / "topk")
        except ShardError as error:
            failures.append(str(error))
    assert len(failures) >= 2
    assert set(failures) == {f"{tmp_path / 'topk/a file'}: No space left on device"}
    assert contents(tmp_path / "topk") == undisturbed


def test_the_log_may_lie_in_the_folder(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    out = tmp_path / "topk"
    for restart in (False, False, True):
        options = {"job": JOB, "item_ids": ITEM_IDS, "log": out / "log.jsonl"}
        write_shards(in_process(recommend), Counted(10), out, restart=restart, **options)  # type: ignore[arg-type]
        assert len((out / "log.jsonl").read_text().splitlines()) == 4
        assert {name: data for name, data in contents(out).items() if name != "log.jsonl"} == undisturbed


def test_a_damaged_job_is_named(tmp_path: Path) -> None:
    out = tmp_path / "topk"
    run(out)
    (out / "part-00001.parquet").write_bytes(b"cut")
    with pytest.raises(InputError, match=r"part-00001\.parquet: 3 bytes, the manifest says"):
        run(out)


@pytest.mark.parametrize("failures", [1, 2, 3])
def test_a_failing_shard_is_tried_again(
    failures: int, tmp_path: Path, undisturbed: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    left = failures

    def flaky(histories: Sequences) -> RankedRows:
        nonlocal left
        if len(histories) == 4 and left:
            left -= 1
            raise RuntimeError("out of memory\nwith a long story")
        return recommend(histories)

    out = tmp_path / "topk"
    log = tmp_path / "log.jsonl"
    if failures < batch.ATTEMPTS:
        write_shards(in_process(flaky), Counted(10), out, job=JOB, item_ids=ITEM_IDS, log=log)
        assert contents(out) == undisturbed
        assert len(caplog.records) == failures
        return
    message = r"shard 0 \(users 'user 0' to 'user 3'\) failed, attempt 3 of 3: RuntimeError: out of memory$"
    with pytest.raises(ShardError, match=message):
        write_shards(in_process(flaky), Counted(10), out, job=JOB, item_ids=ITEM_IDS, log=log)
    run(out)
    assert contents(out) == undisturbed


def test_a_persons_mistake_is_not_tried_again(tmp_path: Path) -> None:
    calls = 0

    def mistaken(histories: Sequences) -> RankedRows:
        nonlocal calls
        calls += 1
        raise InputError("no such attribute")

    with pytest.raises(InputError, match="no such attribute"):
        write_shards(
            in_process(mistaken), Counted(3), tmp_path / "o", job=JOB, item_ids=ITEM_IDS, log=tmp_path / "log.jsonl"
        )
    assert calls == 1


def test_bad_results_never_reach_a_file(tmp_path: Path) -> None:
    for item_ids, job, message in (
        (ITEM_IDS[:4], JOB, "a list names a catalogue row outside 0 to 3"),
        (ITEM_IDS, replace(JOB, k=2), "lists of up to 5 items"),
    ):
        with pytest.raises(ValueError, match=message):
            write_shards(
                in_process(recommend),
                Counted(3),
                tmp_path / "o",
                job=job,
                item_ids=item_ids,
                log=tmp_path / "l",
                restart=True,
            )
    assert not list((tmp_path / "o").glob("*.parquet"))


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="k must be at least 1, not 0"):
        replace(JOB, k=0)
    with pytest.raises(InputError, match="shard_size must be at least 1, not -1"):
        replace(JOB, shard_size=-1)
    with pytest.raises(InputError, match="no users"):
        run(tmp_path / "topk", Counted(0))


@given(st.integers(0, 30), st.integers(1, 9))
def test_shards_are_the_users_in_order(n_users: int, size: int) -> None:
    shards = list(cut(Counted(n_users), size))
    assert [shard.index for shard in shards] == list(range(-(-n_users // size)))
    assert all(len(shard.user_ids) == size for shard in shards[:-1])
    flat = [(u, h.tolist()) for s in shards for u, h in zip(s.user_ids, s.histories, strict=True)]
    assert flat == [(u, h.tolist()) for u, h in Counted(n_users)]


def test_memory_does_not_grow_with_the_users(tmp_path: Path) -> None:
    peaks = []
    for n_users in (500, 5_000):
        tracemalloc.start()
        run(tmp_path / str(n_users), Counted(n_users), replace(JOB, shard_size=50))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.3


SLOW_JOB = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_batch
real = test_batch.recommend
def slow(histories):
    time.sleep(0.02)
    return real(histories)
test_batch.recommend = slow
print("started", flush=True)
test_batch.run(Path(sys.argv[1]), test_batch.Counted(200))
"""


@pytest.mark.slow
def test_kill_at_random_moments(tmp_path: Path) -> None:
    """SIGKILL, again and again at random moments, until a run gets through: the bytes of an undisturbed job."""
    run(tmp_path / "undisturbed", Counted(200))
    rng = np.random.default_rng(0)
    command = [sys.executable, "-c", SLOW_JOB, str(tmp_path / "killed"), str(Path(__file__).parent)]
    kills = 0
    for _ in range(60):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"started\n"
            try:
                process.wait(timeout=rng.uniform(0.02, 0.5))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                kills += 1
                continue
        break
    assert process.returncode == 0
    assert kills >= 3
    assert contents(tmp_path / "killed") == contents(tmp_path / "undisturbed")
