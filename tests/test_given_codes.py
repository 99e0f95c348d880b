"""Semantic IDs that were made elsewhere: their file, their codebooks, and a run that is fitted on them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from worlds.small_shop import SMALL

from genrec.cli.main import main
from genrec.inference.recommender import Recommender
from genrec.run import Run
from genrec.semtok.errors import InputError
from genrec.semtok.folders import read_json
from genrec.semtok.quantizers.given import codebooks_of, read_codes, sizes_of
from genrec.semtok.quantizers.residual import sum_codes

IDS = ("x", "y", "z")


def written(folder: Path, value: Any) -> Path:
    (folder / "codes.json").write_text(json.dumps(value))
    return folder / "codes.json"


def test_numbers_and_tokens_are_codes_and_other_items_are_left_out(tmp_path: Path) -> None:
    path = written(tmp_path, {"z": ["<a_5>", "<b_0>"], "x": [1, 2], "other": [9, 9, 9], "y": [3, "<b_4>"]})
    codes = read_codes(path, IDS)
    np.testing.assert_array_equal(codes, [[1, 2], [3, 4], [5, 0]])
    assert codes.dtype == np.int32
    assert sizes_of(codes, ()) == (6, 5)
    assert sizes_of(codes, (8, 8)) == (8, 8)
    for sizes in [(8,), (8, 4), (8, 8, 8)]:
        with pytest.raises(InputError, match=r"--semtok\.sizes .*: the codes given have sizes \[6, 5\]"):
            sizes_of(codes, sizes)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([1, 2], "not a JSON object of item id and codes"),
        ({"x": [1], "z": [2]}, "none for 1 of 3 items, such as 'y'"),
        ({"x": [1, 2], "y": [1], "z": [1, 2]}, "1 for item 'y', 2 for 'x'"),
        ({"x": [1], "y": [], "z": [1]}, "item 'y' has [], not a list of codes"),
        ({"x": [1], "y": [True], "z": [1]}, "item 'y' has [True], not a list of codes"),
        ({"x": [1], "y": [-1], "z": [1]}, "item 'y' has [-1], not a list of codes"),
        ({"x": [1], "y": [10**6], "z": [1]}, "not a list of codes"),
        ({"x": [1], "y": ["<a_1"], "z": [1]}, "not a list of codes"),
        ({"x": [1], "y": "<a_1>", "z": [1]}, "not a list of codes"),
        ({"x": [1] * 27, "y": [1], "z": [1]}, "not a list of codes"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, value: Any, said: str) -> None:
    with pytest.raises(InputError) as raised:
        read_codes(written(tmp_path, value), IDS)
    assert str(raised.value).startswith("--semtok.codes ")
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_codebooks_are_the_means_of_what_is_left_over() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((40, 5)).astype(np.float32)
    codes = rng.integers(0, 3, (40, 2)).astype(np.int32)
    books = codebooks_of(vectors, codes, (4, 3), seed=0)
    for code in range(3):
        np.testing.assert_allclose(books[0][code], vectors[codes[:, 0] == code].mean(axis=0), atol=1e-5)
    left = vectors - books[0][codes[:, 0]]
    for code in range(3):
        np.testing.assert_allclose(books[1][code], left[codes[:, 1] == code].mean(axis=0), atol=1e-5)
    assert np.isfinite(books[0][3]).all()  # which no item has
    true = [rng.standard_normal((size, 5)).astype(np.float32) for size in (3, 3)]
    spelled = np.array([[a, b] for a in range(3) for b in range(3)], dtype=np.int32)
    found = codebooks_of(sum_codes(true, spelled), spelled, (3, 3), seed=0)
    np.testing.assert_allclose(sum_codes(found, spelled), sum_codes(true, spelled), atol=1e-5)


def test_a_run_is_fitted_on_given_codes(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, copy = tiny_run.parent / "my.yaml", tmp_path / "run"
    shutil.copytree(tiny_run, copy)
    ids = Recommender.from_pretrained(tiny_run).catalog.item_ids
    told = {str(item): [row % 7, row // 14, row // 7 % 2] for row, item in enumerate(ids)}
    told[str(ids[1])] = told[str(ids[0])]  # a collision: one of them moves
    path = written(tmp_path, told)
    command = ["fit", str(config), *SMALL, f"--run={copy}", f"--semtok.codes={path}", "--before_lm"]
    assert main(command) == 0
    found = Run(copy).semantic_ids()
    assert found.sizes == (7, 5, 2)
    moved = [row for row, item in enumerate(ids) if found.codes[row].tolist() != told[str(item)]]
    assert len(moved) == 1
    assert moved[0] in (0, 1)
    assert len({tuple(codes) for codes in found.codes.tolist()}) == len(ids)
    quality = read_json(copy / "semtok/quality.json")
    assert quality["moved_share"] == pytest.approx(1 / len(ids))  # from the codes that were given
    assert quality["collision_rate_before"] == pytest.approx(2 / len(ids))
    capsys.readouterr()
    stood = (copy / "semtok/manifest.json").read_bytes()
    assert main(command) == 0
    assert (copy / "semtok/manifest.json").read_bytes() == stood
    told[str(ids[1])] = [6, 4, 1] if [6, 4, 1] not in told.values() else told[str(ids[1])]
    written(tmp_path, told)
    assert main(command) == 0  # the file is another now, so the stage is made again
    assert (copy / "semtok/manifest.json").read_bytes() != stood
    assert main([*command[:-2], f"--semtok.codes={tmp_path / 'nothing.json'}", "--before_lm"]) == 2
    assert "--semtok.codes" in capsys.readouterr().err
