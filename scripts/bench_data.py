"""How long a log takes to load, and how much memory: one table of seconds and gigabytes.

    python scripts/bench_data.py            # 10 million rows of 1 million users, made in a temporary folder
    python scripts/bench_data.py --quick    # 1 million rows
    python scripts/bench_data.py --data DIR # items.jsonl and interactions.csv of a folder of yours
    python scripts/bench_data.py --json FILE

Each round loads in a process of its own; the peak is that process's, libraries included.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl

from genrec.data.interactions import Interactions
from genrec.data.splits import leave_last_out
from genrec.semtok.catalog import Catalog
from genrec.semtok.errors import InputError
from genrec.semtok.folders import to_json, write_atomic

ROUNDS = 3


def make_log(folder: Path, rows: int) -> None:
    """Write a log in random order with a long tail of items: ten events a user, 2 items for 100 events."""
    users, items = rows // 10, max(rows // 50, 1000)
    rng = np.random.default_rng(0)
    item_ids = pl.Series([f"B{i:09d}" for i in range(items)])
    popular = (items * rng.random(rows) ** 3).astype(np.int64)
    columns = {
        "user_id": pl.Series([f"A{i:012X}" for i in range(users)]).gather(rng.integers(0, users, rows)),
        "item_id": item_ids.gather(popular),
        "timestamp": rng.integers(1_300_000_000, 1_500_000_000, rows),
    }
    pl.DataFrame(columns).write_csv(folder / "interactions.csv")
    pl.DataFrame({"item_id": item_ids, "title": "Item " + item_ids}).write_ndjson(folder / "items.jsonl")


def load(folder: Path) -> dict[str, float]:
    """Load and split once: seconds of each step; processor seconds and peak memory until the log was there."""
    started = time.perf_counter()
    catalog = Catalog.from_file(folder / "items.jsonl")
    read_items = time.perf_counter()
    log = Interactions.from_file(folder / "interactions.csv", catalog)
    read_log = time.perf_counter()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    leave_last_out(log)
    split = time.perf_counter()
    return {
        "rows": len(log.times),
        "users": len(log.user_ids),
        "items": len(catalog),
        "items_s": read_items - started,
        "log_s": read_log - read_items,
        "split_s": split - read_log,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_gb": usage.ru_maxrss * 1024 / 1e9,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1 million rows")
    parser.add_argument("--data", type=Path, help="a folder with items.jsonl and interactions.csv")
    parser.add_argument("--json", type=Path, help="write figures and conditions here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.data or Path(scratch)
        # One process a task: the parent stays small, so the children's peaks are their own.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
            if options.data is None:
                pool.submit(make_log, folder, 1_000_000 if options.quick else 10_000_000).result()
            rounds = [pool.submit(load, folder).result() for _ in range(ROUNDS)]
        megabytes = (folder / "interactions.csv").stat().st_size / 1e6
    figures = {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}
    spread = {name: [min(r[name] for r in rounds), max(r[name] for r in rounds)] for name in rounds[0]}
    print(f"{'figure':10} {'median':>14} {'min':>14} {'max':>14}")
    for name, value in figures.items():
        low, high = spread[name]
        print(f"{name:10} {value:14,.2f} {low:14,.2f} {high:14,.2f}")
    conditions = {
        "cell": "given" if options.data else "quick" if options.quick else "10M rows, random order",
        "csv_megabytes": round(megabytes, 1),
        "cpus": len(os.sched_getaffinity(0)),
        "threads": pl.thread_pool_size(),
        "rounds": ROUNDS,
        "spread": spread,
        "polars": pl.__version__,
        "python": platform.python_version(),
    }
    if options.json:
        write_atomic(options.json, to_json({"figures": figures, "conditions": conditions}))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"bench_data: {error}")
