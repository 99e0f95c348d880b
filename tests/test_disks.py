"""Disks that are full, and disks that may not be written to: real ones, each a small tmpfs that the test mounts.

Where a test has no right to mount, it is skipped; `tests/test_hostile_tables.py` has the same errors made up.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest
from worlds.small_shop import SMALL, contents

from genrec.cli.main import main

Remount = Callable[[str], None]
pytestmark = pytest.mark.slow  # some twenty small fits


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[Path, Remount]]:
    """A disk of its own, and a function that mounts it anew with options such as `ro` or `size=2m`."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options: str) -> None:
        asked = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        if subprocess.run(asked, capture_output=True).returncode:
            pytest.skip("no right to mount a disk here")

    if shutil.which("mount") is None:
        pytest.skip("no mount here")
    mount("size=64m")
    try:
        yield place, lambda options: mount(f"remount,{options}")
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def leave(place: Path, free: int) -> Path:
    """Fill the disk up to so many bytes; the file to remove."""
    ballast = place / "ballast"
    facts = os.statvfs(place)
    with ballast.open("wb") as out:
        out.write(b"\0" * max(0, facts.f_bavail * facts.f_frsize - free))
    return ballast


def line_of(capfd: pytest.CaptureFixture[str], *command: str, status: tuple[int, ...] = (2,)) -> str:
    """What a command that is refused says, which is one line with no traceback above it."""
    capfd.readouterr()
    assert main(command) in status
    told = capfd.readouterr().err
    assert "Traceback" not in told
    last = told.strip().splitlines()[-1]
    assert last.startswith(f"genrec {command[0]}: ")
    return last


def new_items(folder: Path) -> Path:
    """A table of ten items more."""
    new = folder / "new.jsonl"
    new.write_text("".join(f'{{"item_id": "new{n}", "title": "Blue mug no. {n}"}}\n' for n in range(10)))
    return new


def inodes(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_ino for path in folder.rglob("*") if path.is_file()}


STAGES = ("catalog", "split", "vectors/text", "vectors/collaborative", "vectors/item", "semtok", "lm", "report", "topk")
FULL = [(stage, free) for stage in ("catalog", "vectors/text", "lm", "report", "topk") for free in (0, 10_000, 20_000)]


@pytest.mark.parametrize(("stage", "free"), [*FULL, ("catalog", 150_000), ("vectors/item", 150_000)])
def test_a_fit_on_a_full_disk_is_one_line_and_goes_on_from_there(
    stage: str, free: int, disk: tuple[Path, Remount], tiny_run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The disk is full from a stage on; what was finished stays, and with room the run ends in the usual bytes."""
    run = disk[0] / "run"
    for name in STAGES[: STAGES.index(stage)]:
        shutil.copytree(tiny_run / name, run / name)
    command = ["fit", str(tiny_run.parent / "my.yaml"), *SMALL, f"--run={run}", f"--reuse={tiny_run}"]
    finished, ballast = inodes(run), leave(disk[0], free)
    told = line_of(capfd, *command, status=(1, 2))  # 1 where some shards of the lists are finished
    assert "No space left on device" in told
    assert finished.items() <= inodes(run).items()
    ballast.unlink()
    assert main(command) == 0
    assert contents(run) == contents(tiny_run)


def test_training_on_a_full_disk_goes_on_from_its_last_checkpoint(
    disk: tuple[Path, Remount], tiny_run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = disk[0] / "run"
    for name in STAGES[:3]:
        shutil.copytree(tiny_run / name, run / name)
    command = ["fit", str(tiny_run.parent / "my.yaml"), *SMALL, f"--run={run}"]
    for free in (30_000, 200_000, 500_000):
        ballast = leave(disk[0], free)
        assert "No space left on device" in line_of(capfd, *command)
        ballast.unlink()
    assert main(command) == 0
    assert contents(run) == contents(tiny_run)


@pytest.mark.parametrize("free", [0, 8_000, 40_000])
def test_added_items_on_a_full_disk_are_none_and_later_all(
    free: int, disk: tuple[Path, Remount], tiny_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for place in (disk[0], tmp_path):
        shutil.copytree(tiny_run, place / "run")
    new = new_items(tmp_path)
    before, ballast = contents(disk[0] / "run"), leave(disk[0], free)
    assert "No space left on device" in line_of(capfd, "add-items", str(disk[0] / "run"), str(new))
    assert before.items() <= contents(disk[0] / "run").items()
    ballast.unlink()
    for place in (disk[0], tmp_path):
        assert main(["add-items", str(place / "run"), str(new)]) == 0
    assert contents(disk[0] / "run") == contents(tmp_path / "run")


@pytest.mark.parametrize("free", [0, 40_000])
def test_a_store_on_a_full_disk_serves_what_it_had(
    free: int, disk: tuple[Path, Remount], tiny_run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    place = disk[0] / "store"
    assert main(["store", "load", str(place), str(tiny_run / "topk")]) == 0
    ballast = leave(disk[0], free)
    assert "No space left on device" in line_of(capfd, "store", "load", str(place), str(tiny_run / "topk"))
    assert main(["store", "info", str(place)]) == 0
    assert '"version": "v000001"' in capfd.readouterr().out
    ballast.unlink()
    assert main(["store", "load", str(place), str(tiny_run / "topk")]) == 0


def test_a_run_that_may_not_be_written_to_is_read_and_otherwise_refused_in_one_line(
    disk: tuple[Path, Remount], tiny_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    place, mount = disk
    run, config = place / "run", str(tiny_run.parent / "my.yaml")
    shutil.copytree(tiny_run, run)
    shutil.copytree(tiny_run, place / "unfinished", ignore=shutil.ignore_patterns("report", "topk"))
    assert main(["store", "load", str(place / "store"), str(tiny_run / "topk")]) == 0
    new = new_items(tmp_path)
    mount("ro")
    item = pl.read_parquet(tiny_run / "catalog/catalog.parquet")["item_id"][0]
    monkeypatch.setattr("sys.stdin", io.StringIO("a mug\n/quit\n"))
    monkeypatch.setattr("genrec.inference.serve.server._run", lambda server: None)  # it would serve until it is stopped
    read = [
        ["inspect", str(run), item], ["chat", str(run)], ["evaluate", str(run)],
        ["recommend", str(run), "--k=3", f"--out={tmp_path / 'out'}"],
        ["store", "load", str(tmp_path / "store"), str(run / "topk")],
        ["serve", str(run), f"--store={tmp_path / 'store'}"],
    ]  # fmt: skip
    for command in read:
        assert main(command) == 0, (command, capfd.readouterr().err)
    assert (tmp_path / "out/log.jsonl").is_file()
    refused = [
        ["fit", config, *SMALL, f"--run={run}", "--seed=1"], ["fit", config, *SMALL, f"--run={place / 'new'}"],
        ["fit", config, *SMALL, f"--run={place / 'unfinished'}"], ["evaluate", str(place / "unfinished")],
        ["recommend", str(run), "--k=5"],
        ["recommend", str(run), "--k=3", "--restart"], ["recommend", str(run), f"--out={place / 'out'}"],
        ["add-items", str(run), str(new)], ["serve", str(run)],
        ["store", "load", str(place / "store"), str(run / "topk")], ["store", "info", str(place / "store")],
        ["store", "rollback", str(place / "store")],
        ["import", "movielens-100k", f"--folder={tmp_path}", f"--out={place / 'new'}"],
    ]  # fmt: skip
    for command in refused:
        told = line_of(capfd, *command)
        assert "Read-only file system" in told or command[0] == "import", (command, told)
