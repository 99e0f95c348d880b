"""What each ranking of a run gives and what it costs: recall and time a list, side by side.

    OMP_NUM_THREADS=1 python scripts/bench_rankings.py --run runs/scientific
    OMP_NUM_THREADS=1 python scripts/bench_rankings.py --run runs/scientific --quick --json FILE

    beam      the codes alone
    rerank    what the beam retrieved, ordered by the dense head
    dense     the dense head over the whole catalogue
    fused     codes, dense head, the aligned recommender and co-occurrence counts, with the run's weights
    estimated the same by one beam search, with an estimate for what it did not retrieve: what an exact list costs

`--dense_weight`, `--sequential_weight` and `--cooccurrence_weight` stand in for the run's.
Cases are drawn from the test split with a seed; items of the history are left out. In every round the rankings take
turns over the same batch of cases, then over single cases. Times are processor times of the whole process, all threads,
which a busy machine stretches less than the clock; ratios are medians over rounds.
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
from genrec.data.sequences import Sequences
from genrec.decoding.filters import ItemFilter
from genrec.evaluation.metrics import interval, ndcg, paired_interval, rank_of_target, recall
from genrec.evaluation.seeds import markdown
from genrec.evaluation.tables import padded
from genrec.inference.recommender import Recommender
from genrec.ranking.config import Ranking, RankingConfig
from genrec.run import Run
from genrec.semtok.errors import InputError
from genrec.semtok.folders import to_json, write_atomic

K, BATCH, ALONE = 10, 250, 5
WEIGHTS = ("dense_weight", "sequential_weight", "cooccurrence_weight")


@dataclass
class Measured:
    """One ranking: ranks of the targets and processor seconds a list, an entry a round."""

    ranking: Ranking
    config: RankingConfig
    exact: bool = True
    ranks: list[NDArray[np.int64]] = field(default_factory=list)
    in_batch: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)

    def lists(self, recommender: Recommender, histories: Sequences) -> tuple[NDArray[np.int32], float]:
        """The lists [B, K], and seconds for one of them."""
        recommender.ranker.config = self.config
        began = time.process_time()
        if self.exact:
            found = padded(recommender.recommend_rows(histories, k=K, ranking=self.ranking).rows, K)
        else:
            everything, weights = ItemFilter(recommender.trie), self.config.fusion_weights
            filters = [everything.deny(history) for history in histories]
            found = recommender.ranker.fused_lists(histories, weights=[weights], k=K, filters=filters, exact=False)[
                weights
            ]
        return found, (time.process_time() - began) / len(histories)

    def take_turn(self, recommender: Recommender, cases: Cases) -> None:
        """One round."""
        found, seconds = self.lists(recommender, cases.histories)
        self.ranks.append(rank_of_target(found, cases.targets))
        self.in_batch.append(seconds)
        each = [
            self.lists(recommender, cases.histories.take(np.array([place])))[1]
            for place in range(min(ALONE, len(cases)))
        ]
        self.alone.append(statistics.median(each))


def measure(recommender: Recommender, cases: Cases) -> dict[str, Measured]:
    """Every ranking over all of the cases."""
    config = recommender.ranker.config
    measured = {name: Measured(name, config) for name in ("beam", "rerank", "dense", "fused")}
    measured["estimated"] = Measured("fused", config, exact=False)
    for one in measured.values():
        one.lists(recommender, cases.histories.take(np.arange(min(ALONE, len(cases)))))  # what is made once, is made
    for begin in range(0, len(cases), BATCH):
        batch = cases.take(np.arange(begin, min(begin + BATCH, len(cases))))
        for one in measured.values():
            one.take_turn(recommender, batch)
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a finished run of genrec fit")
    parser.add_argument("--cases", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="500 cases")
    for name in WEIGHTS:
        parser.add_argument(f"--{name}", type=float, help="another weight than the run's")
    parser.add_argument("--json", type=Path, help="write figures and conditions here")
    options = parser.parse_args()
    if options.cases < 1:
        parser.error("--cases must be at least 1")
    with Run.open(options.run) as run:
        recommender, test = Recommender(run, device="cpu"), run.split().test
    ranker = recommender.ranker
    ranker.config = replace(
        ranker.config, **{name: value for name in WEIGHTS if (value := getattr(options, name)) is not None}
    )
    count = min(500 if options.quick else options.cases, len(test))
    measured = measure(recommender, test.take(np.random.default_rng(options.seed).choice(len(test), count, False)))

    ranks = {name: np.concatenate(one.ranks) for name, one in measured.items()}
    lines: list[list[str]] = []
    figures: dict[str, float] = {}
    for name, one in measured.items():
        hits, beam = recall(ranks[name], K), measured["beam"]
        ratio, ratio_alone = (
            statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
            for ours, theirs in ((one.in_batch, beam.in_batch), (one.alone, beam.alone))
        )
        batch_ms, alone_ms = (1000 * statistics.median(seconds) for seconds in (one.in_batch, one.alone))
        gain = paired_interval(hits, recall(ranks["beam"], K)).signed() if name != "beam" else ""
        figures |= {
            f"recall_at_{K}_{name}": interval(hits).value,
            f"ndcg_at_{K}_{name}": interval(ndcg(ranks[name], K)).value,
            f"milliseconds_{name}": batch_ms,
            f"milliseconds_alone_{name}": alone_ms,
            f"{name}_over_beam": ratio,
            f"{name}_over_beam_alone": ratio_alone,
        }
        quality = [f"{figures[f'recall_at_{K}_{name}']:.4f}", f"{figures[f'ndcg_at_{K}_{name}']:.4f}", gain]
        lines.append([name, *quality, f"{batch_ms:.2f}", f"{ratio:.2f}", f"{alone_ms:.1f}", f"{ratio_alone:.2f}"])
    headings = ["ranking", f"Recall@{K}", f"NDCG@{K}", "Recall minus beam", f"ms a list, batches of {BATCH}"]
    print(f"{options.run}: {count:,} test cases, {len(recommender.catalog):,} items\n")
    print(markdown([*headings, "over beam", "ms a list alone", "over beam"], lines))
    if options.json:
        conditions = {
            "run": options.run.name, "run_id": recommender.run_id, "items": len(recommender.catalog), "cases": count,
            "beams": ranker.config.beams,
            "weights": list(ranker.config.fusion_weights), "seed": options.seed, "cores": os.cpu_count(),
            "threads": os.environ.get("OMP_NUM_THREADS"), "processor": platform.machine(),
        }  # fmt: skip
        write_atomic(options.json, to_json({"figures": figures, "conditions": conditions}))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"bench_rankings: {error}")
