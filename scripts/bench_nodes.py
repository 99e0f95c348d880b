"""What node vectors cost: lists by codes alone and by the item vectors below each node, and the losses of training.

    OMP_NUM_THREADS=1 python scripts/bench_nodes.py --quick       # 10 thousand items
    OMP_NUM_THREADS=1 python scripts/bench_nodes.py               # and a million
    python scripts/bench_nodes.py --json FILE

A scratch decoder (width 128, 2 layers) with random weights, histories of 20 items of 4 codes, 256 on each level, 20
beams, a dense head of width 128. `fused` asks codes and dense head, as a list with both does; `beam` the codes alone.
Both ways take turns in every round and rank the same users; the ratio is the median over rounds. `peak` is the memory
of the process while ranking on top of what stood before: model, trie, item vectors.

`training` is the processor time, forward and backward, of a batch of 384 targets with a teacher against the whole
catalogue: the dense head's loss, that of the first codes by itself, both in one pass (`catalogue_loss`), and the other
levels.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import bench_trie
import numpy as np
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from genrec.data.sequences import Sequences
from genrec.decoding.node_scores import NodeScorer, NodeScores
from genrec.decoding.scorer import NextCodeScorer
from genrec.decoding.torch_scorer import TorchScorer
from genrec.decoding.trie import CodeTrie
from genrec.decoding.vocabulary import SidVocabulary
from genrec.ranking.dense_head import DenseHead
from genrec.ranking.ranker import Ranker, Ranking, RankingConfig
from genrec.semtok.folders import to_json, write_atomic
from genrec.training.lm.catalogue_loss import CatalogueTargets, catalogue_loss
from genrec.training.loop.losses import SoftTargets, linear_cross_entropy

SIZES = (256, 256, 256, 256)
WIDTH, CONTENT, LENGTH, BEAMS, K, TARGETS = 128, 64, 20, 20, 10, 384


def make_rankers(n_items: int) -> dict[str, Ranker]:
    """Two rankers over one random model: by codes alone, and by node vectors."""
    torch.manual_seed(0)
    codes = bench_trie.draw_codes(n_items, SIZES)
    vocabulary = SidVocabulary(tuple(np.arange(1 + 256 * level, 257 + 256 * level) for level in range(4)), 0)
    shape = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = Qwen3Config(vocab_size=1 + sum(SIZES), num_key_value_heads=2, head_dim=WIDTH // 2, **shape)
    scorer, trie = TorchScorer(Qwen3ForCausalLM(config), vocabulary), CodeTrie(codes, SIZES)
    known = torch.ones(n_items, dtype=torch.bool)
    head = DenseHead(WIDTH, WIDTH, torch.from_numpy(codes), SIZES, torch.randn(n_items, CONTENT), known).eval()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.mul_(5.0)
    nodes = NodeScores(trie, WIDTH, WIDTH).eval()
    with torch.no_grad():
        for step in nodes.steps:
            step.normal_(0.0, WIDTH**-0.5)
    settings = RankingConfig(beams=BEAMS, dense_weight=0.5, max_items=LENGTH)
    scorers: dict[str, NextCodeScorer] = {"codes": scorer, "nodes": NodeScorer(scorer, nodes, head)}
    return {name: Ranker(one, trie, vocabulary, codes, head, settings) for name, one in scorers.items()}


def measure_cell(n_items: int, users: int, rounds: int, rankings: tuple[Ranking, ...]) -> dict[str, float]:
    """Milliseconds a user, ratios and memory of one catalogue."""
    rankers = make_rankers(n_items)
    rng = np.random.default_rng(0)
    histories = Sequences.from_lists([rng.integers(n_items, size=LENGTH).tolist() for _ in range(users)])
    figures: dict[str, float] = {}
    for ranking in rankings:
        seconds: dict[str, list[float]] = {name: [] for name in rankers}
        peaks: dict[str, float] = {}
        for round_number in range(-1, rounds):  # the first warms up
            for name, ranker in rankers.items():
                bench_trie.forget_peak()
                before, started = bench_trie.megabytes("VmRSS"), time.perf_counter()
                ranker.rank(histories, k=K, ranking=ranking)
                if round_number >= 0:
                    seconds[name].append(time.perf_counter() - started)
                    peaks[name] = bench_trie.megabytes("VmHWM") - before
        ratio = statistics.median(a / b for a, b in zip(seconds["nodes"], seconds["codes"], strict=True))
        figures[f"{ranking}_nodes_over_codes_{n_items}"] = ratio
        for name in rankers:
            each = statistics.median(seconds[name]) / users * 1e3
            figures |= {f"{ranking}_{name}_ms_{n_items}": each, f"{ranking}_{name}_peak_mb_{n_items}": peaks[name]}
            print(f"{n_items:10,} {ranking:>6} {name:>6} {each:9.2f} ms a user {peaks[name]:8.0f} MB at the peak")
        print(f"{n_items:10,} {ranking:>6} nodes over codes: {ratio:.2f}")
    return figures


def measure_training(n_items: int, rounds: int) -> dict[str, float]:
    """Milliseconds of a batch's losses over one catalogue."""
    torch.manual_seed(0)
    trie = CodeTrie(bench_trie.draw_codes(n_items, SIZES), SIZES)
    nodes, rows = NodeScores(trie, WIDTH, WIDTH), torch.randint(n_items, (TARGETS,))
    query = torch.randn(TARGETS, WIDTH, requires_grad=True)
    vectors = (torch.randn(n_items, WIDTH) / WIDTH**0.5).requires_grad_()
    soft = SoftTargets(
        torch.randn(TARGETS, WIDTH), torch.randn(n_items, WIDTH) / WIDTH**0.5, torch.full((TARGETS,), 0.8)
    )
    places = nodes.position[rows]
    first = CatalogueTargets.first(nodes.codes[0], places, SIZES[0], None)
    nobody = torch.empty(0, dtype=torch.long)
    targets = CatalogueTargets(places, nodes.codes[0], first, nobody, 1.0, soft)

    def level(number: int) -> torch.Tensor:
        log_probs = nodes(query, vectors, number, nodes.nodes(number, rows))
        return -log_probs.gather(1, nodes.codes[number][places, None]).sum()

    losses: dict[str, Callable[[], torch.Tensor]] = {
        "dense": lambda: linear_cross_entropy(query, vectors, places, soft=soft),
        "first_codes": lambda: level(0),
        "both_at_once": lambda: catalogue_loss(query, vectors, targets)[0],
        "other_levels": lambda: torch.stack([level(number) for number in range(1, len(SIZES))]).sum(),
    }
    milliseconds: dict[str, list[float]] = {name: [] for name in losses}
    for round_number in range(-1, rounds):
        for name, loss in losses.items():
            started = time.process_time()
            loss().backward()
            if round_number >= 0:
                milliseconds[name].append((time.process_time() - started) * 1e3)
    apart = zip(milliseconds["dense"], milliseconds["first_codes"], milliseconds["both_at_once"], strict=True)
    ratio = statistics.median(both / (one + other) for one, other, both in apart)
    figures = {f"training_{name}_ms_{n_items}": statistics.median(each) for name, each in milliseconds.items()}
    for name, each in figures.items():
        print(f"{name:>34} {each:9.1f} ms")
    print(f"{n_items:10,} training: both at once over apart: {ratio:.2f}")
    return {**figures, f"training_at_once_over_apart_{n_items}": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="10 thousand items alone")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write figures and conditions here")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    figures = measure_cell(10_000, 96, options.rounds, ("fused", "beam")) | measure_training(10_000, options.rounds)
    if not options.quick:
        figures |= measure_cell(1_000_000, 16, options.rounds, ("fused", "beam"))
    cell = f"width {WIDTH}, 2 layers, 4 levels of 256 codes, histories of {LENGTH}, {BEAMS} beams"
    conditions = {
        "cell": cell, "rounds": options.rounds, "threads": torch.get_num_threads(), "cores": os.cpu_count(),
        "load_at_start": load, "torch": torch.__version__,
    }  # fmt: skip
    if options.json:
        write_atomic(options.json, to_json({"figures": figures, "conditions": conditions}))


if __name__ == "__main__":
    main()
