"""Residual k-means: known centres, determinism, files; and what every quantiser promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from genrec.semtok.errors import InputError
from genrec.semtok.quantizers import load_quantizer
from genrec.semtok.quantizers.config import ResidualKMeansConfig
from genrec.semtok.quantizers.residual import code_costs, default_sizes, nearest_codes, sum_codes
from genrec.semtok.quantizers.residual_kmeans import ResidualKMeans, fit_codebooks


def grid(copies: int = 10, noise: float = 0.0) -> np.ndarray:
    """Points at 3 coarse places plus 2 fine offsets: two levels of codes explain them exactly."""
    coarse = np.array([[0, 0], [100, 0], [0, 100]])
    fine = np.array([[-1, 0], [1, 0]])
    points = np.repeat((coarse[:, None] + fine).reshape(-1, 2), copies, axis=0)
    return (points + noise * np.random.default_rng(0).normal(size=points.shape)).astype(np.float32)


def test_a_grid_is_taken_apart_into_its_levels() -> None:
    points = grid()
    quantizer = ResidualKMeans(fit_codebooks(points, (3, 2), seed=0))
    codes = quantizer.encode(points)
    np.testing.assert_allclose(quantizer.decode(codes), points, atol=1e-4)
    assert len(np.unique(codes, axis=0)) == 6
    assert sorted(map(tuple, np.round(quantizer.codebooks[0], 3).tolist())) == [(0, 0), (0, 100), (100, 0)]
    assert sorted(map(tuple, np.round(quantizer.codebooks[1], 3).tolist())) == [(-1, 0), (1, 0)]


def test_costs_are_squared_distances_to_what_the_prefix_leaves() -> None:
    rng = np.random.default_rng(0)
    books = [rng.normal(size=(size, 4)).astype(np.float32) for size in (3, 5)]
    rows = rng.normal(size=(7, 4)).astype(np.float32)
    codes = nearest_codes(books, rows)
    for level in (0, 1):
        rest = rows - sum(books[before][codes[:, before]] for before in range(level))
        expected = ((rest[:, None] - books[level]) ** 2).sum(axis=-1)
        np.testing.assert_allclose(code_costs(books, rows, codes[:, :level]), expected, atol=1e-5)
        np.testing.assert_array_equal(codes[:, level], expected.argmin(axis=1))
    np.testing.assert_allclose(sum_codes(books, codes), books[0][codes[:, 0]] + books[1][codes[:, 1]], atol=1e-6)


def test_the_same_seed_gives_the_same_codebooks() -> None:
    points = grid(noise=5.0)
    for first, second in zip(fit_codebooks(points, (8, 8), 3), fit_codebooks(points, (8, 8), 3), strict=True):
        np.testing.assert_array_equal(first, second)


def test_levels_of_several_codebooks_alternate_between_parts_that_know_nothing_of_each_other() -> None:
    """Each codebook by itself is residual k-means of its part of the rotated vectors; together they add up."""
    vectors = np.random.default_rng(1).normal(size=(200, 8)).astype(np.float32)
    quantizer = ResidualKMeans(fit_codebooks(vectors, (4, 5, 6, 7), seed=0, parts=2))
    books, codes = quantizer.codebooks, quantizer.encode(vectors)
    assert quantizer.sizes == (4, 5, 6, 7)
    for even in (books[0], books[2]):
        for odd in (books[1], books[3]):
            np.testing.assert_allclose(even @ odd.T, 0, atol=1e-5)
    for first, second in ((0, 1), (1, 0)):
        alone = nearest_codes([books[first], books[first + 2]], vectors)
        np.testing.assert_array_equal(codes[:, [first, first + 2]], alone)
        moved = vectors + 5 * books[second][0]  # in the other part alone
        np.testing.assert_array_equal(quantizer.encode(moved)[:, [first, first + 2]], alone)
    assert np.square(vectors - quantizer.decode(codes)).sum() < 0.6 * np.square(vectors).sum()


@pytest.mark.parametrize(("sizes", "width"), [((4, 4), 8), ((4, 4, 4), 2)])
def test_there_are_no_more_codebooks_than_levels_and_dimensions(sizes: tuple[int, ...], width: int) -> None:
    with pytest.raises(InputError, match=rf"codebooks 3: must be at most the {len(sizes)} levels and {width} dim"):
        fit_codebooks(np.zeros((9, width), dtype=np.float32), sizes, seed=0, parts=3)


@pytest.mark.parametrize("n_items", [1, 2, 5])
def test_a_catalogue_smaller_than_a_level_is_described_exactly(n_items: int) -> None:
    points = grid()[::10][:n_items]
    quantizer = ResidualKMeans(fit_codebooks(points, (16, 16), seed=0))
    assert quantizer.sizes == (16, 16)
    assert all(np.isfinite(book).all() for book in quantizer.codebooks)
    np.testing.assert_allclose(quantizer.decode(quantizer.encode(points)), points, atol=1e-4)


def test_large_catalogues_are_fitted_in_mini_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genrec.semtok.quantizers.residual_kmeans._FULL_BATCH_ROWS", 10)
    points = grid(noise=0.01)
    quantizer = ResidualKMeans(fit_codebooks(points, (3, 2), seed=0))
    error = np.square(quantizer.decode(quantizer.encode(points)) - points).sum(axis=1)
    assert error.mean() < 0.01


def test_a_saved_quantiser_is_found_by_its_name(tmp_path: Path) -> None:
    points = grid(noise=1.0)
    quantizer = ResidualKMeans(fit_codebooks(points, (4, 4), seed=0))
    quantizer.save(tmp_path)
    loaded = load_quantizer(tmp_path)
    assert isinstance(loaded, ResidualKMeans)
    assert loaded.sizes == (4, 4)
    np.testing.assert_array_equal(loaded.encode(points), quantizer.encode(points))


def test_missing_and_foreign_quantisers_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json: no such file"):
        load_quantizer(tmp_path)
    (tmp_path / "config.json").write_text('{"quantizer": {"name": "opq"}}')
    with pytest.raises(InputError, match="quantizer 'opq', known are residual_kmeans, rqvae"):
        load_quantizer(tmp_path)
    (tmp_path / "config.json").write_text('{"quantizer": {"name": "residual_kmeans", "levels": 2}}')
    with pytest.raises(InputError, match=r"quantizer\.safetensors: no such file"):
        load_quantizer(tmp_path)
    (tmp_path / "quantizer.safetensors").write_text("?")
    with pytest.raises(InputError, match="not a safetensors file"):
        load_quantizer(tmp_path)
    ResidualKMeans(fit_codebooks(grid(), (2,), seed=0)).save(tmp_path)
    (tmp_path / "config.json").write_text('{"quantizer": {"name": "residual_kmeans", "levels": 2}}')
    with pytest.raises(InputError, match="not a saved residual_kmeans"):
        load_quantizer(tmp_path)
    (tmp_path / "config.json").write_text('{"quantizer": {"name": ["residual_kmeans"]}}')
    with pytest.raises(InputError, match=r"quantizer \['residual_kmeans'\], known are"):
        load_quantizer(tmp_path)


@pytest.mark.parametrize("shapes", [[], [(4,)], [(4, 2), (4, 3)], [(4, 2, 1)]])
def test_codebooks_of_other_shapes_are_foreign(shapes: list[tuple[int, ...]], tmp_path: Path) -> None:
    ResidualKMeans([np.zeros(shape, dtype=np.float32) for shape in shapes]).save(tmp_path)
    with pytest.raises(InputError, match="not a saved residual_kmeans quantiser"):
        load_quantizer(tmp_path)


def test_vectors_of_another_width_are_refused() -> None:
    with pytest.raises(InputError, match="width 3, fitted on width 2"):
        ResidualKMeans(fit_codebooks(grid(), (2,), seed=0)).encode(np.zeros((1, 3), dtype=np.float32))


def test_bad_configurations_name_their_flag() -> None:
    with pytest.raises(InputError, match="iterations 0 must be at least 1"):
        ResidualKMeansConfig(iterations=0)


@pytest.mark.parametrize(("n_items", "size"), [(1, 16), (300, 32), (12_101, 128), (200_000, 256), (2_000_000, 512)])
def test_levels_are_sized_for_the_catalogue(n_items: int, size: int) -> None:
    assert default_sizes(n_items) == (size,) * 3
