"""`scripts/ablate_lm.py` on a small shop: lines that differ in one part, fitted and set side by side."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

from genrec.cli.main import main
from genrec.data.sample_shop import make_sample_shop

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
ablate_lm = importlib.import_module("ablate_lm")

SMALL = [
    "--sasrec.width=16", "--lrurec.width=16",
    "--collaborative.epochs=1", "--aligner.training.epochs=1", "--lm.epochs=1", "--lm.width=16",
    "--lm.text_vocabulary=300", "--lm.dense_width=16", "--lm.valid_cases=50", "--topk.k=5",
]  # fmt: skip


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["ablate_lm", *arguments])
    ablate_lm.main()


def test_every_line_is_a_configuration() -> None:
    for flags in ablate_lm.LINES.values():
        assert all(flag.startswith("--") and "=" in flag for flag in flags)


def test_lines_beside_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_sample_shop(0, users=120, items=60).write(tmp_path)
    data = f"data: {{items: {tmp_path / 'items.jsonl'}, interactions: {tmp_path / 'interactions.csv'}}}"
    (tmp_path / "my.yaml").write_text(f"{data}\nrun: {tmp_path / 'run'}\n")
    assert main(["fit", str(tmp_path / "my.yaml"), *SMALL]) == 0
    capsys.readouterr()
    call(monkeypatch, str(tmp_path / "run"), "--lines", "no_teacher,no_aligner")
    head, _, whole, *lines = capsys.readouterr().out.splitlines()
    assert head.count("|") == whole.count("|")
    assert whole.startswith("| whole | ")
    assert [line.split(" | ")[0] for line in lines] == ["| no_teacher", "| no_aligner"]
    for line in lines:
        _, _, _, joined, _, gap, _ = line.strip("| ").split(" | ")
        own, ours = float(joined), float(whole.split(" | ")[3])
        assert float(gap.split()[0]) == pytest.approx(own - ours, abs=1.1e-4)
    linked = {}
    for name in ("no_teacher", "no_aligner"):
        rows = map(json.loads, (tmp_path / "run-ablations" / name / "log.jsonl").read_text().splitlines())
        linked[name] = [row["stage"] for row in rows if row.get("event") == "linked"]
    assert "semtok" in linked["no_teacher"]
    assert "vectors/item" not in linked["no_aligner"]
    call(monkeypatch, str(tmp_path / "run"), "--lines", "no_teacher")
    assert capsys.readouterr().out.splitlines()[3] == lines[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["nowhere"], "not a finished run"), (["nowhere", "--lines", "x"], "choose from")],
)
def test_bad_input_is_one_line(arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=message):
        call(monkeypatch, *arguments)
