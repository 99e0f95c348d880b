"""The top-K store and the server: load, size, look-ups in process and over HTTP, and a switch of batches under load.

    python scripts/bench_serving.py            # 1 million users, K = 20
    python scripts/bench_serving.py --quick    # 100,000 users
    python scripts/bench_serving.py --json FILE

The HTTP client is h2load (Debian: nghttp2-client), compiled, one thread: 50 connections started 2 ms apart, each
sending on its own clock 10 times a second whatever the server does. A connection sends late only where an answer takes
over 100 ms, and the number of such answers is in the table.
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import os
import platform
import random
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import polars as pl

from genrec.inference.store.lmdb_store import LmdbStore
from genrec.inference.store.topk_store import StoredList
from genrec.semtok.catalog import Catalog
from genrec.semtok.folders import new_folder, to_json, write_atomic

K, ITEMS, RATE, CONNECTIONS, ROUNDS, LOOKUPS = 20, 12_101, 500, 50, 5, 200_000
ROOT = Path(__file__).resolve().parents[1]


def user_ids(users: int) -> pl.Series:
    """Ids as long as Amazon's."""
    return "A" + pl.Series(range(users)).cast(pl.String).str.zfill(13)


def make_batch(folder: Path, users: int, letter: str) -> None:
    """Lists of K different items, all named with the batch's letter, users in random order."""
    rng = np.random.default_rng(ord(letter))
    item_ids = letter + pl.Series(range(ITEMS)).cast(pl.String).str.zfill(9)
    names = user_ids(users).gather(rng.permutation(users))
    with new_folder(folder, {"letter": letter}) as scratch:
        for part, first in enumerate(range(0, users, 100_000)):
            n = min(100_000, users - first)
            # ITEMS is prime, so K steps of one size never meet the same item twice.
            rows = rng.integers(0, ITEMS, (n, 1)) + rng.integers(1, ITEMS, (n, 1)) * np.arange(K)
            scores = -np.sort(rng.random((n, K), dtype=np.float32) * 20, axis=1)
            columns = {
                "user_id": names[first : first + n],
                "item_ids": item_ids.gather((rows % ITEMS).ravel()).reshape((n, K)).arr.to_list(),
                "scores": pl.Series(scores.ravel()).reshape((n, K)).arr.to_list(),
            }
            metadata = {"run_id": f"bench-{letter}", "ranking": "fused", "index_version": letter}
            pl.DataFrame(columns).write_parquet(scratch / f"part-{part:05d}.parquet", metadata=metadata)


def make_run(folder: Path) -> None:
    """What the server wants of a run that only serves stored lists."""
    ids = tuple(f"{letter}{n:09d}" for letter in "ab" for n in range(ITEMS))
    catalog = Catalog(ids, ids, pl.DataFrame({"price": np.ones(len(ids))}), np.zeros(len(ids), dtype=bool))
    with new_folder(folder / "catalog", {"stage": "catalog"}) as sealed:
        catalog.save(sealed)


def store_command(*arguments: str) -> float:
    """Seconds that a command of `genrec store` takes, its start included."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "genrec.cli.main", "store", *arguments]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def wrong(found: StoredList | None) -> bool:
    """Whether an answer is missing or made of two batches: its items and its model name the batch."""
    if found is None or len(found.item_ids) != K:
        return True
    return {item[0] for item in found.item_ids} != {found.info.model_id[-1]}


def look_up(folder: Path, users: int, seed: int) -> dict[str, float]:
    """Warm look-ups of random users in this process: milliseconds a look-up, look-ups a second."""
    store = LmdbStore(folder)
    names = user_ids(users)
    chosen = names.gather(np.random.default_rng(seed).integers(0, users, LOOKUPS)).to_list()
    for name in names.to_list():
        store.get(name)
    get, clock, rounds, taken = store.get, time.perf_counter_ns, [], []
    for _ in range(ROUNDS):
        started = clock()
        for name in chosen:
            get(name)
        rounds.append(LOOKUPS / (clock() - started) * 1e9)
    for name in chosen:
        started = clock()
        get(name)
        taken.append(clock() - started)
    started = clock()
    for first in range(0, LOOKUPS, 100):
        store.get_many(chosen[first : first + 100])
    many = LOOKUPS / (clock() - started) * 1e9
    p50, p99 = np.percentile(taken, [50, 99]) / 1e6
    return {
        "p50_ms": float(p50),
        "p99_ms": float(p99),
        "per_second": statistics.median(rounds),
        "per_second_low": min(rounds),
        "per_second_high": max(rounds),
        "many_per_second": many,
    }


def memory_mb(pid: int, kind: str) -> float:
    """Megabytes of a process: its own ("Anonymous"), or all that is resident, mapped files too ("Rss")."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(kind)) / 1024


def read_until(folder: Path, users: int, stop: Any, results: Any) -> None:
    """Look users up until told to stop; reports how many, how many wrongly, and the versions seen."""
    store, names = LmdbStore(folder), user_ids(users).to_list()
    draw, reads, failed, versions = random.Random(0), 0, 0, set()
    while not stop.is_set():
        for _ in range(1000):
            found = store.get(names[draw.randrange(users)])
            failed += wrong(found)
            versions.add("" if found is None else found.info.version)
        reads += 1000
        time.sleep(0.02)  # leaves the server its share of two cores
    results.put((reads, failed, len(versions)))


def ask_until(port: int, users: int, stop: threading.Event, results: list[tuple[int, int]]) -> None:
    """As `read_until`, over one HTTP connection."""
    names, draw, reads, failed = user_ids(users).to_list(), random.Random(1), 0, 0
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    while not stop.is_set():
        connection.request("GET", f"/v1/users/{names[draw.randrange(users)]}/recommendations?k={K}")
        answer = connection.getresponse()
        body = json.loads(answer.read())
        letters = {item["item_id"][0] for item in body.get("items", [])}
        failed += answer.status != 200 or len(body["items"]) != K or letters != {body["model_id"][-1]}
        reads += 1
        time.sleep(0.01)
    results.append((reads, failed))


SERVE = """
import sys
from pathlib import Path
from genrec.inference.serve.server import ServeConfig, serve
serve(ServeConfig(run=Path(sys.argv[1]), store=sys.argv[2], port=int(sys.argv[3]), live=False, rate=0))
"""


@contextmanager
def server(run: Path, store: Path) -> Iterator[tuple[int, int]]:
    """A server of one worker in a process of its own: its port and its process id."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    process = subprocess.Popen([sys.executable, "-c", SERVE, str(run), str(store), str(port)], cwd=ROOT)
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(timeout=60)


def h2load(folder: Path, port: int, users: int, seconds: int) -> tuple[list[float], int]:
    """Milliseconds of each answer at RATE requests a second, and how many were not a 200."""
    draw, names = random.Random(2), user_ids(users)
    paths = [
        f"http://127.0.0.1:{port}/v1/users/{names[draw.randrange(users)]}/recommendations?k={K}" for _ in range(5000)
    ]
    (folder / "paths").write_text("\n".join(paths) + "\n")
    (folder / "log").unlink(missing_ok=True)
    command = ["h2load", "--h1", "-i", str(folder / "paths"), f"--log-file={folder / 'log'}", "-n"]
    command += [str(RATE * seconds), "-c", str(CONNECTIONS), f"--rps={RATE // CONNECTIONS}", "-r1", "--rate-period=2ms"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    rows = [line.split("\t") for line in (folder / "log").read_text().splitlines()]
    failed = RATE * seconds - sum(row[1] == "200" for row in rows)
    return [int(row[2]) / 1000 for row in rows], failed


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def switch_under_load(folder: Path, users: int, port: int, seconds: int) -> dict[str, float]:
    """Load the other batch, roll back and load again while h2load, an HTTP reader and a reader in process go on."""
    spawn = multiprocessing.get_context("spawn")
    stop, results, asked = spawn.Event(), spawn.Queue(), []
    reader = spawn.Process(target=read_until, args=(folder / "store", users, stop, results))
    reader.start()
    halt = threading.Event()
    asking = threading.Thread(target=ask_until, args=(port, users, halt, asked))
    asking.start()
    loaded: list[tuple[list[float], int]] = []
    loading = threading.Thread(target=lambda: loaded.append(h2load(folder, port, users, seconds)))
    loading.start()
    for arguments in (("load", "b"), ("rollback",), ("load", "b")):
        store_command(arguments[0], str(folder / "store"), *(str(folder / name) for name in arguments[1:]))
    switched_in_time = loading.is_alive()
    loading.join()
    halt.set()
    stop.set()
    asking.join()
    reads, failed, versions = results.get()
    reader.join()
    return {
        "swap_reads": reads + asked[0][0] + RATE * seconds,
        "swap_failed_reads": failed + asked[0][1] + loaded[0][1],
        "swap_versions_seen": versions,
        "swap_http_p99_ms": float(np.percentile(loaded[0][0], 99)),
        "swap_all_under_load": float(switched_in_time),
    }


def bench(folder: Path, users: int, seconds: int, swap_seconds: int) -> tuple[dict[str, float], dict[str, Any]]:
    """All figures, and what goes into the conditions."""
    make_batch(folder / "a", users, "a")
    make_batch(folder / "b", users, "b")
    make_run(folder / "run")
    before = os.getloadavg()[0]
    figures = {"load_seconds": store_command("load", str(folder / "store"), str(folder / "a"))}
    figures["load_peak_mb"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    version = folder / "store" / "v000001"
    figures["bytes_per_user"] = sum(path.stat().st_size for path in version.iterdir()) / users

    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(1) as pool:
        alone = pool.apply(look_up, (folder / "store", users, 0))
    with spawn.Pool(2) as pool:
        pair = pool.starmap(look_up, [(folder / "store", users, seed) for seed in (1, 2)])
    figures |= {
        "lookup_p50_ms": alone["p50_ms"],
        "lookup_p99_ms": alone["p99_ms"],
        "lookups_per_second": alone["per_second"],
        "lookups_per_second_two_processes": sum(one["per_second"] for one in pair),
        "lookups_per_second_in_hundreds": alone["many_per_second"],
    }
    with server(folder / "run", folder / "store") as (port, pid):
        h2load(folder, port, users, 2)
        started = cpu_seconds(pid)
        taken, failed = h2load(folder, port, users, seconds)
        figures |= {
            "http_p50_ms_at_500": float(np.percentile(taken, 50)),
            "http_p99_ms_at_500": float(np.percentile(taken, 99)),
            "http_failed_at_500": failed,
            "http_over_100_ms": sum(one > 100 for one in taken),
            "http_cpu_ms_per_request": (cpu_seconds(pid) - started) / len(taken) * 1000,
            "server_own_mb": memory_mb(pid, "Anonymous"),
            "server_resident_mb": memory_mb(pid, "Rss"),
        }
        figures |= switch_under_load(folder, users, port, swap_seconds)
    spread = {"lookups_per_second": [alone["per_second_low"], alone["per_second_high"]]}
    return figures, {"spread": spread, "load_average": [before, os.getloadavg()[0]]}


def main() -> int:
    """Measure, print one table, and write the figures where asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="100,000 users, under two minutes")
    parser.add_argument("--json", type=Path, help="write the figures here")
    chosen = parser.parse_args()
    if shutil.which("h2load") is None:
        sys.exit("bench_serving: h2load is not installed (Debian: nghttp2-client)")
    users, seconds, swap_seconds = (100_000, 10, 20) if chosen.quick else (1_000_000, 30, 90)
    with tempfile.TemporaryDirectory() as folder:
        figures, more = bench(Path(folder), users, seconds, swap_seconds)
    conditions = {
        "cell": "quick" if chosen.quick else "full",
        "users": users,
        "k": K,
        "items": ITEMS,
        "http": f"h2load, {RATE} requests/s on {CONNECTIONS} connections for {seconds} s, 1 worker",
        "rounds": ROUNDS,
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "lmdb": ".".join(map(str, lmdb.version())),
        **more,
    }
    for name, value in figures.items():
        print(f"{name:36} {value:>14,.4f}")
    print(json.dumps(conditions))
    if chosen.json is not None:
        write_atomic(chosen.json, to_json({"figures": figures, "conditions": conditions}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
