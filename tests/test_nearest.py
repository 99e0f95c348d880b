"""The index of item vectors against brute force (skipped without its extra), and who is searched by it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from genrec.semtok import nearest
from genrec.semtok.errors import InputError
from genrec.semtok.nearest import EXACT_BELOW, ItemIndex, is_approximate, is_few

N, B = 20_000, 50


def clustered(n: int = N) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Items around 200 centres, and queries near some of them."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(200, 16))
    items = (centres[rng.integers(200, size=n)] + 0.4 * rng.normal(size=(n, 16))).astype(np.float32)
    return items, (items[:B] + 0.2 * rng.normal(size=(B, 16))).astype(np.float32)


def best(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def recall(found: NDArray[np.int64], wanted: NDArray[np.int64]) -> float:
    return float(np.mean([np.isin(want, have).mean() for want, have in zip(wanted, found, strict=True)]))


@pytest.mark.parametrize("share", [1.0, 0.5, 0.25])
def test_most_of_the_nearest_are_found_and_none_that_is_forbidden(share: float) -> None:
    pytest.importorskip("faiss")
    items, queries = clustered()
    allowed = np.random.default_rng(1).random(N) < share
    found = ItemIndex(items).search(queries, 10, None if share == 1 else allowed)
    assert recall(found, best(np.where(allowed, queries @ items.T, -np.inf), 10)) > 0.95
    assert allowed[found].all()
    scores = np.take_along_axis(queries @ items.T, found, axis=1)
    assert (np.diff(scores, axis=1) <= 2e-2).all()  # best first, in half precision


def test_a_small_catalogue_is_read_whole() -> None:
    pytest.importorskip("faiss")
    items, queries = clustered(200)
    index = ItemIndex(items)
    assert recall(index.search(queries, 300), best(queries @ items.T, 200)) == 1.0
    allowed = np.zeros(200, dtype=np.bool_)
    allowed[[3, 77]] = True
    found = index.search(queries, 5, allowed)
    assert np.sort(found, axis=1).tolist() == [[-1, -1, -1, 3, 77]] * B


def test_an_index_is_the_same_whatever_the_threads() -> None:
    faiss = pytest.importorskip("faiss")
    items, queries = clustered()
    before, found = faiss.omp_get_max_threads(), []
    try:
        for threads in (1, 2, 2):
            faiss.omp_set_num_threads(threads)
            index = ItemIndex(items)
            found.append((faiss.serialize_index(index._index).tobytes(), index.search(queries, 100).tobytes()))
    finally:
        faiss.omp_set_num_threads(before)
    assert found[0] == found[1] == found[2]


def test_who_is_searched_by_an_index(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(nearest, "find_spec", lambda name: object())
    assert [is_approximate("auto", n) for n in (10, EXACT_BELOW - 1, EXACT_BELOW)] == [False, False, True]
    assert not is_approximate("exact", EXACT_BELOW)
    assert is_approximate("approximate", 10)
    with pytest.raises(InputError, match="retrieval 'fast': choose one of auto, exact, approximate"):
        is_approximate("fast", 10)  # type: ignore[arg-type]
    assert not caplog.records
    monkeypatch.setattr(nearest, "find_spec", lambda name: None)
    assert not is_approximate("auto", EXACT_BELOW)
    (record,) = caplog.records
    assert "200,000 items are searched exactly" in record.getMessage()
    assert "the extra faiss" in record.getMessage()
    with pytest.raises(InputError, match=r"^faiss is not installed; it comes with the extra faiss: pip install"):
        is_approximate("approximate", 10)


def test_few_allowed_items_are_read_one_and_all() -> None:
    assert is_few(EXACT_BELOW - 1, 100 * EXACT_BELOW)
    assert not is_few(EXACT_BELOW, 100 * EXACT_BELOW)
    assert is_few(24, 100)
    assert not is_few(25, 100)
