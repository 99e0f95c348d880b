"""Whatever reaches genrec from outside, changed at random for as long as told: no traceback, hang, crash or wrong list.

    python scripts/hostile.py --minutes 60 --seed 1            # over a small run that it fits first
    python scripts/hostile.py --minutes 5 --only tables users  # of some kinds alone

Run folders (opened, `evaluate`, `add-items`), stores, tables, settings, flags, users files and new items; the changes
are those of `tests/worlds/hostile*.py`. A case is refused in one line, or answered; what is neither is printed, with
the seed that draws it again (`--seed N --cases 1`), and the exit status is 1. The same seed gives the same cases.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from worlds.hostile import Mutation, Prober, file_changes, files_of, judged, mutate
from worlds.hostile_inputs import Inputs, probe_case, write_case
from worlds.hostile_stores import make_store, mutate_store, probe_store
from worlds.small_shop import SMALL, write_shop

from genrec.cli.main import main as genrec
from genrec.semtok.folders import MANIFEST

KINDS = ("runs", "commands", "stores", "inputs")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--cases", type=int, default=10**9, help="at most so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        search = Search(Path(scratch))
        end, counts = time.monotonic() + 60 * options.minutes, Counter[str]()
        for seed in range(options.seed, options.seed + options.cases):
            if time.monotonic() > end:
                break
            kind, outcome, wrong = search.case(seed, options.only)
            counts[f"{kind} {'wrong' if wrong else outcome}"] += 1
            if wrong:
                print(f"--seed {seed}: {wrong}", flush=True)
        search.prober.close()
    print(f"{counts.total()} cases: " + ", ".join(f"{count} {told}" for told, count in sorted(counts.items())))
    return 1 if any(told.endswith("wrong") for told in counts) else 0


class Search:
    """Draws and judges cases over the run of the tests' small shop, and over a store of two versions."""

    def __init__(self, scratch: Path) -> None:
        config = write_shop(scratch)
        if genrec(["fit", str(config), *SMALL]) != 0:
            raise SystemExit("the small run could not be fitted")
        self.run, self.into, self.prober = scratch / "run", scratch / "case", Prober()
        self.store = make_store(scratch / "store", ["a", "b"])
        self.inputs = Inputs(self.run, self.into)
        self.sound = self.prober(self.run)
        if self.sound.kind != "answered":
            raise SystemExit(f"the run itself is not sound: {self.sound.told}")
        copies = [shutil.copytree(self.store, scratch / "copy"), make_store(scratch / "older", ["a"])]
        self.served = [self.prober(copy, probe_store) for copy in copies]

    def case(self, seed: int, kinds: tuple[str, ...]) -> tuple[str, str, str | None]:
        """The kind of a seed's case, what became of it, and what is wrong with that."""
        rng = np.random.default_rng(seed)
        kind = kinds[int(rng.integers(len(kinds)))]
        shutil.rmtree(self.into, ignore_errors=True)
        if kind == "inputs":
            drawn = self.inputs.draw(seed)
            outcome = self.prober(drawn.folder, drawn.probe)
            wrong = None if outcome.kind in ("answered", "refused") else f"{drawn.told}: {outcome.kind}: {outcome.told}"
        elif kind == "stores":
            files = [str(path.relative_to(self.store)) for path in sorted(self.store.rglob("*")) if path.is_file()]
            mutation = self._mutation(self.store, [file for file in files if "lock" not in file], rng)
            outcome = self.prober(mutate_store(self.store, self.into, mutation), probe_store)
            found = [judged(mutation, outcome, sound) for sound in self.served]
            wrong = None if None in found else found[0]
        elif kind == "runs":
            mutation = self._mutation(self.run, files_of(self.run), rng)
            outcome = self.prober(mutate(self.run, self.into, mutation))
            wrong = judged(mutation, outcome, self.sound)
        else:
            mutation = self._mutation(self.run, files_of(self.run, report=True), rng)
            mutate(self.run, self.into / "run", mutation, report=True)
            new = self.into / "new.jsonl"
            new.write_text('{"item_id": "new", "title": "Blue mug"}\n')
            name = ("evaluate", "add-items")[int(rng.integers(2))]
            write_case(self.into, [name, str(self.into / "run"), *([str(new)] if name == "add-items" else [])])
            outcome = self.prober(self.into, probe_case)
            fine = outcome.kind in ("answered", "refused")
            wrong = None if fine else f"{name}: {mutation}: {outcome.kind}: {outcome.told}"
        return kind, outcome.kind, wrong

    def _mutation(self, folder: Path, files: list[str], rng: np.random.Generator) -> Mutation:
        """A change of one of some files."""
        file = files[int(rng.integers(len(files)))]
        changes = file_changes(folder / file)
        name = list(changes)[int(rng.integers(len(changes)))]
        is_part = not file.endswith(MANIFEST) and not file.startswith("state/")
        return Mutation(file, name, changes[name], sealed=bool(rng.integers(2)) and is_part)


if __name__ == "__main__":
    raise SystemExit(main())
