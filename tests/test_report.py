"""The report: whole without a server, the same bytes from the same input, honest about what is not there."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genrec.data.cases import Cases
from genrec.data.sequences import Sequences
from genrec.evaluation.report import _COLOURS, Sample, write_report
from genrec.evaluation.tables import Row, compare, evaluate, padded
from genrec.evaluation.verdict import verdict

LOG = [
    {"stage": "collaborative", "epoch": epoch, "loss": 3.0 - epoch, "valid_recall@10": 0.1 * epoch, "seconds": 1.5}
    for epoch in range(3)
]
QUALITY: dict[str, Any] = {
    "sizes": [8, 4],
    "codes_used": [8, 3],
    "entropy": [3.0, 1.5],
    "collision_rate_before": 0.25,
    "collaborative_agreement": None,
}


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    rng = np.random.default_rng(0)
    names = tuple(f"u{i}" for i in range(60))
    histories = Sequences.from_lists([rng.permutation(30)[: rng.integers(1, 25)] for _ in names])
    targets = rng.integers(0, 30, size=60).astype(np.int32)
    cases = Cases(names, names, histories, targets, None, targets == 29)
    train = Sequences.from_lists([rng.integers(0, 29, size=9) for _ in names])
    ranked = {
        name: Sequences.from_lists([rng.permutation(30)[:20] for _ in names]) for name in ("<ours> & co", "Markov")
    }
    lists = {name: padded(rows) for name, rows in ranked.items()}
    return evaluate(lists, cases, train, 30) + compare(lists, cases, reference="Markov")


class Page(HTMLParser):
    """Collects tags, their balance, and what the page would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "link"):
            self.open.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _write(folder: Path, rows: list[Row], **parts: Any) -> dict[str, bytes]:
    folder.mkdir()
    write_report(folder, rows, **parts)
    return _files(folder)


def test_a_whole_report(rows: list[Row], tmp_path: Path) -> None:
    notes = ["seeds < 3 & more"]
    files = _write(tmp_path / "r", rows, training_log=LOG, quality=QUALITY, title="A <b>", notes=notes)
    pictures = {"recall_by_popularity.png", "recall_by_history.png", "training.png", "codes.png"}
    assert set(files) == {"metrics.json", "report.html", *pictures}
    assert json.loads(files["metrics.json"]) == rows
    for name in pictures:
        assert files[name].startswith(b"\x89PNG")
        assert b"Software" not in files[name]
    page = Page(files["report.html"].decode())
    assert page.open == []
    assert len(page.loaded) == 4
    assert all(source.startswith("data:image/png;base64,") for source in page.loaded)
    assert files["report.html"].index(b"No ranking of the run") < files["report.html"].index(b"<table>")
    assert {"A <b>", "<ours> & co", "seeds < 3 & more", "recall@10 minus Markov's", "Semantic IDs"} <= set(page.words)


def test_the_same_input_gives_the_same_bytes_and_times_do_not_count(rows: list[Row], tmp_path: Path) -> None:
    slower = [{**line, "seconds": 99.0} for line in LOG]
    resumed = [{**LOG[1], "loss": 77.0}, *slower, {"stage": "recommend", "users": 10}]
    first = _write(tmp_path / "a", rows, training_log=LOG, quality=QUALITY)
    assert _write(tmp_path / "b", rows, training_log=resumed, quality=QUALITY) == first
    moved = [*LOG[:-1], {**LOG[-1], "loss": 2.0}]
    changed = _write(tmp_path / "c", rows, training_log=moved, quality=QUALITY)
    assert {name for name in first if first[name] != changed[name]} == {"training.png", "report.html"}


def test_what_is_not_there_is_left_out(rows: list[Row], tmp_path: Path) -> None:
    files = _write(tmp_path / "r", [row for row in rows if row["slice"] == "all"])
    assert set(files) == {"metrics.json", "report.html"}
    page = Page(files["report.html"].decode())
    assert "Semantic IDs" not in page.words
    assert page.loaded == []


def test_it_begins_with_who_wins_and_shows_lists(rows: list[Row], tmp_path: Path) -> None:
    ours: list[Row] = [
        row | {"model": "genrec fused (default)"} if row["model"] != "Markov" else row  # type: ignore[misc]
        for row in rows
    ]
    lists = [Sample(["Tea", "<Mug>"], "Kettle", ["Cup", "Kettle"])]
    page = _write(tmp_path / "r", ours, quality=QUALITY, samples=lists)["report.html"].decode()
    words = [word for word in Page(page).words if word]
    assert verdict(ours).sentence in words
    assert words.index(verdict(ours).sentence) < words.index("model")
    assert {"Tea · <Mug>", "Kettle", "1. Cup · 2. Kettle"} <= set(words)
    assert ('class="lead lost"' in page) is verdict(ours).loses
    assert page.count("<details>") == 2  # paired differences and semantic IDs, to be unfolded


def test_thirteen_models_have_colours_of_their_own() -> None:
    assert len(set(_COLOURS)) == len(_COLOURS) >= 13
