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
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer
from worlds.small_shop import SMALL, write_shop

from genrec import Recommender
from genrec.cli.main import COMMANDS, main
from genrec.data.cases import Split
from genrec.data.sequences import Sequences
from genrec.run import Run, best_epoch
from genrec.semtok.errors import InputError
from genrec.semtok.folders import hash_file, read_json
from genrec.training.lm import stage as lm_stage
from genrec.training.lm.validation import SEQUENTIAL_WEIGHTS

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
bench_rankings = importlib.import_module("bench_rankings")


def contents(run: Path) -> dict[str, str]:
    """Every file of a run that must be the same every time, by its hash: a difference of bytes takes ages to print."""
    return {
        str(path.relative_to(run)): hash_file(path)
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name not in ("log.jsonl", ".lock", "config.yaml")
    }


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


def test_preference_goes_on_from_a_finished_model(run: Path, tmp_path: Path) -> None:
    """To the bytes of a fit that did both, but for a note of transformers that the tokenizer came from a folder."""
    config, both, after = str(run.parent / "my.yaml"), tmp_path / "both", tmp_path / "after"
    prefer = [f"--lm.preference.{one}" for one in ("method=dpo", "steps=4", "validate_every=2", "histories=8")]
    assert main(["fit", config, *SMALL, *prefer, "--topk.k=0", f"--run={both}"]) == 0
    assert main(["fit", config, *SMALL, *prefer, "--topk.k=0", f"--run={after}", f"--reuse={run}"]) == 0
    ours, theirs = (contents(one / "lm") for one in (after, both))
    assert {name for name in ours if ours[name] != theirs[name]} <= {"tokenizer_config.json", "manifest.json"}
    assert ours.keys() == theirs.keys()
    assert len(read_json(after / "lm/preference.json")["rows"]) == 3
    logged = [json.loads(line) for line in (after / "log.jsonl").read_text().splitlines()]
    assert not [row for row in logged if row["stage"] == "lm" and "epoch" in row]


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
        ([f"--refit={tmp_path / 'nothing'}"], "not a finished run"),
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


def test_the_report_has_baselines_and_every_ranking(run: Path) -> None:
    rows = read_json(run / "report/metrics.json")
    ours = {"genrec beam", "genrec dense", "genrec beam and dense", "genrec fused (default)"}
    baselines = {"Popularity", "Markov", "ItemKnn", "Random", "ContentKnn", "SASRec", "SASRec + co-occurrence"}
    baselines |= {"sasrec, aligned", "sasrec, aligned + co-occurrence"}
    assert {row["model"] for row in rows} == ours | baselines
    assert {"all", "head", "tail", "cold"} <= {row["slice"] for row in rows}
    assert "<html" in (run / "report/report.html").read_text()


def test_the_recommender_of_a_trained_aligner_is_a_voice(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It stands in the table by itself, has a share, takes new items, and a refit keeps what was chosen."""
    ours, options = tmp_path / "run", list(SMALL)
    options += ["--aligner.backbone=lrurec", "--lrurec.width=16"]
    config = str(run.parent / "my.yaml")
    assert main(["fit", config, *options, f"--run={ours}"]) == 0
    assert "lrurec, aligned + co-occurrence" in capsys.readouterr().out
    share = read_json(ours / "lm/genrec.json")["ranking"]["sequential_weight"]
    assert share in SEQUENTIAL_WEIGHTS
    models = {row["model"] for row in read_json(ours / "report/metrics.json")}
    assert "lrurec, aligned" in models
    again = tmp_path / "again"
    assert main(["fit", config, *options, f"--run={again}", f"--refit={ours}"]) == 0
    assert read_json(again / "lm/genrec.json")["ranking"]["sequential_weight"] == share
    file = tmp_path / "new.jsonl"
    file.write_text(json.dumps({"item_id": "new", "title": "Copper kettle"}) + "\n")
    assert main(["add-items", str(ours), str(file)]) == 0
    recommender = Recommender.from_pretrained(ours)
    recommender.ranker.config = replace(recommender.ranker.config, sequential_weight=1.0, cooccurrence_weight=0.0)
    items = recommender.catalog.item_ids
    found = recommender.recommend([[items[3], "new"], [items[3]]], k=61, exclude_seen=False)
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


def test_recommend_filters_search_and_similar(run: Path) -> None:
    recommender = Recommender.from_pretrained(run)
    items = recommender.catalog.item_ids
    lists = recommender.recommend([[items[0], items[1]], []], k=4, where={"price": (None, 50)}, deny=[[items[2]], []])
    prices = recommender.catalog.attributes["price"].to_numpy()
    for row, denied in zip(lists.rows, ({0, 1, 2}, set()), strict=True):
        assert len(row) == 4
        assert not denied & set(row.tolist())
        assert (prices[row] <= 50).all()
    for ranking in ("beam", "rerank", "dense"):
        assert len(recommender.recommend([[items[0]]], k=60, ranking=ranking, beams=60).rows[0]) == 59
    short = recommender.recommend([[items[0]]], k=100)
    assert len(short.rows[0]) == 59
    assert "100 were asked for" in str(short.reasons[0])
    assert len(recommender.search("coffee", 3)) == 3
    similar = recommender.similar(items[5], 3)
    assert len(similar) == 3
    assert items[5] not in dict(similar)
    with pytest.raises(InputError, match="nobody"):
        recommender.recommend([["nobody"]])


def test_add_items_moves_no_id_and_recommends_the_new(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    before = pl.read_parquet(copy / "semtok/semantic_ids.parquet")
    file = tmp_path / "new.jsonl"
    file.write_text(json.dumps({"item_id": "new1", "title": "Copper kettle", "price": 20.0}) + "\n")
    with Run(copy).locked():  # another process adds: of two that read one catalogue, one would lose its items
        assert main(["add-items", str(copy), str(file)]) == 2
    assert main(["add-items", str(copy), str(file)]) == 0
    after = pl.read_parquet(copy / "semtok/semantic_ids.parquet")
    assert after.head(len(before)).equals(before)
    recommender = Recommender.from_pretrained(copy)
    row = recommender.catalog.row("new1")
    mask = np.zeros(len(recommender.catalog), dtype=bool)
    mask[row] = True
    assert recommender.recommend([[recommender.catalog.item_ids[0]]], k=1, allowed=mask).rows[0].tolist() == [row]
    assert main(["add-items", str(copy), str(file)]) == 2


def test_a_fit_that_stopped_at_another_catalogue_takes_no_new_items(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They would go behind the IDs of other items, and fit would then refuse to lose them."""
    copy, fewer, file = tmp_path / "run", tmp_path / "fewer.jsonl", tmp_path / "new.jsonl"
    shutil.copytree(run, copy)
    fewer.write_text("".join((run.parent / "items.jsonl").read_text().splitlines(keepends=True)[:-1]))
    file.write_text(json.dumps({"item_id": "new1", "title": "Copper kettle"}) + "\n")
    assert main(["fit", str(run.parent / "my.yaml"), *SMALL, f"--run={copy}", f"--data.items={fewer}"]) == 2
    capsys.readouterr()
    assert main(["add-items", str(copy), str(file)]) == 2
    assert "was made of another catalog; genrec fit finishes the run" in capsys.readouterr().err
    assert main(["fit", str(run.parent / "my.yaml"), *SMALL, f"--run={copy}"]) == 0
    assert Recommender.from_pretrained(copy).run_id == Recommender.from_pretrained(run).run_id


def test_added_items_outlive_fit_and_evaluate(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is made again but the lists; where something would be, one line and the run as it was."""
    copy, config = tmp_path / "run", str(run.parent / "my.yaml")
    shutil.copytree(run, copy)
    for name in ("new1", "new2"):
        file = tmp_path / f"{name}.jsonl"
        file.write_text(json.dumps({"item_id": name, "title": "Copper kettle"}) + "\n")
        assert main(["add-items", str(copy), str(file)]) == 0
    before = contents(copy)
    assert main(["evaluate", str(copy)]) == 0
    assert contents(copy) == before
    assert main(["fit", config, *SMALL, f"--run={copy}"]) == 0
    after = contents(copy)
    assert {name for name in after if before.get(name) != after[name]} <= {
        name for name in after if name.startswith("topk/")
    }
    assert Recommender.from_pretrained(copy).catalog.item_ids[-2:] == ("new1", "new2")
    shutil.rmtree(copy / "report")
    assert main(["evaluate", str(copy)]) == 0  # over the items that were fitted
    assert contents(copy) == after
    shutil.copyfile(copy / "config.yaml", tmp_path / "config.yaml")
    capsys.readouterr()
    for change, stage in (("--semtok.extra_level=4", "semtok"), ("--lm.epochs=1", "lm")):
        assert main(["fit", config, *SMALL, change, f"--run={copy}"]) == 2
        assert f"{stage} is out of date, but made again the run would lose" in capsys.readouterr().err
    assert contents(copy) == after
    assert (copy / "config.yaml").read_text() == (tmp_path / "config.yaml").read_text()
    other = tmp_path / "other"
    assert main(["fit", config, *SMALL, "--topk.k=0", f"--run={other}", f"--reuse={copy}"]) == 0
    assert len(Recommender.from_pretrained(other).catalog) == 60


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


def test_inspect_and_evaluate(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    item = Recommender.from_pretrained(run).catalog.item_ids[3]
    assert main(["inspect", str(run), item]) == 0
    assert item in capsys.readouterr().out
    assert main(["inspect", str(run)]) == 0
    assert "collision rate after" in capsys.readouterr().out
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
        wanted = {"slice": "all", "metric": "recall", "k": 10}
        found = [
            row["value"] for rows in both for row in rows if row["model"] == model and wanted.items() <= row.items()
        ]
        assert len(found) == 2
        return float(np.mean(found))

    assert f"| {mean('SASRec'):.4f} ±" in figures["SASRec"]
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


def test_recommend_finds_the_lists_of_the_fit_done(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = contents(run)
    assert main(["recommend", str(run), "--k=5", "--shard_size=40"]) == 0
    assert contents(run) == before
    assert main(["recommend", str(run), "--k=5", "--shard_size=40", "--ranking=dense"]) == 2
    assert "its ranking was 'fused', now 'dense'" in capsys.readouterr().err
    assert main(["recommend", str(run), "--k=5", "--shard_size=40", "--restart"]) == 0
    assert contents(run) == before


def test_recommend_for_given_histories(run: Path, tmp_path: Path) -> None:
    items = Recommender.from_pretrained(run).catalog.item_ids
    users = tmp_path / "users.jsonl"
    users.write_text(json.dumps({"user_id": "x", "history": [items[1]]}) + "\n")
    options = ["--users", str(users), "--out", str(tmp_path / "out"), "--k", "3", "--ranking", "beam"]
    assert main(["recommend", str(run), *options, "--where", '{"price": [null, 80]}']) == 0
    assert len(pl.read_parquet(tmp_path / "out/part-00000.parquet")["item_ids"][0]) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit"], "CONFIG is missing"),
        (["fit", "none.yaml"], "none.yaml: no such configuration file"),
        (["fit", "{config}", "--lm.heads=3"], "--lm.heads 3"),
        (["fit", "{config}", "--lm.nothing=3"], "lm.nothing"),
        (["fit", "{config}", "--data.items=gone.jsonl"], "gone.jsonl"),
        (["fit", "{config}", "--data.split=given"], "--data.splits"),
        (["fit", "{config}", "--text.encoder=word2vec"], "word2vec"),
        (["fit", "{config}", "--lm.base=no/such/model", "--run={new}"], "--lm.base no/such/model"),
        (["fit", "{config}", "--run={run}/config.yaml"], "config.yaml: cannot be the folder of a run"),
        (["fit", "{config}", "--run={run}/config.yaml/below"], "below: cannot be the folder of a run"),
        (["nonsense"], "no command"),
        (["inspect", "nowhere"], "not a run folder"),
        (["inspect", "{run}", "nobody"], "nobody"),
        (["recommend", "{run}", "--run=other"], "--run=other"),
        (["recommend", "{run}", "--k=0"], "--k 0"),
        (["recommend", "{run}", "--beams=0"], "--beams 0 must be at least 1"),
        (["recommend", "{run}", "--device=gpu", "--out={new}"], "device 'gpu' is unavailable here"),
        (["recommend", "{config}"], "my.yaml/catalog: no such folder"),
        (["recommend", "{run}", "--out={config}/below"], "my.yaml: cannot be written to"),
        (["recommend", "{run}", "--where={"], "--where"),
        (["recommend", "{run}", '--where={"colour": "red"}', "--out={new}"], "colour"),
        (["recommend", "{run}", "--users=gone.csv", "--out={new}"], "gone.csv"),
        (["recommend", "{run}", "--gpus=1"], "--executor ray"),
        (["recommend", "{run}", "--executor=ray", "--gpus=-1", "--out={new}"], "must not be negative"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: Sequence[str], message: str
) -> None:
    before = contents(run)
    places = {"config": str(run.parent / "my.yaml"), "run": str(run), "new": str(tmp_path / "new")}
    filled = [a.replace("{config}", places["config"]).replace("{run}", places["run"]).replace("{new}", places["new"])
              for a in arguments]  # fmt: skip
    if filled[0] == "fit" and len(filled) > 2:
        filled += SMALL if not any(a.startswith("--lm.heads") for a in filled) else []
        if not any(a.startswith("--run") for a in filled):
            filled.append(f"--run={tmp_path / 'new'}")
    assert main(filled) == 2
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert message in last
    assert contents(run) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"\xff\xfe\x00", "not UTF-8 text"),
        (b"data: 5\n", "--data 5: a section of settings belongs here"),
        (b"%s\nlm:\n", "--lm has no value"),
        (b"%s\nlm: {tasks: [1]}\n", "--lm.tasks [1]: a section of settings belongs here"),
    ],
)
def test_a_configuration_that_is_none_is_named(
    text: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_shop(tmp_path)
    config.write_bytes(text.replace(b"%s", config.read_bytes()))
    assert main(["fit", str(config), f"--run={tmp_path / 'run'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{config}: {message}" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["", "run: runs/x\ndata: {items: a}\naligners: {}\nseeds: [0]\n", "a: [\n"])
def test_evaluate_names_what_is_no_run_of_fit(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text(text)
    assert main(["evaluate", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path / 'config.yaml'}: not " in line


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_helps(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = main([command, "--help"])
    except SystemExit as ended:
        status = int(str(ended.code))
    assert status == 0
    said = capsys.readouterr().out
    assert f"genrec {command}" in said
    assert command not in ("recommend", "serve", "chat", "import") or not {"--run", "--format"} & set(said.split())


def test_a_truncated_run_is_refused(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    weights = copy / "lm/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"model\.safetensors.*truncated"):
        Recommender.from_pretrained(copy)
    (copy / "lm/manifest.json").unlink()
    with pytest.raises(InputError, match="unfinished"):
        Recommender.from_pretrained(copy)


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


@pytest.mark.slow
def test_ray_workers_write_the_same_lists(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    lists = {"local": [], "ray": ["--executor=ray", "--workers=2", "--cpus=0.5", "--gpus=0"]}
    for name, flags in lists.items():
        assert main(["recommend", str(run), f"--out={tmp_path / name}", "--k=5", "--shard_size=40", *flags]) == 0
    assert contents(tmp_path / "local") == contents(tmp_path / "ray")


def lm_stage_alone(monkeypatch: pytest.MonkeyPatch, config: Path) -> int:
    """`python -m genrec.training.finetune --config CONFIG`; its exit status."""
    monkeypatch.setattr(sys, "argv", ["finetune", "--config", str(config)])
    with pytest.raises(SystemExit) as ended:
        lm_stage.main()
    return int(str(ended.value.code or 0))


def test_the_lm_stage_alone_is_of_the_folder_of_its_configuration(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A copied run trains its own model, to the bytes of `genrec fit`, once; the run that it was copied from stays."""
    before, copy = contents(run), tmp_path / "copy"
    started = [path.stat().st_mtime_ns for path in sorted((run / "lm").iterdir())]
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "lm")
    with Run(copy).locked():
        assert lm_stage_alone(monkeypatch, copy / "config.yaml") == 1
    assert "another genrec process is working on this run" in capsys.readouterr().err
    assert not (copy / "lm").exists()
    assert lm_stage_alone(monkeypatch, copy / "config.yaml") == 0
    assert contents(copy) == before
    made = (copy / "lm/manifest.json").stat().st_mtime_ns
    assert lm_stage_alone(monkeypatch, copy / "config.yaml") == 0
    assert "lm is up to date" in capsys.readouterr().err
    assert (copy / "lm/manifest.json").stat().st_mtime_ns == made
    assert contents(run) == before
    assert [path.stat().st_mtime_ns for path in sorted((run / "lm").iterdir())] == started


@pytest.mark.parametrize("text", ["a: [\n", "", "- 1\n", "run: x\n", "\udcff"])
def test_the_lm_stage_alone_names_a_bad_configuration(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_bytes(text.encode(errors="surrogateescape"))
    assert lm_stage_alone(monkeypatch, config) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{config}: not " in line


def test_fit_ends_before_the_language_model_where_asked(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For the LM stage under `accelerate launch`; another fit then does what is left."""
    other, reuse = tmp_path / "other", f"--reuse={run}"
    options = [str(run.parent / "my.yaml"), *SMALL, "--topk.k=0", f"--run={other}", reuse]
    assert main(["fit", *options, "--before_lm"]) == 0
    assert f"training.finetune --config {other}/config.yaml" in capsys.readouterr().out
    assert (other / "semtok/manifest.json").is_file()
    assert not (other / "lm").exists()
    assert main(["fit", *options]) == 0
    assert (other / "report/metrics.json").is_file()


def launched_lm_stage(
    run: Path, copy: Path, configuration: str, *command: str, precision: str = "no", **variables: str
) -> int:
    """The LM stage of a copy of a run under accelerate, on two processes; its exit status."""
    if not copy.exists():
        shutil.copytree(run, copy)
        shutil.rmtree(copy / "lm")
        settings = (copy / "config.yaml").read_text()
        settings = settings.replace("  precision: 'no'", f"  precision: '{precision}'")
        (copy / "config.yaml").write_text(settings)
    file = Path(__file__).parents[1] / f"configs/accelerate/{configuration}.yaml"
    launcher = [str(Path(sys.executable).with_name("accelerate")), "launch", "--config_file", str(file)]
    launcher += ["--num_processes", "2", "--mixed_precision", precision, "--main_process_port", "0"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", **variables}
    stage = [*launcher, *command, "--config", str(copy / "config.yaml")]
    return subprocess.run(stage, env=environment, check=False, timeout=240).returncode


@pytest.mark.slow
def test_the_lm_stage_alone_on_two_processes(run: Path, tmp_path: Path) -> None:
    """Data parallel and fully sharded, undisturbed and killed between two epochs: one model."""
    script = str(Path(__file__).with_name("accelerate_stage.py"))
    stage = ("-m", "genrec.training.finetune")
    assert launched_lm_stage(run, tmp_path / "parallel", "multi_cpu", *stage) == 0
    with Run(tmp_path / "parallel").locked():  # refused in every process: none waits for the others
        assert launched_lm_stage(run, tmp_path / "parallel", "multi_cpu", *stage) != 0
    assert launched_lm_stage(run, tmp_path / "parallel", "multi_cpu", *stage) == 0  # up to date
    assert launched_lm_stage(run, tmp_path / "sharded", "fsdp2", script) == 0
    assert launched_lm_stage(run, tmp_path / "killed", "fsdp2", script, STOP_AFTER_CHECKPOINT="1") != 0
    assert not (tmp_path / "killed/lm").exists()
    assert launched_lm_stage(run, tmp_path / "killed", "fsdp2", script) == 0
    assert launched_lm_stage(run, tmp_path / "half", "fsdp2", script, precision="bf16") == 0
    assert contents(tmp_path / "killed/lm") == contents(tmp_path / "sharded/lm")
    rows = [read_json(tmp_path / name / "lm/training.json") for name in ("parallel", "sharded", "half")]
    for parallel, sharded, half in zip(*rows, strict=True):
        for loss in ("code_loss", "dense_loss", "text_loss"):
            assert sharded[loss] == pytest.approx(parallel[loss], rel=2e-3)
            assert half[loss] == pytest.approx(parallel[loss], rel=2e-2)
            assert half[loss] != sharded[loss]
    for name in ("parallel", "sharded"):
        assert len(Recommender.from_pretrained(tmp_path / name).recommend([[]], k=3).rows[0]) == 3


@pytest.mark.slow
def test_the_lm_stage_under_deepspeed(run: Path, tmp_path: Path) -> None:
    """ZeRO-2 on two processes loses what data parallelism does, also when it is killed and either of them goes on."""
    pytest.importorskip("deepspeed")
    script = str(Path(__file__).with_name("accelerate_stage.py"))
    on_cpu = {"ACCELERATE_USE_CPU": "false", "DS_ACCELERATOR": "cpu"}
    assert launched_lm_stage(run, tmp_path / "parallel", "multi_cpu", "-m", "genrec.training.finetune") == 0
    assert launched_lm_stage(run, tmp_path / "zero", "deepspeed_zero2", script, **on_cpu) == 0
    killed = {**on_cpu, "STOP_AFTER_CHECKPOINT": "1"}
    assert launched_lm_stage(run, tmp_path / "killed", "deepspeed_zero2", script, **killed) != 0
    assert not (tmp_path / "killed/lm").exists()
    shutil.copytree(tmp_path / "killed", tmp_path / "crossed")
    assert launched_lm_stage(run, tmp_path / "killed", "deepspeed_zero2", script, **on_cpu) == 0
    assert launched_lm_stage(run, tmp_path / "crossed", "multi_cpu", "-m", "genrec.training.finetune") == 0
    assert launched_lm_stage(run, tmp_path / "half", "deepspeed_zero2", script, precision="bf16", **on_cpu) == 0
    assert contents(tmp_path / "killed/lm") == contents(tmp_path / "zero/lm")
    rows = [read_json(tmp_path / name / "lm/training.json") for name in ("parallel", "zero", "crossed", "half")]
    assert len(rows[0]) > 1
    for parallel, zero, crossed, half in zip(*rows, strict=True):
        for loss in ("code_loss", "dense_loss", "text_loss"):
            assert zero[loss] == pytest.approx(parallel[loss], rel=2e-3)
            assert crossed[loss] == pytest.approx(parallel[loss], rel=2e-3)
            assert half[loss] == pytest.approx(parallel[loss], rel=2e-2)
            assert half[loss] != zero[loss]
    assert len(Recommender.from_pretrained(tmp_path / "zero").recommend([[]], k=3).rows[0]) == 3
