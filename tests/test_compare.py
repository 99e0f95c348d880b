"""`genrec compare` end to end on a shop of 60 items: every cell, the table, and a comparison that was interrupted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from genrec.cli.compare import compare
from genrec.cli.compare_config import CompareConfig, load_compare_config
from genrec.cli.main import main
from genrec.data.cases import Cases
from genrec.data.sample_shop import make_sample_shop
from genrec.data.sequences import Sequences
from genrec.data.splits import Split
from genrec.evaluation.comparison import MINUS, CellName, Result, case_groups, table, write_comparison
from genrec.evaluation.comparison_plots import _two_dimensions, alignment, categories, following_pairs, uniformity
from genrec.run import Run
from genrec.semtok.catalog import Catalog
from genrec.semtok.errors import InputError
from genrec.semtok.folders import read_json
from genrec.semtok.vectors import ItemVectors
from genrec.training.encoder.config import read_config


def write_config(folder: Path, aligners: str = "{plain: {}, text: {hidden: 8}}", rest: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    make_sample_shop(0, users=150, items=60).write(folder)
    config = folder / "compare.yaml"
    config.write_text(
        f"data: {{items: {folder}/items.jsonl, interactions: {folder}/interactions.csv, cold_share: 0.1}}\n"
        f"run: {folder}/run\naligners: {aligners}\nseeds: [0, 1]\n"
        f"training: {{epochs: 3}}\nsasrec: {{width: 16, layers: 1}}\n{rest}"
    )
    return config


def contents(run: Path) -> dict[str, bytes]:
    """Every file of a run that must be the same every time."""
    untimed = ("log.jsonl", "table.md", ".lock", "config.yaml")
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name not in untimed
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = write_config(tmp_path_factory.mktemp("compare") / "shop")
    assert main(["compare", str(config)]) == 0
    return config.parent / "run"


def figure(rows: list[dict[str, Any]], model: str, slice_: str, metric: str = "recall") -> Mapping[str, Any]:
    return next(
        row for row in rows if (row["model"], row["slice"], row["metric"], row["k"]) == (model, slice_, metric, 10)
    )


def test_every_cell_and_baseline_stands_in_the_table(run: Path) -> None:
    rows = read_json(run / "report/metrics.json")
    assert {row["model"] for row in rows} == {"plain sasrec", "text sasrec", "Markov", "ItemKnn", "ContentKnn"}
    assert {"all", "head", "tail", "warm_tail", "cold", "tail_users"} <= {row["slice"] for row in rows}
    assert figure(rows, "text sasrec", "all")["seeds"] == 2
    assert figure(rows, "text sasrec", "all")["spread"] is not None
    lines = (run / "table.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == list(dict.fromkeys(row["model"] for row in rows))
    assert len({line.count("|") for line in lines}) == 1
    for picture in ("recall_by_frequency.png", "alignment_uniformity.png", "map.png"):
        assert (run / "report" / picture).read_bytes().startswith(b"\x89PNG")


def test_cold_items_are_ranked_by_words_and_not_without(run: Path) -> None:
    split, rows = Split.load(run / "split"), read_json(run / "report/metrics.json")
    assert len(split.cold_items)
    assert figure(rows, "plain sasrec", "cold")["value"] == 0
    assert figure(rows, "text sasrec", "cold")["n"] == split.test.cold.sum()
    from safetensors.numpy import load_file

    listed = {name: load_file(run / f"cells/{name}-sasrec-0/lists.safetensors")["rows"] for name in ("plain", "text")}
    assert not np.isin(listed["plain"], split.cold_items).any()
    assert np.isin(listed["text"], split.cold_items).any()
    assert all((np.sort(row)[1:] != np.sort(row)[:-1]).all() for row in listed["text"])


def test_of_a_large_catalogue_some_cases_are_ranked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_config(tmp_path / "shop", "{plain: {}}")
    monkeypatch.setattr("genrec.evaluation.tables._TESTED_CELLS", 9 * 60 + 1)
    assert main(["compare", str(config)]) == 0
    rows = read_json(config.parent / "run/report/metrics.json")
    assert {row["n"] for row in rows if row["slice"] == "all"} == {9}


def test_seeds_differ(run: Path) -> None:
    first = ItemVectors.load(run / "cells/text-sasrec-0/item.safetensors").values
    assert not np.allclose(first, ItemVectors.load(run / "cells/text-sasrec-1/item.safetensors").values)


def test_an_interrupted_comparison_goes_on_to_the_same_bytes(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_compare_config(write_config(tmp_path / "shop"))
    noted, stops, undisturbed = [0], [2, 5, 6, 9], Run.note

    def stopping(self: Run, row: Mapping[str, Any]) -> None:
        undisturbed(self, row)
        noted[0] += "epoch" in row
        if stops and noted[0] == stops[0]:
            stops.pop(0)
            raise KeyboardInterrupt

    monkeypatch.setattr(Run, "note", stopping)
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            compare(config)
    compare(config)
    assert contents(tmp_path / "shop/run") == contents(run)


def test_more_seeds_and_aligners_train_only_what_is_missing(run: Path) -> None:
    stamps = {path: path.stat().st_mtime_ns for path in run.glob("cells/*/manifest.json")}
    assert main(["compare", str(run.parent / "compare.yaml"), "--seeds", "[0]"]) == 0
    rows = read_json(run / "report/metrics.json")
    assert figure(rows, "text sasrec", "all")["seeds"] == 1
    assert figure(rows, "text sasrec", "all")["spread"] is None
    assert main(["compare", str(run.parent / "compare.yaml")]) == 0
    assert {path: path.stat().st_mtime_ns for path in run.glob("cells/*/manifest.json")} == stamps


@pytest.mark.parametrize("log", [None, '{"stage": "cells/pl'])
def test_a_lost_or_torn_log_costs_times_alone(run: Path, log: str | None) -> None:
    whole = (run / "log.jsonl").read_bytes()
    (run / "log.jsonl").unlink()
    if log is not None:
        (run / "log.jsonl").write_text(log)
    assert main(["compare", str(run.parent / "compare.yaml")]) == 0
    assert (run / "table.md").read_text().splitlines()[2].endswith("|  |")
    (run / "log.jsonl").write_bytes(whole)


def test_the_config_of_something_else_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, fitted = write_config(tmp_path), tmp_path / "run/config.yaml"
    fitted.parent.mkdir()
    fitted.write_text("{run: x, data: {}, lm: {}, ranking: {}, seed: 0, refit: null}")  # of a run of genrec fit
    before = fitted.read_text()
    assert main(["compare", str(config)]) == 2
    assert "config.yaml: not the resolved configuration of a run of genrec compare" in capsys.readouterr().err
    assert fitted.read_text() == before


@pytest.mark.slow
def test_every_aligner_through_every_backbone(tmp_path: Path) -> None:
    config = write_config(
        tmp_path,
        "{plain: {}, text: {}, concatenation: {}, faerec: {}, llmemb: {}, recgoat: {heads: 2}, bare: "
        "{aligner: faerec, weight: 0}, taught: "
        "{aligner: llm_esr, weight: 0.1, training: {epochs: 2, distillation: 0.1}}}",
        "gru4rec: {width: 16}\nbert4rec: {width: 16}\nlrurec: {width: 16}\nfmlprec: {width: 16}\n"
        "backbones: [sasrec, gru4rec, bert4rec, lrurec, fmlprec]\n",
    )
    assert main(["compare", str(config), "--seeds", "[0]", "--training.epochs", "1", "--negatives", "20"]) == 0
    models = {row["model"] for row in read_json(tmp_path / "run/report/metrics.json")}
    assert len(models) == 8 * 5 + 3
    assert {"bare bert4rec", "plain lrurec", "faerec fmlprec", "recgoat gru4rec", "taught lrurec"} <= models


def small_split() -> Split:
    """Item 0 is taken eight times, item 1 four times, item 2 once, item 3 never."""
    train = Sequences.from_lists([[0, 1]] * 4 + [[0]] * 3 + [[0, 2]])
    histories = Sequences.from_lists([[1], [0], [0], [2]])
    ids = ("a", "b", "c", "d")
    cases = Cases(ids, ids, histories, np.array([0, 1, 2, 3], dtype=np.int32), None, np.array([False] * 3 + [True]))
    return Split(train, tuple("abcdefgh"), cases, cases, "given")


def lists(*first: int) -> np.ndarray:
    rows = np.full((len(first), 20), -1, dtype=np.int32)
    rows[:, 0] = first
    return rows


def test_slices_by_frequency() -> None:
    split = small_split()
    groups = {name: members.tolist() for name, members in case_groups(split.test, split.train, 5).items()}
    assert groups == {
        "all": [True] * 4,
        "head": [True, False, False, False],
        "tail": [False, True, True, True],
        "cold": [False, False, False, True],
        "warm_tail": [False, True, True, False],
        "tail_users": [True] * 4,
        "seen_pair": [False, True, True, False],
        "new_pair": [True, False, False, True],
        "1-4": [False, True, True, False],
        "5-9": [True, False, False, False],
    }


def test_figures_spreads_and_differences_by_hand(tmp_path: Path) -> None:
    split, vectors = small_split(), ItemVectors(np.eye(5, 3, dtype=np.float32) + 0.1, "x")
    catalog = Catalog(tuple("abcde"), tuple("abcde"), pl.DataFrame({"x": [1] * 5}), np.zeros(5, dtype=np.bool_))
    results = [
        Result(CellName("plain", "sasrec", 0), lists(0, 9, 9, 9), vectors),  # right: case 0
        Result(CellName("plain", "sasrec", 1), lists(0, 1, 9, 9), vectors),  # right: cases 0, 1
        Result(CellName("better", "sasrec", 0), lists(0, 1, 2, 9), vectors),  # right: 0, 1, 2
        Result(CellName("better", "sasrec", 1), lists(9, 1, 2, 3), vectors),  # right: 1, 2, 3
    ]
    write_comparison(tmp_path, results, split.test, split.train, catalog, [vectors], exclude_seen=True)
    rows = read_json(tmp_path / "metrics.json")
    assert figure(rows, "plain sasrec", "all")["value"] == pytest.approx(3 / 8)
    assert figure(rows, "plain sasrec", "all")["spread"] == pytest.approx(np.std([1 / 4, 2 / 4], ddof=1))
    assert figure(rows, "better sasrec", "warm_tail")["value"] == 1
    assert figure(rows, "better sasrec", "all", f"{MINUS}plain")["value"] == pytest.approx(3 / 4 - 3 / 8)
    difference = figure(rows, "better sasrec", "warm_tail", f"{MINUS}plain")
    assert (difference["value"], difference["n"]) == (pytest.approx(3 / 4), 2)
    assert difference["low"] == pytest.approx(1 / 2)
    assert difference["high"] == pytest.approx(1)
    assert not (tmp_path / "map.png").exists()  # no categories
    text = table(rows, {"plain sasrec": 12.0, "better sasrec": 34.5})
    better = next(line for line in text.splitlines() if line.startswith("| better"))
    assert "0.7500 ±0.0000" in better
    assert "+0.7500 [+0.5000, +1.0000]" in better
    assert better.endswith("| 34 |")
    write_comparison(
        tmp_path, results, split.test, split.train, catalog, [vectors], exclude_seen=True, reference="better"
    )
    rows = read_json(tmp_path / "metrics.json")
    assert figure(rows, "plain sasrec", "all", f"{MINUS}better")["value"] == pytest.approx(3 / 8 - 3 / 4)
    head = table(rows, {}).splitlines()[0]
    assert all(title in head for title in ("minus better, warm tail", "tail users", "minus better, tail users"))


def test_alignment_and_uniformity_are_their_equations() -> None:
    rng = np.random.default_rng(0)
    values, pairs = rng.normal(size=(6, 4)).astype(np.float32), np.array([[0, 1], [2, 5], [3, 4]], dtype=np.int32)
    units = values / np.linalg.norm(values, axis=1, keepdims=True)
    expected = np.mean([np.sum((units[a] - units[b]) ** 2) for a, b in pairs])
    assert alignment(values, pairs) == pytest.approx(expected)
    kernel = [np.exp(-2 * np.sum((units[a] - units[b]) ** 2)) for a in range(6) for b in range(6) if a != b]
    assert uniformity(values) == pytest.approx(np.log(np.mean(kernel)), rel=1e-5)


def test_pairs_follow_one_another_inside_a_history() -> None:
    train = Sequences.from_lists([[0, 1, 1, 2], [3], [4, 5]])
    assert following_pairs(train, 100).tolist() == [[0, 1], [1, 2], [4, 5]]
    assert len(following_pairs(train, 2)) == 2


@pytest.mark.parametrize("units", [np.ones((1, 3)), np.zeros((40, 3)), np.ones((40, 1)), np.eye(40, 1), np.eye(5, 3)])
def test_vectors_without_two_main_components_have_a_map(units: np.ndarray) -> None:
    places = _two_dimensions(units.astype(np.float32))
    assert places.shape == (len(units), 2)
    assert np.isfinite(places).all()


def test_the_first_level_that_tells_items_apart() -> None:
    def catalog(paths: Any) -> Catalog:
        n = len(paths)
        names = tuple(str(i) for i in range(n))
        return Catalog(names, names, pl.DataFrame({"categories": paths}), np.zeros(n, dtype=np.bool_))

    paths = [["Shop", "A"], ["Shop", "B"], ["Shop", "B"], ["Shop"], None]
    assert categories(catalog(paths)) == ["A", "B", "B", "", ""]
    assert categories(catalog([["Shop"], ["Shop"]])) is None
    assert categories(catalog(["A", "B"])) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "CONFIG is missing"),
        (["none.yaml"], "none.yaml: no such configuration file"),
        (["{config}", "--backbones", "[nobody]"], "--backbones 'nobody'"),
        (["{config}", "--backbones", "[]"], "--backbones"),
        (["{config}", "--seeds", "[1, 1]"], "--seeds [1, 1]"),
        (["{config}", "--seeds", "[0, -1]"], "--seeds -1"),
        (["{config}", "--seeds", "[99999999999999]"], "--seeds 99999999999999"),
        (["{config}", "--split_seed", "-1"], "--split_seed -1"),
        (["{config}", "--negatives", "0"], "--negatives 0"),
        (["{config}", "--aligners", "{nobody: {}}"], "nobody"),
        (["{config}", "--aligners", "{text: {colour: 3}}"], "colour"),
        (["{config}", "--aligners", "{text: {encoder: tfid}}"], "aligners.text.encoder 'tfid': choose one of tfidf"),
        (["{config}", "--aligners", "{plain: {encoder: tfidf}}"], "aligners.plain.encoder is none: plain has no"),
        (["{config}", "--aligners", "{recgoat: {encoder: 'hf:a'}}"], "aligners.recgoat.encoder recgoat also reads"),
        (["{config}", "--aligners", "{text: {encoder: 'scft:gone'}}"], "gone: no such folder"),
        (["{config}", "--aligners", "{faerec: {colour: 3}}"], "colour"),
        (["{config}", "--aligners", "{plain: {colour: 3}}"], "aligners.plain.colour is none: plain has no options"),
        (["{config}", "--aligners", "{text: {training: {colour: 3}}}"], "training.colour"),
        (["{config}", "--aligners", "{text: {training: {epochs: many}}}"], "aligners.text.training.epochs 'many'"),
        (
            ["{config}", "--aligners", "{text: {training: {epochs: 2.5}}}"],
            "aligners.text.training.epochs '2.5': must be of the type int",
        ),
        (["{config}", "--aligners", "{text: {training: {epochs: 0}}}"], "epochs 0"),
        (["{config}", "--aligners", "{text: {training: 48}}"], "aligners.text.training 48"),
        (["{config}", "--aligners", "{text: {training: 0}}"], "aligners.text.training 0"),
        (["{config}", "--aligners", "{a/b: {aligner: text}}"], "'a/b'"),
        (["{config}", "--aligners", "{1: {aligner: text}}"], "--aligners 1"),
        (["{config}", "--aligners", "{hot: {aligner: [text]}}"], "aligners.hot.aligner ['text']"),
        (
            ["{config}", "--aligners", "{recgoat: {heads: 3}}"],
            "aligners.recgoat.heads 3 does not divide the backbone's width 16",
        ),
        (["{config}", "--aligners", "{text: {name: words}}"], "aligners.text.name is no option"),
        (["{config}", "--aligners", "{text: {no: 1}}"], "aligners.text.False is no option"),
        (["{config}", "--aligners", "{text: {hidden: 2.5}}"], "aligners.text.hidden '2.5': must be of the type int"),
        (["{config}", "--aligners", "{faerec: {gate: 3}}"], "aligners.faerec.gate is no option"),
        (["{config}", "--aligners", "{faerec: {weight: null}}"], "aligners.faerec.weight has no value"),
        (["{config}", "--aligners", "{faerec: {weight: .nan}}"], "weight nan"),
        (["{config}", "--aligners", "{text: {hidden: -1}}"], "hidden -1"),
        (["{config}", "--data.items", "gone.jsonl"], "gone.jsonl"),
        (["{config}", "--training.epochs", "0"], "--training.epochs 0 must be at least 1"),
        (["{config}", "--training.learning_rate", "0"], "learning_rate 0"),
        (["{config}", "--lrurec.width", "0"], "--lrurec.width 0"),
        (["{config}", "--reference", "nobody"], "--reference 'nobody'"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    run: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    before = contents(run)
    filled = [one.replace("{config}", str(run.parent / "compare.yaml")) for one in arguments]
    assert main(["compare", *filled]) == 2
    assert message in capfd.readouterr().err.strip().splitlines()[-1]
    assert contents(run) == before


def test_a_line_may_stand_twice(run: Path) -> None:
    config = load_compare_config(run.parent / "compare.yaml", ["--aligners", "{hot: {aligner: text, hidden: 4}}"])
    assert isinstance(config, CompareConfig)
    assert config.lines == ["plain", "hot"]
    assert config.aligner("hot")[0] == "text"
    assert config.aligner("hot")[1].hidden == 4
    with pytest.raises(InputError, match="this line is the plain model"):
        load_compare_config(run.parent / "compare.yaml", ["--aligners", "{plain: {aligner: text}}"])


def test_options_have_the_types_of_their_fields_and_keep_their_hash(run: Path) -> None:
    lines = '{faerec: {weight: 1, temperature: "5e-2"}}'
    config = load_compare_config(run.parent / "compare.yaml", ["--aligners", lines])
    options = config.aligner("faerec")[1]
    assert options.temperature == 0.05
    assert isinstance(options.weight, int)  # 1 and 1.0 have different hashes


def test_a_line_may_be_trained_in_its_own_way(tmp_path: Path) -> None:
    """Longer than the others; as its own table would train it, to the byte."""
    config = write_config(tmp_path / "shop", "{plain: {}, longer: {aligner: plain, training: {epochs: 5}}}")
    assert main(["compare", str(config), "--seeds", "[0]"]) == 0
    alone = ["--seeds", "[0]", "--aligners", "{plain: {}}", "--training.epochs", "5", "--run", str(tmp_path / "alone")]
    assert main(["compare", str(config), *alone]) == 0
    longer, plain = tmp_path / "shop/run/cells/longer-sasrec-0", tmp_path / "alone/cells/plain-sasrec-0"
    assert len(read_json(longer / "training.json")) == 5
    assert (longer / "lists.safetensors").read_bytes() == (plain / "lists.safetensors").read_bytes()
    rows = read_json(tmp_path / "shop/run/report/metrics.json")
    gap = figure(rows, "longer sasrec", "all")["value"] - figure(rows, "plain sasrec", "all")["value"]
    assert figure(rows, "longer sasrec", "all", f"{MINUS}plain")["value"] == pytest.approx(gap)


def test_the_comparison_of_llmemb_reads_the_encoder_that_its_first_stage_writes(run: Path) -> None:
    configs, shop = Path(__file__).parents[1] / "configs", run.parent
    data = [f"--data.items={shop}/items.jsonl", f"--data.interactions={shop}/interactions.csv"]
    first = read_config(configs / "scft_scientific.yaml")
    second = load_compare_config(configs / "compare_llmemb.yaml", data)
    assert second.encoders[second.text_folder("llmemb_scft")] == f"scft:{first.output}"
    assert second.encoders[second.text_folder("llmemb")] == first.encoder == "minilm"
