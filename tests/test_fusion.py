"""Fusion: distances, items that nobody has taken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from genrec.semtok.aligners.config import FusionConfig
from genrec.semtok.aligners.fusion import Fusion
from genrec.semtok.errors import InputError
from genrec.semtok.vectors import ItemVectors, unit_rows

RNG = np.random.default_rng(0)
N = 200
TEXT = ItemVectors(RNG.normal(size=(N, 12)).astype(np.float32), "words")
# Behaviour is a linear function of the text and some noise, so that a regression can find it.
TAKEN = ItemVectors((TEXT.values @ RNG.normal(size=(12, 6)) + 0.1 * RNG.normal(size=(N, 6))).astype(np.float32), "log")
COUNTS = np.arange(N) % 10  # every tenth item was never taken


def fit(**options: object) -> Fusion:
    return Fusion.fit(TEXT, TAKEN, COUNTS, FusionConfig(**options))  # type: ignore[arg-type]


def test_squared_distances_are_weighted_sums_of_both_sides() -> None:
    fused = fit(text_weight=0.3).transform(TEXT, TAKEN, COUNTS).values
    seen = COUNTS > 0
    said = unit_rows(TEXT.values - TEXT.values.mean(axis=0))
    done = unit_rows(TAKEN.values - TAKEN.values[seen].mean(axis=0))
    for a, b in [(1, 2), (3, 57), (101, 199)]:
        expected = 0.3 * np.sum((said[a] - said[b]) ** 2) + 0.7 * np.sum((done[a] - done[b]) ** 2)
        assert np.sum((fused[a] - fused[b]) ** 2) == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(np.linalg.norm(fused, axis=1), 1, atol=1e-5)


def test_an_item_nobody_took_lands_where_its_behaviour_would_be() -> None:
    fusion = fit(method="collaborative")
    cold = COUNTS == 0
    guessed = fusion.transform(TEXT, TAKEN, COUNTS).values[cold]
    true = fusion.transform(TEXT, TAKEN, np.ones(N, dtype=int)).values[cold]
    assert np.mean(np.sum(guessed * true, axis=1)) > 0.95


def test_behaviour_of_items_nobody_took_is_not_looked_at() -> None:
    garbage = TAKEN.values.copy()
    garbage[COUNTS == 0] = 1e6
    other = ItemVectors(garbage, "log")
    again = Fusion.fit(TEXT, other, COUNTS, FusionConfig()).transform(TEXT, other, COUNTS).values
    np.testing.assert_array_equal(again, fit().transform(TEXT, TAKEN, COUNTS).values)


def test_one_side_alone() -> None:
    text = fit(method="text").transform(TEXT, TAKEN, COUNTS)
    assert (text.source, text.width) == ("words", 12)
    both = fit(method="concatenation").transform(TEXT, TAKEN, COUNTS)
    assert (both.source, both.width) == ("concatenation(words, log)", 18)
    np.testing.assert_allclose(both.values[:, :12], np.sqrt(np.float32(0.5)) * text.values, atol=1e-6)


def test_text_alone_needs_no_behaviour(tmp_path: Path) -> None:
    fusion = Fusion.fit(TEXT, TAKEN, np.zeros(N, dtype=int), FusionConfig(method="text"))
    fusion.save(tmp_path)
    np.testing.assert_array_equal(Fusion.load(tmp_path).transform(TEXT).values, fusion.transform(TEXT).values)


def test_the_common_width_is_that_of_the_main_axes() -> None:
    assert fit(width=4).transform(TEXT, TAKEN, COUNTS).width == 8


def test_a_saved_fusion_fuses_new_items_alike(tmp_path: Path) -> None:
    fusion = fit(width=4)
    fusion.save(tmp_path)
    loaded = Fusion.load(tmp_path)
    new = ItemVectors(RNG.normal(size=(3, 12)).astype(np.float32), "words")
    np.testing.assert_array_equal(loaded.transform(new).values, fusion.transform(new).values)
    assert loaded.config == fusion.config


def test_bad_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="200 text vectors, 200 collaborative vectors and 3 counts"):
        Fusion.fit(TEXT, TAKEN, COUNTS[:3], FusionConfig())
    with pytest.raises(InputError, match="no item occurs"):
        Fusion.fit(TEXT, TAKEN, np.zeros(N, dtype=int), FusionConfig())
    with pytest.raises(InputError, match="width 6, fitted on width 12"):
        fit().transform(TAKEN)
    with pytest.raises(InputError, match=r"aligner\.json: no such file"):
        Fusion.load(tmp_path)
    fit().save(tmp_path)
    save_file({"text_mean": np.zeros(12, dtype=np.float32)}, tmp_path / "aligner.safetensors")
    with pytest.raises(InputError, match=r"not a saved fusion \(without collaborative_axes, "):
        Fusion.load(tmp_path)
    (tmp_path / "aligner.json").write_text('{"name": "other"}')
    with pytest.raises(InputError, match="not a saved fusion"):
        Fusion.load(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "sum"}, r"method 'sum'"),
        ({"width": 0}, r"width 0"),
        ({"text_weight": 1.0}, r"text_weight 1\.0"),
    ],
)
def test_a_bad_configuration_names_its_flag(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FusionConfig(**options)  # type: ignore[arg-type]
