"""`genrec evaluate` and `inspect`: a finished run's report, read alone or over seeds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from worlds.small_shop import SMALL, contents

from genrec import Recommender
from genrec.cli.main import main
from genrec.evaluation.card import CardFacts, model_card
from genrec.run import Run
from genrec.semtok.folders import read_json


@pytest.fixture
def run(tiny_run: Path) -> Path:
    return tiny_run


def test_the_report_has_baselines_and_every_ranking(run: Path) -> None:
    rows = read_json(run / "report/metrics.json")
    ours = {"genrec beam", "genrec dense", "genrec beam and dense", "genrec fused (default)"}
    baselines = {"Popularity", "Markov", "ItemKnn", "Random", "ContentKnn", "SASRec", "SASRec + co-occurrence"}
    baselines |= {"lrurec, aligned", "lrurec, aligned + co-occurrence"}
    assert {row["model"] for row in rows if row["split"] == "test"} == ours | baselines
    assert {"all", "head", "tail", "cold"} <= {row["slice"] for row in rows}
    assert "<html" in (run / "report/report.html").read_text()


def test_evaluate_reads_nothing_outside_the_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Raw tables may be gone or grown; an unfinished run is named, and left as it is."""
    copy = tmp_path / "moved"
    shutil.copytree(run, copy)
    settings = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(settings.replace(str(run.parent), str(tmp_path / "gone")))
    shutil.rmtree(copy / "report")
    assert main(["evaluate", str(copy)]) == 0
    assert read_json(copy / "report/metrics.json") == read_json(run / "report/metrics.json")
    manifest = read_json(copy / "semtok/manifest.json")
    manifest["files"]["quality.json"]["sha256"] = "of a later fit that was interrupted"
    (copy / "semtok/manifest.json").write_text(json.dumps(manifest))
    (copy / "lm").rename(copy / "kept")
    capsys.readouterr()
    assert main(["evaluate", str(copy)]) == 2
    assert "lm: no such folder; genrec fit finishes the run" in capsys.readouterr().err
    (copy / "kept").rename(copy / "lm")
    before = contents(copy)
    assert main(["evaluate", str(copy)]) == 2
    assert "lm was made of another semtok; genrec fit finishes the run" in capsys.readouterr().err
    assert contents(copy) == before


def test_of_a_large_catalogue_some_cases_are_ranked(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "report")
    opened = Run(copy)
    n_cases, n_items = len(opened.split().test), opened.fitted_items
    monkeypatch.setattr("genrec.evaluation.tables._TESTED_CELLS", 9 * n_items + 1)
    assert main(["evaluate", str(copy)]) == 0
    assert {row["n"] for row in read_json(copy / "report/metrics.json") if row["slice"] == "all"} == {9}
    assert f"9, drawn by seed, of {n_cases} test cases" in (copy / "report/report.html").read_text()
    assert {len(ranks) for ranks in Run(copy).ranks().values()} == {9}
    assert f"{n_cases} test cases, of which 9, drawn by seed, were ranked." in model_card(Run(copy), CardFacts("shop"))


def test_inspect_and_evaluate(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    item = Recommender.from_pretrained(run).catalog.item_ids[3]
    assert main(["inspect", str(run), item]) == 0
    assert item in capsys.readouterr().out
    assert main(["inspect", str(run)]) == 0
    said = capsys.readouterr().out
    assert "collision rate after" in said
    assert "0: one item an ID" in said
    assert "Bad: " in said or "Nothing is wrong with them." in said
    assert main(["evaluate", str(run)]) == 0
    rows = read_json(run / "report/metrics.json")
    gap = next(
        row for row in rows if row["metric"] == "recall_minus_SASRec" and row["k"] == 10 and "default" in row["model"]
    )
    assert f"| SASRec | {gap['value']:+.4f} [{gap['low']:+.4f}, {gap['high']:+.4f}]" in capsys.readouterr().out


def test_evaluate_over_seeds(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """One table of two runs: means of their figures, and a paired difference that is the difference of the means."""
    config = run.parent / "my.yaml"
    again = tmp_path / "again"
    assert main(["fit", str(config), *SMALL, f"--run={again}", "--seed=1"]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(run), str(again)]) == 0
    figures, differences, costs = (
        {line.split(" | ")[0].strip("| "): line for line in part.splitlines()}
        for part in capsys.readouterr().out.split("\n\n")
    )
    both = [read_json(one / "report/metrics.json") for one in (run, again)]

    def mean(model: str) -> float:
        wanted = {"split": "test", "slice": "all", "metric": "recall", "k": 10}
        found = [
            row["value"] for rows in both for row in rows if row["model"] == model and wanted.items() <= row.items()
        ]
        assert len(found) == 2
        return float(np.mean(found))

    assert f"| {mean('SASRec'):.4f} ±" in figures["SASRec"]
    assert f"| {mean('genrec beam'):.4f} ±" in figures["genrec beam"]  # which the search's diagnosis has a row of too
    assert not any("every item scored" in model for model in figures)
    assert f"| {mean('genrec fused (default)'):.4f} ±" in figures["genrec fused"]
    assert f"| {mean('genrec fused (default)') - mean('SASRec'):+.4f} [" in differences["SASRec"]
    assert "genrec fused" not in differences
    for stage in ("vectors/collaborative", "lm"):
        seconds, peak = costs[stage].strip("| ").split(" | ")[1:]
        assert float(seconds) >= 0
        assert int(peak.replace(",", "")) > 100
    (again / "log.jsonl").write_text('{"stage": "lm", "eve')  # as the disk was full
    assert main(["evaluate", str(run), str(again)]) == 0  # it costs the times of that run alone
    assert "log.jsonl: a row that was cut is left out" in caplog.text
    assert "\n| lm | " in capsys.readouterr().out


def test_evaluate_over_seeds_refuses_runs_that_do_not_belong_together(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = (run / "config.yaml").read_text()
    assert "seed: 0\nrefit: null\nreuse: null" in config
    seed_1 = config.replace("seed: 0\nrefit", "seed: 1\nrefit")
    others = {
        "its seed 0 is that of": config,
        "its lm settings are others": config.replace("seed: 0\nrefit", "seed: 1\nrefit").replace(
            "epochs: 2", "epochs: 3"
        ),
        "a refit and a run that is none": seed_1.replace("refit: null", f"refit: {run}"),
    }
    for message, text in others.items():
        (tmp_path / "config.yaml").write_text(text)
        assert main(["evaluate", str(run), str(tmp_path)]) == 2
        assert message in capsys.readouterr().err
    assert main(["evaluate", str(run), str(run)]) == 2
    assert main(["evaluate", str(run), "nowhere"]) == 2
    assert main(["evaluate"]) == 2


@pytest.mark.parametrize("text", ["", "run: runs/x\ndata: {items: a}\naligners: {}\nseeds: [0]\n", "a: [\n"])
def test_evaluate_names_what_is_no_run_of_fit(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text(text)
    assert main(["evaluate", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path / 'config.yaml'}: not " in line
