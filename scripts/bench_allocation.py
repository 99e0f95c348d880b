"""What fused lists lose and save where the language model is asked for a share of them, by length of history.

    OMP_NUM_THREADS=1 python scripts/bench_allocation.py --run runs/scientific
    OMP_NUM_THREADS=1 python scripts/bench_allocation.py --run runs/scientific --shares 0.6 0.3 --quick --json FILE

Share 1 asks it for every list, share 0 for none: the list of the aligned recommender and co-occurrence. In between it
is asked where these two are uncertain (`genrec.ranking.allocation`); what is uncertain is chosen on validation cases
for each of the shares, as `genrec fit --ranking.language_model_share` chooses it. `random` asks for as many lists as
the share beside it, drawn by seed: what uncertainty is worth.

Cases are drawn from the test split with a seed; items of the history are left out. Batches are of one group of
histories; all shares take turns over each. Times are processor times of the whole process, all threads; ratios are
medians over batches.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genrec.data.cases import Cases
from genrec.evaluation.metrics import ndcg, paired_interval, rank_of_target, recall
from genrec.evaluation.seeds import markdown
from genrec.evaluation.tables import padded
from genrec.inference.recommender import Recommender
from genrec.ranking.allocation import choose_allocation
from genrec.ranking.config import RankingConfig
from genrec.run import Run
from genrec.semtok.errors import InputError
from genrec.semtok.folders import to_json, write_atomic

K, BATCH = 10, 250
GROUPS = {"up to 5": (0, 5), "6 to 10": (6, 10), "more than 10": (11, 1 << 30)}
CHOSEN_ON = 8000  # validation cases, as `genrec fit` takes by default


@dataclass
class Measured:
    """One share: whether a case asks, ranks of the targets [C] (-1: not yet), and seconds a list by batch."""

    config: RankingConfig
    ranks: NDArray[np.int64]
    asked: NDArray[np.bool_]
    seconds: dict[str, list[float]] = field(default_factory=lambda: {group: [] for group in GROUPS})

    def take_turn(self, recommender: Recommender, cases: Cases, group: str, places: NDArray[np.int64]) -> None:
        """One batch of cases."""
        recommender.ranker.config = self.config
        batch = cases.take(places)
        began = time.process_time()
        found = recommender.recommend_rows(batch.histories, k=K, ranking="fused")
        self.seconds[group].append((time.process_time() - began) / len(places))
        self.ranks[places] = rank_of_target(padded(found.rows, K), batch.targets)


def measure(recommender: Recommender, cases: Cases, configs: dict[float, RankingConfig]) -> dict[float, Measured]:
    """Every share over all of the cases."""
    ranker, lengths = recommender.ranker, cases.histories.lengths
    measured = {}
    for share, config in configs.items():
        asked = np.full(len(cases), share == 1)
        if 0 < share < 1:
            assert config.language_model_entropy is not None
            asked = ranker.entropies(cases.histories, config.certain_weights) > config.language_model_entropy
        measured[share] = Measured(config, np.full(len(cases), -1, dtype=np.int64), asked)
        ranker.config = config
        recommender.recommend_rows(cases.histories.take(np.arange(5)), k=K)  # what is made once, is made
    for group, (least, most) in GROUPS.items():
        inside = np.flatnonzero((lengths >= least) & (lengths <= most))
        for begin in range(0, len(inside), BATCH):
            for one in measured.values():
                one.take_turn(recommender, cases, group, inside[begin : begin + BATCH])
    return measured


def table(
    measured: dict[float, Measured], lengths: NDArray[np.int64], seed: int
) -> tuple[list[list[str]], dict[str, float]]:
    """Rows of the table, and its figures."""
    lines: list[list[str]] = []
    figures: dict[str, float] = {}
    everybody, nobody = measured[1.0], measured[0.0]
    for group, (least, most) in {"all": (0, 1 << 30), **GROUPS}.items():
        inside, names = (lengths >= least) & (lengths <= most), list(GROUPS) if group == "all" else [group]
        if not inside.any():
            continue
        whole = [each for name in names for each in everybody.seconds[name]]
        for share, one in measured.items():
            seconds = [each for name in names for each in one.seconds[name]]
            ratio = statistics.median(ours / theirs for ours, theirs in zip(seconds, whole, strict=True))
            hits, gains = recall(one.ranks[inside], K), ndcg(one.ranks[inside], K)
            of_whole = recall(everybody.ranks[inside], K), ndcg(everybody.ranks[inside], K)
            draw = np.random.default_rng(seed).permutation(len(lengths)) < one.asked.sum()
            drawn = np.where(draw, everybody.ranks, nobody.ranks)[inside]
            against = [
                paired_interval(ours, theirs).signed() if share < 1 else ""
                for ours, theirs in zip((hits, gains), of_whole, strict=True)
            ]
            random = f"{recall(drawn, K).mean():.4f} / {ndcg(drawn, K).mean():.4f}" if 0 < share < 1 else ""
            asked, milliseconds = float(one.asked[inside].mean()), 1000 * statistics.median(seconds)
            figures |= {
                f"asked_{share:g}_{group}": asked, f"recall_at_{K}_{share:g}_{group}": float(hits.mean()),
                f"ndcg_at_{K}_{share:g}_{group}": float(gains.mean()),
                f"milliseconds_{share:g}_{group}": milliseconds, f"time_{share:g}_{group}": ratio,
            }  # fmt: skip
            quality = [f"{hits.mean():.4f}", against[0], f"{gains.mean():.4f}", against[1], random]
            people = [f"{group} ({inside.sum():,})", f"{share:g}", f"{asked:.2f}"]
            lines.append([*people, *quality, f"{milliseconds:.2f}", f"{ratio:.2f}"])
    return lines, figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a finished run of genrec fit with a trained aligner")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.8, 0.5, 0.2], help="between 0 and 1")
    parser.add_argument("--cases", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="1,000 cases")
    parser.add_argument("--json", type=Path, help="write figures and conditions here")
    options = parser.parse_args()
    if options.cases < 5:
        parser.error("--cases must be at least 5")
    with Run.open(options.run) as run:
        recommender, split = Recommender(run, device="cpu", retrieval="exact"), run.split()
    ranker = recommender.ranker
    whole = replace(
        ranker.config, language_model_share=1.0, language_model_entropy=None, certain_cooccurrence_weight=None
    )
    valid, configs = split.valid.sample(CHOSEN_ON, 0), {1.0: whole}
    if ranker.sequential is None:
        raise InputError(f"{options.run}: has no recommender of a trained aligner")
    for share in (*options.shares, 0.0):
        ranker.config = whole
        configs[share] = choose_allocation(
            ranker, replace(whole, language_model_share=share), valid, exclude_seen=recommender.filter_viewed
        )
    cases = split.test.sample(1000 if options.quick else options.cases, options.seed)
    lines, figures = table(measure(recommender, cases, configs), cases.histories.lengths, options.seed)
    minus = "minus share 1"
    headings = ["history", "share", "asked", f"Recall@{K}", minus, f"NDCG@{K}", minus, "random", "ms a list", "time"]
    print(f"{options.run}: {len(cases):,} test cases, {len(recommender.catalog):,} items, {whole.fusion_weights}, ")
    print(f"without the language model {configs[0.0].certain_weights}\n")
    print(markdown(headings, lines))
    if options.json:
        conditions = {
            "run": options.run.name, "run_id": recommender.run_id, "items": len(recommender.catalog),
            "cases": len(cases), "weights": list(whole.fusion_weights), "seed": options.seed,
            "certain_weights": list(configs[0.0].certain_weights), "cores": os.cpu_count(),
            "threads": os.environ.get("OMP_NUM_THREADS"), "processor": platform.machine(),
        }  # fmt: skip
        write_atomic(options.json, to_json({"figures": figures, "conditions": conditions}))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"bench_allocation: {error}")
