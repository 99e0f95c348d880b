"""`genrec fit` and what stands on a run, end to end on a shop of 60 items: real stages, model folder and lists."""

from __future__ import annotations

import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer
from worlds.small_shop import SMALL, contents, write_shop

from genrec import Recommender
from genrec.cli.main import main
from genrec.data.cases import Split
from genrec.data.sequences import Sequences
from genrec.ranking.cooccurrence import COOCCURRENCE_WEIGHTS
from genrec.run import Run, best_epoch
from genrec.semtok.folders import read_json
from genrec.training.lm.validation import SEQUENTIAL_WEIGHTS

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
bench_rankings = importlib.import_module("bench_rankings")
bench_allocation = importlib.import_module("bench_allocation")


@pytest.fixture
def run(tiny_run: Path) -> Path:
    return tiny_run


def test_every_list_is_full_unseen_and_known(run: Path) -> None:
    lists = pl.read_parquet(sorted((run / "topk").glob("part-*.parquet")))
    users = pl.read_parquet(run / "split/users.parquet")
    items = set(pl.read_ndjson(run.parent / "items.jsonl")["item_id"].cast(pl.String))
    assert lists["user_id"].to_list() == users["user_id"].to_list()
    for history, recommended, scores in zip(users["history"], lists["item_ids"], lists["scores"], strict=True):
        assert len(set(recommended)) == 5
        assert set(recommended) <= items - set(history)
        assert scores.to_list() == sorted(scores, reverse=True)


def test_what_each_ranking_gives(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark's recall is the report's, whatever batches it reads the cases in."""
    monkeypatch.setattr(bench_rankings, "BATCH", 64)
    written = str(tmp_path / "figures.json")
    monkeypatch.setattr(sys, "argv", ["bench_rankings.py", f"--run={run}", "--json", written])
    bench_rankings.main()
    figures = read_json(Path(written))["figures"]
    reported = {
        row["model"].removesuffix(" (default)").removeprefix("genrec "): row["value"]
        for row in read_json(run / "report/metrics.json")
        if (row["metric"], row["k"], row["slice"]) == ("recall", 10, "all")
    }
    for name in ("beam", "dense", "fused"):
        assert figures[f"recall_at_10_{name}"] == pytest.approx(reported[name])
    assert figures["beam_over_beam"] == 1
    assert all(figures[f"{name}_over_beam"] > 0 for name in ("rerank", "dense", "fused"))


def test_what_a_share_of_lists_with_the_language_model_gives(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The benchmark's lists that all ask it are the report's; fewer lists ask it where the share is lower."""
    monkeypatch.setattr(bench_allocation, "BATCH", 64)
    written = str(tmp_path / "figures.json")
    arguments = ["bench_allocation.py", f"--run={run}", "--shares", "0.7", "0.3", "--json", written]
    monkeypatch.setattr(sys, "argv", arguments)
    bench_allocation.main()
    figures = read_json(Path(written))["figures"]
    reported = next(
        row["value"]
        for row in read_json(run / "report/metrics.json")
        if (row["model"], row["metric"], row["k"], row["slice"]) == ("genrec fused (default)", "recall", 10, "all")
    )
    assert figures["recall_at_10_1_all"] == pytest.approx(reported)
    asked = [figures[f"asked_{share}_all"] for share in ("1", "0.7", "0.3", "0")]
    assert asked[0] == 1 > asked[1] > asked[2] > asked[3] == 0


def test_a_run_that_asks_the_language_model_for_half_of_its_lists(run: Path, tmp_path: Path) -> None:
    """The rule is in the run; the report and the batch job have the lists that the recommender gives."""
    ours, config = tmp_path / "run", str(run.parent / "my.yaml")
    options = [f"--run={ours}", f"--reuse={run}", "--ranking.language_model_share=0.5", "--topk.k=10"]
    assert main(["fit", config, *SMALL, *options]) == 0
    logged = [json.loads(line) for line in (ours / "log.jsonl").read_text().splitlines()]
    assert not [row for row in logged if row.get("stage") == "lm" and "epoch" in row]  # none trained
    assert contents(ours / "lm")["model.safetensors"] == contents(run / "lm")["model.safetensors"]
    ranking = read_json(ours / "lm/genrec.json")["ranking"]
    assert ranking["language_model_share"] == 0.5
    assert ranking["language_model_entropy"] > 0
    assert ranking["certain_cooccurrence_weight"] in COOCCURRENCE_WEIGHTS
    recommender = Recommender.from_pretrained(ours)
    test, valid = recommender.run.split().test, recommender.run.split().valid
    weights = recommender.ranker.config.certain_weights
    entropies = recommender.ranker.entropies(valid.histories, weights)
    assert (entropies > ranking["language_model_entropy"]).mean() == pytest.approx(0.5, abs=0.05)
    found = recommender.recommend_rows(test.histories, k=10)
    hits = [target in rows for rows, target in zip(found.rows, test.targets, strict=True)]
    reported = next(
        row["value"]
        for row in read_json(ours / "report/metrics.json")
        if (row["model"], row["metric"], row["k"], row["slice"]) == ("genrec fused (default)", "recall", 10, "all")
    )
    assert reported == pytest.approx(np.mean(hits))
    lists = pl.read_parquet(sorted((ours / "topk").glob("part-*.parquet")))
    again = recommender.recommend(users=lists["user_id"].to_list(), k=10)
    assert lists["item_ids"].to_list() == [[str(item.item_id) for item in one] for one in again]
    assert read_json(ours / "topk/job.json")["about"]["language_model_share"] == 0.5


def test_a_refit_trains_as_long_as_the_first_best_epoch() -> None:
    for name in ("selection", "valid_recall@10"):
        rows = [{"epoch": epoch, name: value} for epoch, value in enumerate((0.1, 0.3, 0.3, 0.2))]
        assert best_epoch(rows) == 1


def test_a_second_fit_does_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(run)
    started = [path.stat().st_mtime_ns for path in sorted(run.rglob("manifest.json"))]
    assert main(["fit", str(run.parent / "my.yaml"), *SMALL]) == 0
    assert contents(run) == before
    assert [path.stat().st_mtime_ns for path in sorted(run.rglob("manifest.json"))] == started
    assert "genrec fused" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    config = write_shop(tmp_path)
    assert main(["fit", str(config), *SMALL]) == 0
    assert contents(tmp_path / "run") == contents(run)


def test_a_refit_learns_as_long_from_validation_items_too(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, again = str(run.parent / "my.yaml"), tmp_path / "again"
    assert main(["fit", config, *SMALL, f"--run={again}", f"--refit={run}"]) == 0
    before, after = Split.load(run / "split"), Split.load(again / "split")
    assert len(after.train.values) == len(before.train.values) + len(before.valid)
    assert len(after.valid) == 0
    np.testing.assert_array_equal(after.test.targets, before.test.targets)
    for stage, name in (("vectors/collaborative", "valid_recall@10"), ("lm", "selection")):
        recalls = [row[name] for row in read_json(run / stage / "training.json")]
        rows = read_json(again / stage / "training.json")
        assert len(rows) == recalls.index(max(recalls)) + 1
        assert not any(name in row for row in rows)
    shares = [read_json(folder / "lm/genrec.json")["ranking"] for folder in (run, again)]
    assert shares[0] == shares[1]
    assert "and validation items" in (again / "report/report.html").read_text()
    capsys.readouterr()
    shutil.copytree(run / "report", tmp_path / "emptied/report")
    (tmp_path / "emptied/config.yaml").write_text("")
    for flags, message in (
        ([f"--refit={tmp_path / 'nothing'}"], "not a run of genrec fit"),
        ([f"--refit={run}", "--lm.epochs=1"], "its lm settings are others"),
        ([f"--refit={again}"], "is a refit itself"),
        ([f"--refit={tmp_path / 'emptied'}"], "not the resolved configuration of a run"),
    ):
        assert main(["fit", config, *SMALL, f"--run={tmp_path / 'other'}", *flags]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_a_run_reuses_the_stages_of_another_that_read_the_same(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As if they had been made again, to the byte; what reads something else is made here, and the other run stays."""
    before, config = contents(run), str(run.parent / "my.yaml")
    options = [config, *SMALL, "--lm.epochs=1", "--topk.k=0"]
    for name, flags in (("alone", []), ("reusing", [f"--reuse={run}"])):
        assert main(["fit", *options, f"--run={tmp_path / name / 'run'}", *flags]) == 0
    assert contents(tmp_path / "reusing/run") == contents(tmp_path / "alone/run")
    assert contents(run) == before
    rows = [json.loads(line) for line in (tmp_path / "reusing/run/log.jsonl").read_text().splitlines()]
    linked = [row["stage"] for row in rows if row.get("event") == "linked"]
    made = [row["stage"] for row in rows if row.get("event") == "done"]
    assert linked == ["catalog", "split", "vectors/text", "vectors/collaborative", "vectors/item", "semtok"]
    assert made == ["lm", "report"]
    capsys.readouterr()
    assert main(["fit", config, *SMALL, f"--run={tmp_path / 'other'}", f"--reuse={tmp_path}"]) == 2
    assert "not a run of genrec fit" in capsys.readouterr().err


def test_a_baseline_is_trained_where_it_is_asked_for_and_changes_nothing_else(run: Path, tmp_path: Path) -> None:
    """Nor is it trained again where only the report lacks it; of other data it is dropped, and the run opens."""
    ours, config = tmp_path / "run", str(run.parent / "my.yaml")
    options = [config, *(flag for flag in SMALL if flag != "--baseline=sasrec"), f"--run={ours}"]
    assert main(["fit", *options, f"--reuse={run}"]) == 0
    models = {row["model"] for row in read_json(ours / "report/metrics.json")}
    assert not (ours / "vectors/collaborative").exists()
    assert not any("SASRec" in model for model in models)
    assert "--baseline sasrec" in (ours / "report/report.html").read_text()
    before = contents(ours)
    assert main(["fit", *options, "--baseline=sasrec"]) == 0
    after = contents(ours)
    changed = [name for name in after if before.get(name) != after[name]]
    assert all(name.startswith(("vectors/collaborative/", "report/")) for name in changed)
    assert after == contents(run)
    assert main(["fit", *options, "--data.cold_share=0.2"]) == 0
    assert not (ours / "vectors/collaborative").exists()
    with Run.open(ours) as opened:
        assert opened.fitted_items == 60


def test_the_recommender_of_a_trained_aligner_is_a_component_scorer(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It stands in the table by itself, has a share, takes new items, and a refit keeps what was chosen."""
    ours, options = tmp_path / "run", list(SMALL)
    options += ["--aligner.backbone=lrurec", "--lrurec.width=16", "--ranking.language_model_share=0.5"]
    config = str(run.parent / "my.yaml")
    assert main(["fit", config, *options, f"--run={ours}"]) == 0
    assert "lrurec, aligned + co-occurrence" in capsys.readouterr().out
    ranking = read_json(ours / "lm/genrec.json")["ranking"]
    assert ranking["sequential_weight"] in SEQUENTIAL_WEIGHTS
    models = {row["model"] for row in read_json(ours / "report/metrics.json")}
    assert "lrurec, aligned" in models
    again = tmp_path / "again"
    assert main(["fit", config, *options, f"--run={again}", f"--refit={ours}"]) == 0
    assert read_json(again / "lm/genrec.json")["ranking"] == ranking
    file = tmp_path / "new.jsonl"
    file.write_text(json.dumps({"item_id": "new", "title": "Copper kettle"}) + "\n")
    assert main(["add-items", str(ours), str(file)]) == 0
    recommender = Recommender.from_pretrained(ours)
    recommender.ranker.config = replace(recommender.ranker.config, sequential_weight=1.0, cooccurrence_weight=0.0)
    items = recommender.catalog.item_ids
    found = recommender.recommend([[items[3], "new"], [items[3]]], k=61, filter_viewed=False)
    assert sorted(found.rows[0].tolist()) == list(range(61))
    sequence = recommender.ranker.sequential
    assert sequence is not None
    scores = sequence.score(Sequences.from_lists([[3, 60], [3]]))
    assert [rows.tolist() for rows in found.rows] == np.argsort(-scores, axis=1, kind="stable").tolist()


def test_without_a_trained_aligner_there_is_no_such_voice(run: Path, tmp_path: Path) -> None:
    options = [*SMALL, "--aligner.name=fusion", "--fusion.width=16", f"--run={tmp_path / 'run'}"]
    assert main(["fit", str(run.parent / "my.yaml"), *options]) == 0
    assert read_json(tmp_path / "run/lm/genrec.json")["ranking"]["sequential_weight"] == 0
    assert Recommender.from_pretrained(tmp_path / "run").ranker.sequential is None
    models = {row["model"] for row in read_json(tmp_path / "run/report/metrics.json")}
    assert "SASRec + co-occurrence" in models
    assert not any("aligned" in model for model in models)


def test_the_lm_folder_opens_as_it_is(run: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(run / "lm")
    tokenizer = AutoTokenizer.from_pretrained(run / "lm")
    assert model.get_input_embeddings().weight.shape[0] >= len(tokenizer)
    assert tokenizer.convert_tokens_to_ids("<a_0>") != tokenizer.unk_token_id
    settings = read_json(run / "lm/generation_config.json")
    assert not {"temperature", "top_k", "top_p"} & settings.keys()


@pytest.mark.parametrize("folder", ["split", "vectors/text", "lm", "report"])
def test_a_persons_own_folder_in_the_place_of_a_stage_is_left_alone(
    folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, own = write_shop(tmp_path), tmp_path / "run" / folder / "mywork.py"
    own.parent.mkdir(parents=True)
    own.write_text("dear to me")
    assert main(["fit", str(config), *SMALL]) == 2
    assert f"{folder}: holds something else already" in capsys.readouterr().err
    assert list(contents(tmp_path / "run")) == [f"{folder}/mywork.py"]


def test_a_persons_own_config_in_the_run_folder_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = write_shop(tmp_path).rename(tmp_path / "config.yaml")
    before = own.read_text()
    assert main(["fit", str(own), f"--run={tmp_path}", *SMALL]) == 2
    assert f"{own}: not the resolved configuration of a run" in capsys.readouterr().err
    assert own.read_text() == before


@pytest.mark.slow
def test_killed_fits_end_with_the_bytes_of_an_undisturbed_one(tmp_path: Path) -> None:
    for name in ("killed", "undisturbed"):
        (tmp_path / name).mkdir()
        write_shop(tmp_path / name)
    command = [sys.executable, "-m", "genrec.cli.main", "fit", str(tmp_path / "killed/my.yaml"), *SMALL]
    # As many threads everywhere: sums over another number of parts differ in their last bits.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    quiet: dict[str, Any] = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    rng, killed = random.Random(0), 0
    # A moment after a folder appears, finished or begun, so that the machine's speed is no matter.
    for sign in ("split", "vectors/.collaborative.new", ".semtok.new", ".lm.new", "lm", ".report.new", "topk"):
        process = subprocess.Popen(command, **quiet)
        while not (tmp_path / "killed/run" / sign).exists() and process.poll() is None:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    assert killed >= 5  # the last one or two may have come too late
    subprocess.run(command, check=True, **quiet)
    undisturbed = [str(tmp_path / "undisturbed/my.yaml") if part.endswith("my.yaml") else part for part in command]
    subprocess.run(undisturbed, check=True, **quiet)
    assert contents(tmp_path / "killed/run") == contents(tmp_path / "undisturbed/run")
