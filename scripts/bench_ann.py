"""Approximate against exact retrieval: recall@10 and milliseconds a query, from 100 thousand to a million items.

    OMP_NUM_THREADS=1 python scripts/bench_ann.py --quick        # 100 thousand items
    OMP_NUM_THREADS=1 python scripts/bench_ann.py                # 200 thousand and a million too
    python scripts/bench_ann.py --json FILE

Everything is made: an item's vector is a sum of three code vectors of falling length and noise of its own, as the dense
head's is, and so are the vectors of `similar` (width 256) and of the aligned recommender (64); people's histories stay
near one first code, and counts come from such histories. The language model is a scratch decoder (width 64, 2 layers)
with random weights, so the codes say little; the dense head (width 64) is asked for the mean of the last three items
and as much noise.

    similar      cosine of an item's vector, one item at a time
    dense        the dense head alone, in batches, the language model included
    fused        codes, dense head, aligned recommender and co-occurrence
    counts       dense head and co-occurrence without the codes

Times are of the processor, one thread; `building` is what the indexes take where a run is opened. Both ways rank the
same users and take turns in every round; recall is the share of the exact list that the approximate one has, the ratio
the median over rounds.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import bench_trie
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM

from genrec.data.sequences import Sequences
from genrec.decoding.filters import ItemFilter
from genrec.decoding.scorer import State
from genrec.decoding.torch_scorer import TorchScorer
from genrec.decoding.trie import CodeTrie
from genrec.decoding.vocabulary import SidVocabulary
from genrec.inference.similar import SimilarItems
from genrec.ranking.config import RankingConfig
from genrec.ranking.cooccurrence import Cooccurrence
from genrec.ranking.dense_head import DenseHead
from genrec.ranking.ranker import Ranker
from genrec.semtok.aligners.base import FrozenTable
from genrec.semtok.folders import to_json, write_atomic
from genrec.semtok.vectors import unit_rows
from genrec.sequential.base import SequentialModel
from genrec.sequential.config import SasRecConfig
from genrec.sequential.sasrec import SasRecBackbone

SIZES, WIDTH, WIDE, LENGTH, LAST, BEAMS, K = (256, 256, 256), 64, 256, 20, 3, 20, 10
MIXES = {"dense": (1.0, 0.0, 0.0), "fused": (0.5, 0.3, 0.3), "counts": (1.0, 0.6, 0.0)}  # w, u and s


@dataclass(frozen=True)
class World:
    """A catalogue of N items, and people.

    Attributes:
        codes: int32 [N, 3].
        histories: B of `LENGTH` items.
        counts: of other people's histories.
    """

    codes: NDArray[np.int32]
    histories: Sequences
    counts: Cooccurrence

    @classmethod
    def made(cls, n_items: int, users: int) -> World:
        codes = bench_trie.draw_codes(n_items, SIZES)
        rng, by_code = np.random.default_rng(0), np.argsort(codes[:, 0], kind="stable")
        begin = np.searchsorted(codes[by_code, 0], np.arange(SIZES[0] + 1))

        def draw(people: int) -> Sequences:
            first = rng.integers(SIZES[0], size=(people, 1)).repeat(LENGTH, axis=1)
            width = begin[first + 1] - begin[first]
            near = by_code[begin[first] + (width * rng.random(first.shape) ** 3).astype(np.int64)]
            other = rng.integers(n_items, size=first.shape)
            return Sequences.from_lists(np.where(rng.random(first.shape) < 0.8, near, other))

        return cls(codes, draw(users), Cooccurrence.fit(draw(n_items // 5), n_items))

    def vectors(self, tables: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        """The vectors [N, width] of items whose codes say most of what they are."""
        shape = (len(self.codes), tables[0].shape[1])
        noise = np.random.default_rng(shape[1]).standard_normal(shape, dtype=np.float32)
        return 0.5 * noise + sum(table[codes] for table, codes in zip(tables, self.codes.T, strict=True))


def code_vectors(width: int) -> list[NDArray[np.float32]]:
    """A vector [256, width] a code, shorter from level to level."""
    rng = np.random.default_rng(width)
    return [0.7**level * rng.standard_normal((size, width), dtype=np.float32) for level, size in enumerate(SIZES)]


class Reading(TorchScorer):
    """An engine whose last hidden state is the mean of the last items' code vectors, and noise of the same length."""

    tables: Tensor | None = None

    def start(self, prompts: Sequence[Sequence[int]]) -> State:
        state = super().start(prompts)
        if self.tables is None:  # while the engine proves itself
            return state
        ends = torch.tensor([list(prompt[-3 * LAST :]) for prompt in prompts])
        asked = self.tables[ends - 1].sum(dim=1) / LAST
        noise = torch.nn.functional.normalize(state.hidden, dim=1)
        state.hidden = asked + asked.norm(dim=1, keepdim=True) * noise
        return state


def make_ranker(world: World) -> Ranker:
    """Every component scorer, in its usual form."""
    torch.manual_seed(0)
    n, tables = len(world.codes), code_vectors(WIDTH)
    vocabulary = SidVocabulary(tuple(np.arange(1 + 256 * level, 257 + 256 * level) for level in range(3)), 0)
    shape = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Qwen3Config(vocab_size=1 + sum(SIZES), num_key_value_heads=2, head_dim=WIDTH // 2, **shape)
    scorer = Reading(Qwen3ForCausalLM(config), vocabulary)
    scorer.tables = torch.from_numpy(np.concatenate(tables)) / WIDTH**0.5
    known = torch.ones(n, dtype=torch.bool)
    head = DenseHead(WIDTH, WIDTH, torch.from_numpy(world.codes), SIZES, torch.zeros(n, 1), known).eval()
    with torch.no_grad():
        for vectors, table in zip(head.code_vectors, tables, strict=True):
            vectors.copy_(torch.from_numpy(table) / WIDTH**0.5)
        head.identity.normal_(0, 0.5 / WIDTH**0.5)
        head.query.weight.copy_(10 * torch.eye(WIDTH))
    read = torch.from_numpy(world.vectors(tables))
    recommender = SequentialModel(FrozenTable(read, read / 8), SasRecBackbone(SasRecConfig(width=WIDTH, layers=1)))
    trie, settings = CodeTrie(world.codes, SIZES), RankingConfig(beams=BEAMS)
    return Ranker(scorer, trie, vocabulary, world.codes, head, settings, world.counts, recommender.eval())


Lists = list[NDArray[np.int32]]
Way = Callable[[], Lists]


def compared(name: str, n_items: int, exact: Way, approximate: Way, users: int, rounds: int) -> dict[str, float]:
    """Print and return recall@10 of the approximate way, processor milliseconds a user of both, and their ratio."""
    seconds: dict[str, list[float]] = {"exact": [], "approximate": []}
    lists: dict[str, Lists] = {}
    for _ in range(rounds):
        for way, call in (("exact", exact), ("approximate", approximate)):
            started = time.process_time()
            lists[way] = call()
            seconds[way].append((time.process_time() - started) / users)
    recall = float(np.mean([np.isin(a, b).mean() for a, b in zip(lists["exact"], lists["approximate"], strict=True)]))
    ratio = statistics.median(a / b for a, b in zip(seconds["exact"], seconds["approximate"], strict=True))
    slow, fast = (statistics.median(seconds[way]) * 1e3 for way in ("exact", "approximate"))
    print(f"{n_items:10,} {name:>8} {recall:10.4f} {slow:10.2f} {fast:12.2f} {ratio:7.1f}", flush=True)
    figures = {"recall": recall, "exact_ms": slow, "approximate_ms": fast, "ratio": ratio}
    return {f"{name}_{what}_{n_items}": value for what, value in figures.items()}


def timed_build(make: Callable[[], Any], what: str) -> tuple[Any, float]:
    """What is made and the processor seconds that it takes."""
    started = time.process_time()
    made = make()
    seconds = time.process_time() - started
    print(f"{what}: {seconds:.1f} s", flush=True)
    return made, seconds


def measure_similar(world: World, rounds: int) -> dict[str, float]:
    """`similar` of as many items as there are users."""
    n, trie = len(world.codes), CodeTrie(world.codes, SIZES)
    vectors = unit_rows(world.vectors(code_vectors(WIDE)))
    exact = SimilarItems(vectors, approximate=False)
    indexed, seconds = timed_build(lambda: SimilarItems(vectors, approximate=True), f"{n:10,}  similar, building")
    items, everything = world.histories.values[::LENGTH], ItemFilter(trie)

    def way(similar: SimilarItems) -> Way:
        return lambda: [similar.best(int(row), K, everything)[0] for row in items]

    return {f"similar_build_s_{n}": seconds} | compared("similar", n, way(exact), way(indexed), len(items), rounds)


def measure_rankings(world: World, rounds: int) -> dict[str, float]:
    """The dense head and two fusions."""
    n, ranker, indexed = len(world.codes), make_ranker(world), make_ranker(world)
    filters = [ItemFilter(ranker.trie).deny(history) for history in world.histories]
    _, seconds = timed_build(indexed.use_candidates, f"{n:10,}  rankings, building")
    figures = {f"rankings_build_s_{n}": seconds}

    def way(of: Ranker) -> Way:
        return lambda: list(of.rank(world.histories, k=K, filters=filters).rows)

    for name, (dense, cooccurrence, sequential) in MIXES.items():
        for of in (ranker, indexed):
            of.config = replace(
                of.config, ranking="dense" if name == "dense" else "fused", dense_weight=dense,
                cooccurrence_weight=cooccurrence, sequential_weight=sequential,
            )  # fmt: skip
        way(indexed)()  # builds what is not built yet
        figures |= compared(name, n, way(ranker), way(indexed), len(world.histories), rounds)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="100 thousand items alone")
    parser.add_argument("--users", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write figures and conditions here")
    options = parser.parse_args()
    load, figures = os.getloadavg()[0], {}
    print(f"{'items':>10} {'':>8} {'recall@10':>10} {'exact ms':>10} {'approx. ms':>12} {'ratio':>7}")
    for n_items in (100_000,) if options.quick else (100_000, 200_000, 1_000_000):
        world = World.made(n_items, options.users)
        for measure in (measure_similar, measure_rankings):
            figures |= measure(world, options.rounds)
            gc.collect()
    conditions = {
        "users": options.users, "rounds": options.rounds, "threads": torch.get_num_threads(), "cores": os.cpu_count(),
        "load_at_start": load, "torch": torch.__version__, "faiss": version("faiss-cpu"),
    }  # fmt: skip
    if options.json:
        write_atomic(options.json, to_json({"figures": figures, "conditions": conditions}))


if __name__ == "__main__":
    main()
