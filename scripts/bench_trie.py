"""Build time, memory and step time of the code trie, from 10 thousand to 10 million items.

    python scripts/bench_trie.py            # 10 thousand, 100 thousand, 1 million, 10 million items
    python scripts/bench_trie.py --quick    # without the 100 thousand, fewer rounds
    python scripts/bench_trie.py --json FILE

Items are random sequences of 4 codes, 256 on each level, in random order. `kept` is what the trie's arrays take, `peak`
what the process needed on top of the codes while it built them. A step is one level of a search with 1,600 beam rows
(32 users, 50 beams) less the model: the scores are there, so what is timed is finding the children of all beams and
choosing among them. The catalogues take turns in every round.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genrec.decoding.beam import beam_search
from genrec.decoding.trie import CodeTrie
from genrec.semtok.folders import to_json, write_atomic

SIZES = (256, 256, 256, 256)
USERS, BEAMS = 32, 50


class FixedScores:
    """A `NextCodeScorer` that costs nothing: random scores made beforehand, whatever is fed."""

    def __init__(self, sizes: tuple[int, ...], n_users: int, beams: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.sizes = sizes
        self._scores = [torch.randn(n_users, beams, size, generator=generator).log_softmax(-1) for size in sizes]

    def start(self, prompts: Sequence[Sequence[int]]) -> SimpleNamespace:
        return SimpleNamespace(log_probs=self._scores[0][:, 0], hidden=None, level=0)

    def step(self, state: SimpleNamespace, parents: Tensor, codes: Tensor) -> Tensor:
        state.level += 1
        return self._scores[state.level][:, : codes.shape[1]]


def draw_codes(n_items: int, sizes: tuple[int, ...], seed: int = 0) -> NDArray[np.int32]:
    """n different code sequences in random order."""
    rng = np.random.default_rng(seed)
    cells = int(np.prod(np.array(sizes, dtype=np.int64)))
    flat = np.unique(rng.integers(cells, size=n_items + n_items**2 // cells + 1000))
    flat = rng.permutation(flat)[:n_items]
    return np.stack(np.unravel_index(flat, sizes), axis=1).astype(np.int32)


def megabytes(field: str) -> float:
    """VmRSS (resident now) or VmHWM (the most since `forget_peak`) of this process."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024 / 1e6


def forget_peak() -> None:
    """Let VmHWM start again from what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


def measure_build(n_items: int, rounds: int) -> tuple[CodeTrie, dict[str, float]]:
    """The trie of random codes, with its seconds to build, bytes kept and megabytes at the peak."""
    codes = draw_codes(n_items, SIZES)
    seconds, peaks = [], []
    for _ in range(rounds):
        forget_peak()
        before, started = megabytes("VmRSS"), time.perf_counter()
        trie = CodeTrie(codes, SIZES)
        seconds.append(time.perf_counter() - started)
        peaks.append(megabytes("VmHWM") - before)
    return trie, {"build_s": statistics.median(seconds), "kept_mb": trie.nbytes / 1e6, "peak_mb": peaks[0]}


def measure_steps(tries: dict[int, CodeTrie], rounds: int) -> dict[int, list[float]]:
    """Seconds of one step, a list over rounds for each catalogue."""
    scorer = FixedScores(SIZES, USERS, BEAMS)
    prompts = [[0]] * USERS
    steps: dict[int, list[float]] = {n: [] for n in tries}
    for round_number in range(-2, rounds):
        for n, trie in tries.items():
            started = time.perf_counter()
            beam_search(scorer, trie, prompts, beams=BEAMS, k=BEAMS)
            if round_number >= 0:  # those before warm up
                steps[n].append((time.perf_counter() - started) / len(SIZES))
    return steps


def measure(*, quick: bool) -> tuple[dict[str, float], dict[str, object]]:
    """Print the table; figures and conditions."""
    counts = (10_000, 1_000_000, 10_000_000) if quick else (10_000, 100_000, 1_000_000, 10_000_000)
    built = {n: measure_build(n, 1 if quick and n > 1e6 else 3) for n in counts}
    steps = measure_steps({n: trie for n, (trie, _) in built.items()}, 20 if quick else 100)
    print(f"{'items':>12} {'build s':>9} {'kept MB':>9} {'peak MB':>9} {'step ms':>9}   (min to max)")
    for n, (_, row) in built.items():
        low, middle, high = (f(steps[n]) * 1e3 for f in (min, statistics.median, max))
        sizes = f"{n:12,} {row['build_s']:9.2f} {row['kept_mb']:9.1f} {row['peak_mb']:9.1f}"
        print(f"{sizes} {middle:9.2f}   ({low:.2f} to {high:.2f})")
    ratio = statistics.median(a / b for a, b in zip(steps[1_000_000], steps[10_000], strict=True))
    print(f"a step at 1 million items over one at 10 thousand: {ratio:.2f}")
    figures = {
        "trie_step_1m_over_10k": ratio,
        "trie_build_10m_seconds": built[10_000_000][1]["build_s"],
        "trie_10m_bytes": float(built[10_000_000][0].nbytes),
        "trie_10m_peak_bytes": built[10_000_000][1]["peak_mb"] * 1e6,
        "trie_step_1m_ms": statistics.median(steps[1_000_000]) * 1e3,
    }
    cell = f"4 levels of 256 codes, {USERS} users, {BEAMS} beams"
    return figures, {"trie_cell": cell, "trie_rounds": len(steps[10_000])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="without the 100 thousand, fewer rounds")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (1: a step is too small for more)")
    parser.add_argument("--json", type=Path, help="write figures and conditions here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    load = os.getloadavg()[0]
    figures, conditions = measure(quick=options.quick)
    conditions |= {
        "threads": options.threads,
        "cores": os.cpu_count(),
        "load_at_start": load,
        "torch": torch.__version__,
    }
    if options.json:
        write_atomic(options.json, to_json({"figures": figures, "conditions": conditions}))


if __name__ == "__main__":
    main()
