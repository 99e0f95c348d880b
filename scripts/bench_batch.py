"""What the batch job itself costs beside the model: users a processor second, and memory at two sizes.

    python scripts/bench_batch.py            # 100 thousand and 1 million users with 50 items each, a million items
    python scripts/bench_batch.py --quick    # 20 thousand and 100 thousand users
    python scripts/bench_batch.py --json FILE

The lists are made from random numbers, so what is timed is reading and checking the users, handing out the shards, and
writing the files. Each size has a process of its own; the peak is that process's, libraries and item table included.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import pickle
import platform
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl

from genrec.data.sequences import Sequences
from genrec.inference.batch.job import BatchJob, cut, in_process, write_shards
from genrec.inference.batch.users import FileUsers
from genrec.recommendations import RankedRows
from genrec.semtok.catalog import Catalog
from genrec.semtok.folders import to_json, write_atomic

N_ITEMS, HISTORY, K, SHARD = 1_000_000, 50, 10, 4096


def items() -> Catalog:
    ids = tuple(f"B{i:09d}" for i in range(N_ITEMS))
    return Catalog(ids, ids, pl.DataFrame(), np.zeros(N_ITEMS, dtype=np.bool_))


def write_users(path: Path, n_users: int) -> None:
    """A JSONL file of random histories."""
    rng = np.random.default_rng(0)
    with open(path, "w", encoding="utf-8") as lines:
        for user in range(n_users):
            history = [f"B{i:09d}" for i in rng.integers(N_ITEMS, size=HISTORY)]
            lines.write(json.dumps({"user_id": f"A{user:012X}", "history": history}) + "\n")


def random_lists(histories: Sequences) -> RankedRows:
    """Ten random items for everybody."""
    n = len(histories)
    rng = np.random.default_rng(n)
    rows = Sequences(rng.integers(N_ITEMS, size=n * K).astype(np.int32), np.arange(n + 1) * K)
    return RankedRows(rows, rng.random(n * K).astype(np.float32), (None,) * n)


def measure(n_users: int) -> dict[str, float]:
    """One job in this process: users a processor second of each part, peak memory, bytes written a user."""
    catalog = items()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_users(folder / "users.jsonl", n_users)
        started = time.process_time()
        users = FileUsers(folder / "users.jsonl", catalog)
        checked = time.process_time()
        job = BatchJob(run_id="bench", ranking="random", index_version="none", k=K, shard_size=SHARD)
        log = folder / "log.jsonl"
        write_shards(in_process(random_lists), users, folder / "topk", job=job, item_ids=catalog.item_ids, log=log)
        done = time.process_time()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
        written = sum(path.stat().st_size for path in folder.glob("topk/*.parquet"))
        shard = next(cut(users, SHARD))
    began = time.process_time()
    pickle.loads(pickle.dumps(shard.histories, protocol=5))
    pickle.loads(pickle.dumps(random_lists(shard.histories), protocol=5))
    moved = time.process_time() - began
    return {
        "users": n_users,
        "check_users_per_s": n_users / (checked - started),
        "job_users_per_s": n_users / (done - checked),
        "pickle_users_per_s": SHARD / moved,
        "peak_gb": peak,
        "bytes_per_user": written / n_users,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20 and 100 thousand users")
    parser.add_argument("--json", type=Path, help="write figures and conditions here")
    options = parser.parse_args()
    sizes = (20_000, 100_000) if options.quick else (100_000, 1_000_000)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        rows = list(pool.map(measure, sizes))
    print("    users   check u/s     job u/s  pickle u/s  peak GB  bytes/user")
    for row in rows:
        print(
            f"{row['users']:9,} {row['check_users_per_s']:11,.0f} {row['job_users_per_s']:11,.0f}"
            f" {row['pickle_users_per_s']:11,.0f} {row['peak_gb']:8.2f} {row['bytes_per_user']:11.1f}"
        )
    if options.json:
        figures = {f"batch_{name}": value for name, value in rows[-1].items()}
        figures["batch_memory_large_over_small"] = rows[-1]["peak_gb"] / rows[0]["peak_gb"]
        conditions = {"sizes": sizes, "items": N_ITEMS, "history": HISTORY, "k": K, "cores": os.cpu_count()}
        conditions |= {"processor": platform.machine(), "python": platform.python_version(), "polars": pl.__version__}
        write_atomic(options.json, to_json({"figures": figures, "conditions": conditions}))


if __name__ == "__main__":
    main()
