"""Open run folders that were tampered with, at random, for as long as told: no traceback, hang, crash or wrong list.

    python scripts/hostile.py --minutes 60 --seed 1          # over a small run that it fits first
    python scripts/hostile.py --run runs/mine --minutes 5

Each case is one change of one file, with the stage's manifest as it was or written anew; `tests/worlds/hostile.py` has
the changes. A case is refused in one line, or answered; what is neither is printed, and the exit status is 1. The same
seed gives the same cases in the same order.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from worlds.hostile import Mutation, Prober, file_changes, files_of, judged, mutate
from worlds.small_shop import SMALL, write_shop

from genrec.cli.main import main as genrec
from genrec.semtok.folders import MANIFEST


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", type=Path, help="a sound run; a small one is fitted where none is named")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        run = options.run or fitted(Path(scratch))
        return search(run, Path(scratch) / "mutated", options.minutes, options.seed)


def fitted(folder: Path) -> Path:
    """The run of the tests' small shop."""
    config = write_shop(folder)
    if genrec(["fit", str(config), *SMALL]) != 0:
        raise SystemExit("the small run could not be fitted")
    return folder / "run"


def search(run: Path, scratch: Path, minutes: float, seed: int) -> int:
    """Try cases until the time is over; the exit status."""
    prober, rng, counts = Prober(), np.random.default_rng(seed), Counter[str]()
    sound, files, end = prober(run), files_of(run), time.monotonic() + 60 * minutes
    if sound.kind != "answered":
        print(f"the run itself is not sound: {sound.told}")
        return 1
    while time.monotonic() < end:
        file = files[rng.integers(len(files))]
        changes = file_changes(run / file)
        name = list(changes)[rng.integers(len(changes))]
        mutation = Mutation(file, name, changes[name], sealed=bool(rng.integers(2)) and not file.endswith(MANIFEST))
        outcome = prober(mutate(run, scratch, mutation))
        wrong = judged(mutation, outcome, sound)
        counts["wrong" if wrong else outcome.kind] += 1
        if wrong:
            print(wrong, flush=True)
    prober.close()
    print(f"{sum(counts.values())} cases: " + ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())))
    return 1 if counts["wrong"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
