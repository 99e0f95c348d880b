"""The whole of `genrec fit` on a catalogue of a million items: seconds and memory of each stage, recall, decoding rate.

    python scripts/bench_scale.py --run DIR                     # 1 million items, 10 million events: hours
    python scripts/bench_scale.py --run DIR --quick             # 10 thousand items, 100 thousand events
    python scripts/bench_scale.py --quantizer                   # residual k-means alone, 1 million vectors of width 384
    python scripts/bench_scale.py --run DIR --json FILE

The shop is made: topics of 250 items with a long tail each, titles of the words of their department, topic and brand,
people of three topics who half the time go on from the item before. DIR keeps the shop and the run: repeated, the
command goes on where it was stopped. Everything after `--` goes to `genrec fit` (`-- --lm.epochs 1`).

Shapes: N items, E events, U users, D width.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import torch
import yaml
from numpy.typing import NDArray

from genrec.evaluation.seeds import stage_costs
from genrec.inference.recommender import Recommender
from genrec.run import Run
from genrec.semtok.errors import InputError
from genrec.semtok.folders import to_json, write_atomic
from genrec.semtok.quantizers.residual import default_sizes
from genrec.semtok.quantizers.residual_kmeans import ResidualKMeans, fit_codebooks
from genrec.semtok.semantic_ids import assign_ids

TOPIC, PER_USER = 250, 10  # items of a topic, events of a user
ASKED = 256  # users whose lists are timed


def make_shop(folder: Path, n_items: int, n_events: int) -> None:
    """Write items.parquet and interactions.parquet."""
    rng = np.random.default_rng(0)
    topics, users = max(4, n_items // TOPIC), n_events // PER_USER
    topic = np.arange(n_items) % topics
    title = pl.select(
        pl.concat_str(
            [
                pl.lit("dept") + pl.Series(topic // 100).cast(pl.String),
                pl.lit("topic") + pl.Series(topic).cast(pl.String),
                pl.lit("brand") + pl.Series(rng.integers(0, 20, n_items) + 20 * (topic % 500)).cast(pl.String),
                pl.lit("style") + pl.Series(rng.integers(0, 5000, n_items)).cast(pl.String),
            ],
            separator=" ",
        )
    ).to_series()
    ids = pl.Series([f"i{row}" for row in range(n_items)])
    pl.DataFrame({"item_id": ids, "title": title}).write_parquet(folder / "items.parquet")
    depth = n_items // topics  # an item is a topic and a place in it
    tastes = rng.integers(0, topics, (users, 3))
    columns, last = [], np.zeros((users, 2), dtype=np.int64)
    for step in range(PER_USER):
        fresh = np.stack([tastes[np.arange(users), rng.integers(0, 3, users)], _places(rng, users, depth)], axis=1)
        on = np.stack([last[:, 0], (last[:, 1] + rng.integers(1, 4, users)) % depth], axis=1)
        last = np.where((rng.random(users) < 0.5)[:, None] & (step > 0), on, fresh)
        columns.append(last[:, 1] * topics + last[:, 0])
    rows = np.stack(columns, axis=1).reshape(-1)
    log = {
        "user_id": pl.Series([f"u{row}" for row in range(users)]).gather(np.repeat(np.arange(users), PER_USER)),
        "item_id": ids.gather(rows),
        "timestamp": 1_600_000_000 + np.tile(np.arange(PER_USER) * 86_400, users),
    }
    pl.DataFrame(log).write_parquet(folder / "interactions.parquet")


def _places(rng: np.random.Generator, n: int, depth: int) -> NDArray[np.int64]:
    """Places in a topic, the first ones far more often."""
    return (depth * rng.random(n) ** 3).astype(np.int64)


def fit(folder: Path, arguments: list[str]) -> Run:
    """Fit, or go on fitting, in a process of its own, whose peak is thus its own."""
    tables = {name: str(folder / f"{name}.parquet") for name in ("items", "interactions")}
    settings = {"data": tables, "run": str(folder / "run"), "text": {"encoder": "tfidf"}, "topk": {"k": 0}}
    (folder / "fit.yaml").write_text(yaml.safe_dump(settings))
    subprocess.run([sys.executable, "-m", "genrec.cli.main", "fit", folder / "fit.yaml", *arguments], check=True)
    return Run(folder / "run")


def measure_run(folder: Path, n_items: int, n_events: int, arguments: list[str]) -> dict[str, float]:
    """Seconds and memory by stage, what the report says, and how many users a second are answered."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "interactions.parquet").is_file():
        make_shop(folder, n_items, n_events)
    run, figures = fit(folder, arguments), {}
    for stage, (seconds, peak) in stage_costs(run).items():
        figures |= {f"{stage} seconds": seconds, f"{stage} peak GiB": peak / 1024}
    for row in run.metrics():
        if (row["slice"], row["metric"], row["k"]) == ("all", "recall", 10):
            figures[f"Recall@10 {row['model']}"] = row["value"]
    figures |= {f"semantic IDs {name}": value for name, value in _scalars(run.quality()).items()}
    recommender, cases = Recommender(run, device="cpu"), run.split().test.sample(ASKED, 0)
    for ranking in ("beam", "fused"):
        started = time.perf_counter()
        recommender.ranker.rank(cases.histories, k=10, ranking=ranking)  # type: ignore[arg-type]
        figures[f"{ranking} users a second"] = len(cases) / (time.perf_counter() - started)
    return figures


def _scalars(quality: dict[str, object]) -> dict[str, float]:
    wanted = ("collision_rate_before", "moved_share", "reconstruction_error")
    return {name: float(value) for name, value in quality.items() if name in wanted and isinstance(value, int | float)}


def measure_quantizer(n_items: int, width: int) -> dict[str, float]:
    """Residual k-means on clustered vectors: processor seconds to fit, to encode and to make one-to-one."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(max(4, n_items // TOPIC), width)).astype(np.float32)
    vectors = centres[rng.integers(0, len(centres), n_items)]
    vectors += 0.5 * rng.normal(size=(n_items, width)).astype(np.float32)
    started = time.process_time()
    quantizer = ResidualKMeans(fit_codebooks(vectors, default_sizes(n_items), 0))
    fitted = time.process_time()
    codes = quantizer.encode(vectors)
    encoded = time.process_time()
    ids = assign_ids(quantizer, [str(row) for row in range(n_items)], vectors)
    return {
        "fit, processor seconds": fitted - started,
        "encode, processor seconds": encoded - fitted,
        "encode and make one-to-one, processor seconds": time.process_time() - encoded,
        "items moved": float(np.mean((ids.codes[:, : codes.shape[1]] != codes).any(axis=1))),
        "peak GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="folder of the shop and the run")
    parser.add_argument("--quantizer", action="store_true", help="residual k-means alone")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--width", type=int, default=384, help="of the vectors of --quantizer")
    parser.add_argument("--quick", action="store_true", help="10 thousand items, 100 thousand events")
    parser.add_argument("--json", type=Path, help="write figures and conditions here")
    parser.add_argument("fit", nargs="*", metavar="-- FLAGS", help="of genrec fit")
    options = parser.parse_args()
    n_items, n_events = (10_000, 100_000) if options.quick else (options.items, options.events)
    if options.quantizer:
        figures = measure_quantizer(n_items, options.width)
    elif options.run is None:
        raise InputError("--run DIR or --quantizer")
    else:
        figures = measure_run(options.run, n_items, n_events, options.fit)
    for name, value in figures.items():
        print(f"{name:48} {value:14,.4f}")
    conditions = {
        "items": n_items,
        "events": n_events,
        "flags": options.fit,
        "cpus": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    if options.json:
        write_atomic(options.json, to_json({"figures": figures, "conditions": conditions}))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"bench_scale: {error}")
