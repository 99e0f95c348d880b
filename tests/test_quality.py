"""The quality report on worlds small enough to count by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from genrec.semtok.quality import _gini, measure_quality, nearest_items
from genrec.semtok.quality_plots import plot_quality
from genrec.semtok.quantizers.residual_kmeans import ResidualKMeans
from genrec.semtok.semantic_ids import SemanticIds, assign_ids

BOOKS = [np.array([[0, 0], [10, 0]]), np.array([[0, 0], [0, 1]]), np.array([[0, 0], [0.1, 0], [0.2, 0], [0.3, 0]])]
QUANTIZER = ResidualKMeans([book.astype(np.float32) for book in BOOKS])
# Four items at the first place (two of them alike), two at the second.
VECTORS = np.array([[0, 0], [0, 0], [0, 1], [0.1, 1], [10, 0], [10, 1]], dtype=np.float32)
IDS = assign_ids(QUANTIZER, tuple("abcdef"), VECTORS)


def test_shares_and_balance_are_counted() -> None:
    quality = measure_quality(IDS, QUANTIZER, VECTORS, VECTORS + 1)
    assert quality.n_items == 6
    assert quality.sizes == (2, 2, 4)
    assert quality.collision_rate_before == pytest.approx(2 / 6)
    assert quality.collision_rate_after == 0
    assert quality.moved_share == pytest.approx(1 / 6)
    assert quality.codes_used == (2, 2, 2)
    first = -(4 / 6) * math.log2(4 / 6) - (2 / 6) * math.log2(2 / 6)
    assert quality.entropy[:2] == pytest.approx((first, 1.0))
    assert quality.gini[:2] == pytest.approx((1 / 6, 0))
    assert quality.collaborative_agreement is None


def test_agreement_is_by_prefix_and_against_chance() -> None:
    quality = measure_quality(IDS, QUANTIZER, VECTORS, VECTORS + 1, csr_array(np.ones((3, 6))))
    # Every other item is among the 10 nearest, so neighbours agree as often as random pairs do: 4*3 + 2*1 of 6*5 pairs.
    assert quality.random_agreement == pytest.approx((14 / 30, 4 / 30))
    assert quality.text_agreement == pytest.approx(quality.random_agreement)
    assert quality.collaborative_agreement == pytest.approx(quality.random_agreement)


def test_neighbours_that_share_codes_show_up() -> None:
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(8, 16))
    group = np.arange(160) % 8
    vectors = (directions[group] + 0.01 * rng.normal(size=(160, 16))).astype(np.float32)
    codes = np.stack([group, np.arange(160) // 8], axis=1).astype(np.int32)
    ids = SemanticIds(tuple(map(str, range(160))), codes, (8, 20))
    quantizer = ResidualKMeans([directions.astype(np.float32), np.zeros((20, 16), dtype=np.float32)])
    people = np.eye(8)[:, group] * (np.arange(160) < 88)  # each interacts with a group, of its first eleven items
    quality = measure_quality(ids, quantizer, vectors, vectors, csr_array(people))
    assert quality.text_agreement == (1.0,)
    assert quality.collaborative_agreement == (1.0,)
    assert quality.random_agreement == pytest.approx((19 / 159,))
    shuffled = vectors[rng.permutation(160)]
    assert measure_quality(ids, quantizer, vectors, shuffled).text_agreement[0] < 0.3


def test_collaborative_neighbours_are_those_of_brute_force() -> None:
    rng = np.random.default_rng(0)
    matrix = (rng.random((40, 30)) < rng.random(30) * 0.3).astype(float)
    matrix[:, :3] = 0  # nobody's
    codes = np.stack([np.arange(30) % 4, np.arange(30) // 4], axis=1).astype(np.int32)
    ids = SemanticIds(tuple(map(str, range(30))), codes, (4, 8))
    quantizer = ResidualKMeans([rng.normal(size=(size, 2)).astype(np.float32) for size in (4, 8)])
    vectors = rng.normal(size=(30, 2)).astype(np.float32)
    found = measure_quality(ids, quantizer, vectors, vectors, csr_array(matrix)).collaborative_agreement
    shared = []
    for item in np.flatnonzero(matrix.sum(axis=0)):
        norms = np.linalg.norm(matrix, axis=0) * np.linalg.norm(matrix[:, item])
        cosines = np.divide(matrix.T @ matrix[:, item], norms, out=np.zeros(30), where=norms > 0)
        cosines[item] = 0
        best = [other for other in np.argsort(-cosines, kind="stable")[:10] if cosines[other] > 0]
        shared += [codes[item, 0] == codes[other, 0] for other in best]
    assert found == pytest.approx((np.mean(shared),))
    nobody = measure_quality(ids, quantizer, vectors, vectors, csr_array((4, 30))).collaborative_agreement
    assert nobody is not None
    assert np.isnan(nobody).all()


def test_reconstruction_error_is_relative_to_the_spread() -> None:
    exact = measure_quality(IDS, QUANTIZER, QUANTIZER.decode(IDS.codes), VECTORS)
    assert exact.reconstruction_error == pytest.approx(0, abs=1e-9)
    quality = measure_quality(IDS, QUANTIZER, VECTORS, VECTORS)
    spread = np.square(VECTORS - VECTORS.mean(axis=0)).sum()
    assert quality.reconstruction_error == pytest.approx(0.1**2 / spread, rel=1e-4)  # one item moved by one code


@pytest.mark.parametrize(("counts", "gini"), [([3, 3, 3], 0.0), ([0, 0, 9], 2 / 3), ([1, 3], 0.25)])
def test_gini_is_half_the_relative_mean_difference(counts: list[int], gini: float) -> None:
    array = np.array(counts)
    assert _gini(array) == pytest.approx(gini)
    difference = np.abs(array[:, None] - array).mean()
    assert _gini(array) == pytest.approx(difference / (2 * array.mean()))


def test_nearest_items_are_those_of_brute_force() -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 5)).astype(np.float32)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found = nearest_items(vectors, np.arange(50), 3)
    for row in range(50):
        ranked = [other for other in np.argsort(-(units @ units[row])) if other != row]
        assert set(found[row].tolist()) == set(ranked[:3])


def test_a_catalogue_of_one_item_has_a_report_that_is_json() -> None:
    ids = assign_ids(QUANTIZER, ("a",), VECTORS[:1])
    quality = measure_quality(ids, QUANTIZER, VECTORS[:1], VECTORS[:1])
    assert quality.collision_rate_before == 0
    assert json.loads(json.dumps(quality.to_json(), allow_nan=False))["text_agreement"] == [None, None]


def test_pictures_have_the_same_bytes_each_time(tmp_path: Path) -> None:
    quality = measure_quality(IDS, QUANTIZER, VECTORS, VECTORS + 1, csr_array(np.ones((3, 6))))
    (tmp_path / "again").mkdir()
    first = plot_quality(quality, IDS, tmp_path)
    second = plot_quality(quality, IDS, tmp_path / "again")
    assert [path.name for path in first] == ["code_use.png", "prefix_agreement.png"]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
        assert one.read_bytes().startswith(b"\x89PNG")
