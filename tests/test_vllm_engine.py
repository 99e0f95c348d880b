"""The vLLM engine against the torch engine: a real Qwen3-shaped folder with random weights, float32, on the CPU."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import get_args
from unittest.mock import Mock

import numpy as np
import polars as pl
import pytest
import torch
from numpy.typing import NDArray
from transformers import Qwen3Config, Qwen3ForCausalLM

from genrec import Recommender
from genrec.cli.main import main
from genrec.data.sample_shop import make_sample_shop
from genrec.data.sequences import Sequences
from genrec.decoding import fused_search
from genrec.decoding.beam import beam_search, score_all
from genrec.decoding.filters import ItemFilter
from genrec.decoding.item_input import ItemInput, SpelledItems
from genrec.decoding.node_scores import NodeScorer, NodeScores
from genrec.decoding.torch_scorer import TorchScorer
from genrec.decoding.trie import CodeTrie
from genrec.decoding.vocabulary import SidVocabulary
from genrec.inference.engines import vllm_engine
from genrec.inference.engines.vllm_engine import VllmLimits, VllmScorer, prepare_environment
from genrec.ranking.config import Ranking
from genrec.ranking.dense_head import DenseHead
from genrec.recommendations import RankedRows
from genrec.semtok.errors import InputError

SIZES = (24, 16, 40)
N_TOKENS = 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as a run has it."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=N_TOKENS,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=256,
        tie_word_embeddings=True,
    )
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.ndim > 1:
                weights.normal_(0, 0.2)
    path = tmp_path_factory.mktemp("lm")
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def vocabulary() -> SidVocabulary:
    """Codes at scattered token ids."""
    ids = np.random.default_rng(1).permutation(np.arange(10, N_TOKENS))[: sum(SIZES)]
    return SidVocabulary(tuple(np.split(ids.astype(np.int64), np.cumsum(SIZES)[:-1])), 5)


@pytest.fixture(scope="module")
def codes() -> NDArray[np.int32]:
    """A catalogue of 900 items."""
    flat = np.random.default_rng(2).choice(int(np.prod(SIZES)), size=900, replace=False)
    return np.stack(np.unravel_index(flat, SIZES), axis=1).astype(np.int32)


@pytest.fixture(scope="module")
def prompts(vocabulary: SidVocabulary, codes: NDArray[np.int32]) -> list[list[int]]:
    """Prompts shorter than a cache block, longer, and exactly as long as one, with repeats among the users."""
    rng = np.random.default_rng(3)
    lengths = [0, 1, 5, 10, 10, 11, 20, 21, 31, 40, 42, 50]
    histories = [rng.integers(len(codes), size=length) for length in lengths]
    made = [vocabulary.prompt(codes[history]) for history in histories]
    return [*made, (made[9] * 2)[:64], made[9][:32], made[8], made[8]]


@pytest.fixture(scope="module")
def item_input(vocabulary: SidVocabulary, codes: NDArray[np.int32]) -> ItemInput:
    """Vectors that change what the model reads a good deal."""
    torch.manual_seed(6)
    return ItemInput(SpelledItems(vocabulary, codes), torch.randn(len(codes), 8), 64, std=0.2).eval()


@pytest.fixture(scope="module", params=["level", "vocabulary", "item vectors"])
def scorers(
    request: pytest.FixtureRequest, folder: Path, vocabulary: SidVocabulary, item_input: ItemInput
) -> Iterator[tuple[VllmScorer, TorchScorer]]:
    """Both engines on one folder, in each score space and with item vectors; a pair starts after the engine before it
    was closed."""
    model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    space = "vocabulary" if request.param == "vocabulary" else "level"
    items = item_input if request.param == "item vectors" else None
    with VllmScorer(folder, vocabulary, score_space=space, item_input=items) as ours:
        yield ours, TorchScorer(model, vocabulary, score_space=space, item_input=items)


Pair = tuple[VllmScorer, TorchScorer]


def same(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    """Equal up to the rounding of two ways to multiply in float32."""
    return bool(np.allclose(a, b, rtol=0, atol=2e-4))


def same_lists(ours: RankedRows, theirs: RankedRows, near: float) -> bool:
    """The same scores by rank, and the same items, but where others score within `near` of them."""
    if not np.array_equal(ours.rows.offsets, theirs.rows.offsets) or not np.allclose(
        ours.scores, theirs.scores, 0, near
    ):
        return False
    starts = theirs.rows.offsets[:-1]
    for mine, other, start in zip(ours.rows, theirs.rows, starts, strict=True):
        scores = theirs.scores[start : start + len(other)]
        place = dict(zip(other.tolist(), scores.tolist(), strict=True))
        if len(set(mine.tolist())) < len(mine):
            return False
        # An item that the other list lacks can only be a tie with that list's last.
        expected = [place.get(item, scores[-1]) for item in mine.tolist()]
        if not np.allclose(expected, scores, 0, near):
            return False
    return True


def test_same_lists() -> None:
    """Near ties may change places; anything else is another list."""

    def one(*items: int, scores: tuple[float, ...] = (0.5, 0.2, 0.2)) -> RankedRows:
        rows = Sequences.from_lists([list(items), [7, 8]])
        return RankedRows(rows, np.array([*scores, 0.9, 0.1], dtype=np.float32), (None, None))

    for equal in (one(3, 1, 2), one(3, 2, 1), one(3, 4, 1), one(3, 1, 2, scores=(0.5, 0.20001, 0.2))):
        assert same_lists(equal, one(3, 1, 2), 1e-3)
    for other in (
        one(1, 3, 2),
        one(4, 1, 2),
        one(3, 1, 1),
        one(3, 1, scores=(0.5, 0.2)),
        one(3, 1, 2, scores=(0.5, 0.3, 0.2)),
    ):
        assert not same_lists(other, one(3, 1, 2), 1e-3)


@pytest.mark.vllm
def test_rows_equal_torch(scorers: Pair, prompts: list[list[int]]) -> None:
    """Also for beams that share a parent, parents without children, and one beam fed twice."""
    generator = torch.Generator().manual_seed(4)
    states = [scorer.start(prompts) for scorer in scorers]
    assert same(states[0].log_probs.numpy(), states[1].log_probs.numpy())
    assert np.allclose(states[0].hidden, states[1].hidden, rtol=0, atol=1e-3)
    width = 1
    for level, n_beams in ((0, 7), (1, 5)):
        parents = torch.randint(width, (len(prompts), n_beams), generator=generator)
        fed = torch.randint(SIZES[level], (len(prompts), n_beams), generator=generator)
        parents[:, 1], fed[:, 1] = parents[:, 0], fed[:, 0]
        ours, torch_rows = (scorer.step(state, parents, fed) for scorer, state in zip(scorers, states, strict=True))
        assert ours.shape == (len(prompts), n_beams, SIZES[level + 1])
        assert same(ours.numpy(), torch_rows.numpy())
        assert np.allclose(states[0].beam_hidden, states[1].beam_hidden, rtol=0, atol=1e-3)
        width = n_beams


@pytest.mark.vllm
def test_item_vectors_are_read(
    scorers: Pair, folder: Path, vocabulary: SidVocabulary, prompts: list[list[int]]
) -> None:
    """Every prompt with items reads otherwise than by its codes alone where there are vectors."""
    ours, theirs = scorers
    model = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    bare = TorchScorer(model, vocabulary, score_space=theirs.score_space).start(prompts).log_probs
    change = (ours.start(prompts).log_probs - bare).abs().amax(dim=1)
    assert change[0] < 2e-4
    assert ((change[1:] > 0.05) == (ours.item_input is not None)).all()


@pytest.mark.vllm
@pytest.mark.parametrize("beams", [1, 20])
def test_lists_equal_torch(scorers: Pair, prompts: list[list[int]], codes: NDArray[np.int32], beams: int) -> None:
    """The same items in the same order, every list full."""
    trie = CodeTrie(codes, SIZES)
    ours, theirs = (beam_search(scorer, trie, prompts, beams=beams, k=10) for scorer in scorers)
    assert np.array_equal(ours.rows, theirs.rows)
    assert same(ours.scores, theirs.scores)
    assert (ours.rows >= 0).all()


@pytest.mark.vllm
def test_lists_by_node_vectors_equal_torch(scorers: Pair, prompts: list[list[int]], codes: NDArray[np.int32]) -> None:
    """The same hidden states, so the same items."""
    trie = CodeTrie(codes, SIZES)
    torch.manual_seed(3)
    head = DenseHead(64, 16, torch.from_numpy(codes), SIZES, torch.randn(len(codes), 8), torch.ones(len(codes)).bool())
    nodes = NodeScores(trie, 64, 16)
    for part in (head, nodes):
        for parameter in part.eval().parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    ours, theirs = (beam_search(NodeScorer(one, nodes, head), trie, prompts, beams=20, k=10) for one in scorers)
    assert np.allclose(ours.scores, theirs.scores, rtol=0, atol=2e-2)
    shared = [len(set(a) & set(b)) for a, b in zip(ours.rows.tolist(), theirs.rows.tolist(), strict=True)]
    assert min(shared) >= 9  # the last may be a tie


@pytest.mark.vllm
def test_filtered_lists_equal_torch(scorers: Pair, prompts: list[list[int]], codes: NDArray[np.int32]) -> None:
    """Different filters in one batch: a shared mask, the user's own items denied, seven items, everything."""
    trie = CodeTrie(codes, SIZES)
    rng = np.random.default_rng(5)
    few = np.zeros(len(codes), dtype=np.bool_)
    few[rng.choice(len(codes), 7, replace=False)] = True
    shared = ItemFilter.from_mask(trie, rng.random(len(codes)) < 0.3)
    everything = beam_search(scorers[1], trie, prompts, beams=20, k=10).rows
    kinds = [
        shared,
        ItemFilter.from_mask(trie, few),
        ItemFilter(trie),
        shared.deny(rng.integers(len(codes), size=50)),
    ]
    filters = [kinds[user % 4] if user % 3 else ItemFilter(trie).deny(everything[user]) for user in range(len(prompts))]
    ours, theirs = (beam_search(scorer, trie, prompts, beams=20, k=10, filters=filters) for scorer in scorers)
    assert np.array_equal(ours.rows, theirs.rows)
    assert same(ours.scores[ours.rows >= 0], theirs.scores[ours.rows >= 0])
    for row, one in zip(ours.rows, filters, strict=True):
        assert one.allowed_mask()[row[row >= 0]].all()
        assert (row >= 0).sum() == min(10, one.count)


@pytest.mark.vllm
def test_exact_scores_equal_torch(scorers: Pair, prompts: list[list[int]], codes: NDArray[np.int32]) -> None:
    """`score_all` begins again from copies of one state."""
    trie = CodeTrie(codes[:60], SIZES)
    ours, theirs = (score_all(scorer, trie, prompts[:3], max_nodes=16) for scorer in scorers)
    assert same(ours, theirs)


@pytest.mark.vllm
def test_a_depth_first_walk_equals_torch(
    scorers: Pair, prompts: list[list[int]], codes: NDArray[np.int32], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fused search returns to prefixes that were fed before, seven at a time, and all blocks return to vLLM."""
    walk = Mock(wraps=fused_search._walk_all)
    monkeypatch.setattr(fused_search, "_walk_all", walk)
    monkeypatch.setattr(fused_search, "_ROWS", 7)
    pool, trie = scorers[0]._exchange.pool, CodeTrie(codes[:60], SIZES)
    weights, others = torch.ones(60), torch.randn(3, 60, generator=torch.Generator().manual_seed(0))
    free, found = pool.get_num_free_blocks(), []
    for scorer in scorers:
        state = scorer.start(prompts[:3])
        found.append(fused_search.fused_search(scorer, prompts[:3], state, trie, weights, others, beams=1, k=5))
        del state
    assert walk.call_count >= len(scorers)
    walk.reset_mock()  # it keeps what it was called with, and with that a state
    ours, theirs = (scores.topk(5) for scores in found)
    assert torch.equal(ours.indices, theirs.indices)
    assert torch.allclose(ours.values, theirs.values, rtol=0, atol=2e-4)
    assert pool.get_num_free_blocks() == free


@pytest.mark.vllm
def test_beams_continue_their_parents_tails(scorers: Pair, prompts: list[list[int]]) -> None:
    """A beam whose parent ends inside a cache block computes one token, and all blocks return to vLLM."""
    ours = scorers[0]
    exchange = ours._exchange
    free, continued = exchange.pool.get_num_free_blocks(), exchange.n_continued
    state = ours.start(prompts)
    again = copy.copy(state)
    parents = torch.zeros(len(prompts), 3, dtype=torch.long)
    fed = torch.arange(3).expand(len(prompts), -1)
    first = ours.step(state, parents, fed)
    assert exchange.n_continued - continued == 3 * sum(len(prompt) % vllm_engine.BLOCK != 0 for prompt in prompts)
    assert exchange.pool.get_num_free_blocks() < free
    ours.step(state, fed, fed)
    assert torch.equal(ours.step(again, parents, fed), first)
    del state, again
    assert exchange.pool.get_num_free_blocks() == free


@pytest.mark.vllm
def test_prompts_that_do_not_fit_are_refused(scorers: Pair) -> None:
    """One line that says which."""
    with pytest.raises(InputError, match="prompt 1 has 254 tokens; the engine takes 1 to 253"):
        scorers[0].start([[5], [5] * 254])
    with pytest.raises(InputError, match="prompt 0 has 0 tokens"):
        scorers[0].start([[]])


@pytest.mark.vllm
def test_results_do_not_depend_on_room(
    folder: Path, vocabulary: SidVocabulary, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunked prompts, few requests a forward, no room to keep tails: the same rows. Needs no other engine alive."""
    from genrec.inference.engines import vllm_plugins

    fed = torch.arange(9).expand(len(prompts), -1)
    rows = []
    small = VllmLimits(max_requests=4, token_budget=64, max_length=200, cache_gib=1)
    for limits, share in ((VllmLimits(), 0.5), (small, 0.5), (small, 2.0)):
        monkeypatch.setattr(vllm_plugins, "FREE_SHARE", share)
        with VllmScorer(folder, vocabulary, limits=limits) as scorer:
            state = scorer.start(prompts)
            rows.append((state.log_probs.numpy(), scorer.step(state, torch.zeros_like(fed), fed).numpy()))
            assert (scorer._exchange.n_continued > 0) == (share < 1)
    for log_probs, stepped in rows[1:]:
        assert same(log_probs, rows[0][0])
        assert same(stepped, rows[0][1])


@pytest.mark.vllm
@pytest.mark.parametrize("nodes", ["true", "false"])
def test_a_run_is_read_as_torch_reads_it(tmp_path: Path, nodes: str) -> None:
    """`genrec fit` to lists, item vectors included. Needs no other engine alive.

    The beam is as wide as the catalogue: two prefixes of a model that one epoch taught can tie to the last bit, and a
    narrow beam would drop now the one, now the other.
    """
    make_sample_shop(0, users=100, items=60).write(tmp_path)
    small = ["--sasrec.width=16", "--lrurec.width=16",
    "--collaborative.epochs=1", "--aligner.training.epochs=1", "--lm.epochs=1",
             "--lm.width=64", "--lm.text_vocabulary=300", "--lm.dense_width=16", "--lm.valid_cases=20"]  # fmt: skip
    data = f"data: {{items: {tmp_path / 'items.jsonl'}, interactions: {tmp_path / 'interactions.csv'}}}"
    (tmp_path / "my.yaml").write_text(f"{data}\nrun: {tmp_path / 'run'}\n")
    assert main(["fit", str(tmp_path / "my.yaml"), *small, f"--lm.node_vectors={nodes}"]) == 0
    users = pl.read_parquet(tmp_path / "run/split/users.parquet")["history"].to_list()[:30]
    theirs = Recommender.from_pretrained(tmp_path / "run", device="cpu")
    ours = Recommender.from_pretrained(tmp_path / "run", engine="vllm")
    histories = Sequences.from_lists([ours.catalog.rows(items) for items in [[], *users]])
    scorer = ours.engine
    assert isinstance(scorer, VllmScorer)
    assert scorer.item_input is not None
    with scorer:
        for ranking in get_args(Ranking):
            lists, expected = (
                one.recommend_rows(histories, k=10, beams=60, ranking=ranking, filter_viewed=True)
                for one in (ours, theirs)
            )
            assert same_lists(lists, expected, 1e-3), ranking
            assert len(lists.scores) == 31 * 10


def test_bad_arguments(folder: Path, vocabulary: SidVocabulary) -> None:
    """Refused before vLLM is imported."""
    with pytest.raises(InputError, match="score_space must be level or vocabulary, not 'beam'"):
        VllmScorer(folder, vocabulary, score_space="beam")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="max_length must be 1 to 256"):
        VllmScorer(folder, vocabulary, limits=VllmLimits(max_length=300))
    with pytest.raises(InputError, match="nothing: the model cannot be loaded: no such folder"):
        VllmScorer(folder / "nothing", vocabulary)


@pytest.mark.parametrize(
    ("installed", "message"),
    [
        ({}, "vLLM is not installed"),
        ({"vllm": "0.31.2"}, r"vllm 0\.31\.2: the vLLM engine works with versions 0\.32 and"),
    ],
)
def test_other_versions_are_refused(installed: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clearly, and before anything is set up."""

    def version(name: str) -> str:
        if name not in installed:
            raise vllm_engine.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(vllm_engine.metadata, "version", version)
    with pytest.raises(InputError, match=message):
        prepare_environment()
