"""What a person sees before a fit: two screens of help, and one line on what will happen."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from genrec.cli.by_data import DataSize, settled
from genrec.cli.config import FitConfig, TextConfig, fit_class
from genrec.cli.estimate import estimated_seconds, opening_line
from genrec.cli.helps import SETTINGS
from genrec.cli.main import main
from genrec.cli.parsing import fit_parser, flags_of
from genrec.data.config import DataConfig

SCIENTIFIC = DataSize(8_317, 4_344, 58_492)
EVERYTHING = ("vectors/text", "vectors/collaborative", "vectors/item", "lm", "report")


@pytest.fixture
def config(tmp_path: Path) -> FitConfig:
    for name in ("items.csv", "log.csv"):
        (tmp_path / name).touch()
    data = DataConfig(str(tmp_path / "items.csv"), str(tmp_path / "log.csv"))
    unsettled = fit_class()(run=str(tmp_path / "run"), data=data, text=TextConfig("tfidf"))
    return settled(unsettled, SCIENTIFIC)


def test_the_help_fits_two_screens_and_names_flags_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--help"]) == 0
    told = capsys.readouterr().out
    assert len(told.splitlines()) < 50
    assert max(map(len, told.splitlines())) <= 120
    known = flags_of(fit_parser())
    for settings in SETTINGS.values():
        for flag in settings:
            assert f"--{flag}" in known
            assert f"--{flag} " in told


def test_the_whole_help_prints_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--help", "all"]) == 0
    told = capsys.readouterr().out
    assert all(flag in told for flag in flags_of(fit_parser()))


def test_the_opening_line(config: FitConfig) -> None:
    told = opening_line(config, SCIENTIFIC, EVERYTHING)
    assert told.startswith(
        "8,317 users, 4,344 items, 58,492 interactions; encoder tfidf, aligner faerec, base scratch; "
    )
    assert "about " in told
    known = replace(config, lm=replace(config.lm, base="hf/model"))
    assert "time unknown" in opening_line(known, SCIENTIFIC, EVERYTHING)


def test_only_stages_that_are_to_be_made_count(config: FitConfig) -> None:
    whole = estimated_seconds(config, SCIENTIFIC, EVERYTHING)
    parts = [estimated_seconds(config, SCIENTIFIC, [stage]) for stage in EVERYTHING]
    assert whole == pytest.approx(sum(part for part in parts if part is not None))
    assert all(part for part in parts)
    assert estimated_seconds(config, SCIENTIFIC, []) == 0
    other = replace(config, text=TextConfig("hf:model"))
    assert estimated_seconds(other, SCIENTIFIC, EVERYTHING) is None
    assert estimated_seconds(other, SCIENTIFIC, ["lm"]) == estimated_seconds(config, SCIENTIFIC, ["lm"])


def test_a_slip_is_answered_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("{data: {items: items.csv, interactions: log.csv}, run: run}")
    code = (
        "import sys; from genrec.cli.main import main\n"
        "for given in (['fit', 'mine.yaml'], ['fit', 'my.yaml'], ['fit', 'my.yaml', '--lm.epoch', '3'],\n"
        "              ['recommend', 'runs/mine'], ['recommend', 'runs/mine', '--users_', 'x']):\n"
        "    assert main(given) == 2\n"
        "print(*sorted({'torch', 'transformers', 'sklearn', 'polars'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert ended.stdout.strip() == ""
    lines = ended.stderr.strip().splitlines()
    assert [line for line in lines if line.startswith("genrec ")] == [
        "genrec fit: mine.yaml: no such configuration file; did you mean my.yaml?",
        "genrec fit: my.yaml: data.items items.csv: no such file",
        "genrec fit: no option --lm.epoch; did you mean --lm.epochs?",
        "genrec recommend: runs/mine: no such folder (there is no folder runs)",
        "genrec recommend: no option --users_; did you mean --users?",
    ]
