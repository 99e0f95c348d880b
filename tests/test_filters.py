"""`ItemFilter` against boolean masks, `where` against hand-picked rows, and the counts that a search asks for."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from genrec.decoding.beam import _extend
from genrec.decoding.filters import AllowedSet, FilterBatch, ItemFilter, WhereFilters
from genrec.decoding.trie import CodeTrie
from genrec.semtok.catalog import Catalog
from genrec.semtok.errors import InputError

SIZES = (5, 4, 6)


def make_trie(n: int, seed: int = 0) -> CodeTrie:
    flat = np.random.default_rng(seed).choice(int(np.prod(SIZES)), size=n, replace=False)
    return CodeTrie(np.stack(np.unravel_index(flat, SIZES), axis=1).astype(np.int32), SIZES)


def draw_filter(trie: CodeTrie, rng: np.random.Generator) -> tuple[ItemFilter, NDArray[np.bool_]]:
    """A random filter and the mask over catalogue rows that it must equal."""
    mask = np.ones(trie.n_items, dtype=np.bool_)
    one = ItemFilter(trie)
    if rng.random() < 0.6:
        mask = rng.random(trie.n_items) < rng.random()
        one = ItemFilter.from_mask(trie, mask)
    if rng.random() < 0.6:
        seen = rng.integers(0, trie.n_items, size=rng.integers(0, 9))
        one, mask = one.deny(seen), mask & ~np.isin(np.arange(trie.n_items), seen)
    return one, mask


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 100), st.integers(1, 5))
def test_filters_equal_masks(seed: int, n: int, n_users: int) -> None:
    rng = np.random.default_rng(seed)
    trie = make_trie(n, seed)
    filters, masks = map(list, zip(*(draw_filter(trie, rng) for _ in range(n_users)), strict=True))
    for one, mask in zip(filters, masks, strict=True):
        assert one.allowed_mask().tolist() == mask.tolist()
        assert one.count == mask.sum()
        scores = rng.normal(size=n).astype(np.float32)
        expected = np.where(mask, scores, -np.inf)
        assert one.apply_to_scores(torch.from_numpy(scores.copy())).tolist() == expected.tolist()
        assert one.apply_to_scores(scores).tolist() == expected.tolist()
        other, other_mask = filters[0], masks[0]
        assert (one & other).allowed_mask().tolist() == (mask & other_mask).tolist()
        assert (one & other).count == (mask & other_mask).sum()


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 100), st.integers(1, 5))
def test_a_search_is_told_how_many_allowed_items_lie_below_a_child(seed: int, n: int, n_users: int) -> None:
    rng = np.random.default_rng(seed)
    trie = make_trie(n, seed)
    filters, masks = map(list, zip(*(draw_filter(trie, rng) for _ in range(n_users)), strict=True))
    batch = FilterBatch(filters, torch.device("cpu"))
    in_order = np.stack([mask[trie.order] for mask in masks])
    for level in trie.levels:
        n_nodes = len(level.first_child) - 1
        nodes = torch.from_numpy(np.stack([rng.permutation(n_nodes)[:4] for _ in range(n_users)]))
        totals = torch.from_numpy(rng.choice([0.0, -np.inf], size=nodes.shape)).float()
        _, bounds = _extend(level, nodes, totals, torch.zeros(*nodes.shape, 6))
        found = batch.count(level, nodes, totals, bounds)
        for user, beam in np.argwhere(~np.isneginf(totals.numpy())):
            ends = bounds[user, beam].tolist()
            expected = [in_order[user, begin:end].sum() for begin, end in itertools.pairwise(ends)]
            assert found[user, beam].tolist() == expected


def test_denying_is_without_repeats_and_leaves_the_filter_alone() -> None:
    trie = make_trie(20)
    allowed = ItemFilter.from_mask(trie, np.arange(20) < 10)
    less = allowed.deny([3, 3, 15]).deny(np.array([3, 4], dtype=np.int32))
    assert less.shared is allowed.shared
    assert (allowed.count, less.count) == (10, 8)
    assert np.flatnonzero(less.allowed_mask()).tolist() == [0, 1, 2, 5, 6, 7, 8, 9]
    assert ItemFilter(trie).deny([]).count == 20


def test_filters_of_one_shared_set_stay_shared() -> None:
    trie = make_trie(20)
    one = ItemFilter.from_mask(trie, np.arange(20) < 10)
    assert (one.deny([1]) & one.deny([2])).shared is one.shared
    assert (one & ItemFilter(trie).deny([1])).shared is one.shared
    with pytest.raises(ValueError, match="different tries"):
        one & ItemFilter(make_trie(20))


@pytest.mark.parametrize(
    "mask", [np.ones(19, dtype=np.bool_), np.ones(20, dtype=np.int64), np.ones((1, 20), dtype=bool)]
)
def test_a_mask_of_the_wrong_shape_or_type_is_refused(mask: NDArray[Any]) -> None:
    with pytest.raises(InputError, match=r"bool \[20\]"):
        ItemFilter.from_mask(make_trie(20), mask)


@pytest.mark.parametrize("rows", [[20], [-1], [0, 5, 99]])
def test_denied_rows_outside_the_catalogue_are_refused(rows: list[int]) -> None:
    with pytest.raises(InputError, match="outside 0 to 19"):
        ItemFilter(make_trie(20)).deny(rows)


def test_a_bitset_counts_to_its_last_position() -> None:
    for n in (7, 8, 9, 16, 120):
        trie = make_trie(n)
        assert AllowedSet.from_mask(trie, np.ones(n, dtype=np.bool_)).count == n


@pytest.fixture
def shop() -> WhereFilters:
    attributes = pl.DataFrame(
        {
            "brand": ["acme", "acme", "zeta", None, "zeta", "acme"],
            "categories": [["Nails", "Gel"], ["Nails"], ["Hair"], [], None, ["Hair", "Nails"]],
            "price": [5.0, 20.0, 30.0, None, 12.5, 8.0],
            "stars": [1, 2, 3, 4, 5, None],
            "vegan": [True, False, None, True, False, True],
            "sizes": [[1, 2], [3], [], None, [2], [1]],
        }
    )
    withdrawn = np.array([False, False, False, False, False, True])
    catalog = Catalog(tuple("abcdef"), tuple("abcdef"), attributes, withdrawn)
    return WhereFilters(make_trie(6), catalog)


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        (None, [0, 1, 2, 3, 4]),
        ({}, [0, 1, 2, 3, 4]),
        ({"brand": "acme"}, [0, 1]),
        ({"brand": ("acme", "zeta")}, [0, 1, 2, 4]),
        ({"brand": []}, []),
        ({"categories": "Nails"}, [0, 1]),
        ({"categories": ["Gel", "Hair"]}, [0, 2]),
        ({"price": (None, 20)}, [0, 1, 4]),
        ({"price": (8, 20.0)}, [1, 4]),
        ({"price": (12.5, None)}, [1, 2, 4]),
        ({"price": (12.5, 10**200)}, [1, 2, 4]),  # whole numbers beyond 64 bits, and beyond floats
        ({"stars": (-(10**400), 2)}, [0, 1]),
        ({"price": (None, None)}, [0, 1, 2, 4]),
        ({"price": 20}, [1]),
        ({"price": [None, 20]}, [0, 1, 4]),
        ({"price": {"max": 20}}, [0, 1, 4]),
        ({"price": {"min": None, "max": 20}}, [0, 1, 4]),
        ({"price": {"min": 12.5}}, [1, 2, 4]),
        ({"price": [8, 20.0]}, [1, 4]),
        ({"price": {"min": 8, "max": 20.0}}, [1, 4]),
        ({"price": [5, 30.0, 5]}, [0, 2]),
        ({"stars": (2, 4)}, [1, 2, 3]),
        ({"stars": (1.5, None)}, [1, 2, 3, 4]),
        ({"stars": 3}, [2]),
        ({"sizes": [1, 3]}, [0, 1]),
        ({"price": {"min": 31}}, []),
        ({"vegan": True}, [0, 3]),
        ({"sizes": 2}, [0, 4]),
        ({"categories": "Nails", "price": (None, 10)}, [0]),
        ({"brand": "zeta", "price": (None, 10)}, []),
    ],
)
def test_where(shop: WhereFilters, where: dict[str, Any] | None, rows: list[int]) -> None:
    assert np.flatnonzero(shop(where).allowed_mask()).tolist() == rows


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"colour": "red"}, "no attribute 'colour'; there are brand, categories, price"),
        ({"price": "cheap"}, "price holds numbers, not 'cheap'"),
        ({"price": (None, "20")}, "price holds numbers, not '20'"),
        ({"price": (None, 2, 3)}, r"price: a range is a low and a high end, not \[None, 2, 3\]"),
        ({"price": {"maximum": 20}}, r"price: a range is {min: LOW, max: HIGH}, not {'maximum': 20}"),
        ({"price": {}}, "price: a range is"),
        ({"price": {"max": "20"}}, "price holds numbers, not '20'"),
        ({"price": {"min": 20, "max": 5}}, "price: the range from 20 to 5 is empty"),
        ({"brand": {"max": 20}}, "brand has no numbers"),
        ({"brands": "acme"}, "no attribute 'brands'; .*; did you mean 'brand'?"),
        ({"brand": "Acme "}, "no item has brand 'Acme '; did you mean 'acme'?"),
        ({"brand": ["zeta", "ACME"]}, "no item has brand 'ACME'; did you mean 'acme'?"),
        ({"brand": "zet"}, "no item has brand 'zet'; did you mean 'zeta'?"),
        ({"brand": "quite another"}, "no item has brand 'quite another'$"),
        ({"categories": ["Nails", "nail"]}, "no item has categories 'nail'; did you mean 'Nails'?"),
        ({"price": 13}, "no item has price 13; the nearest there is: 12.5 and 20"),
        ({"stars": 2.5}, "no item has stars 2.5; the nearest there is: 2 and 3"),
        ({"price": True}, "price holds numbers, not True"),
        ({"brand": "\ud800"}, "brand holds text, not the half of a character"),
        ({"price": (float("nan"), 20)}, "price"),
        ({"brand": 3}, "brand holds text, not 3"),
        ({"brand": None}, "brand holds text, not None"),
        ({"brand": ["acme", 3]}, "brand holds text, not 3"),
        ({"brand": {"acme": 1}}, "a range is"),
        ({"categories": 3}, "categories holds text, not 3"),
        ({"vegan": 1}, "vegan holds true or false, not 1"),
    ],
)
def test_bad_conditions_are_refused(shop: WhereFilters, where: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        shop(where)


def test_shared_filters_are_compiled_once(shop: WhereFilters) -> None:
    first = shop({"brand": "acme", "price": (None, 20)})
    assert shop({"price": (None, 20), "brand": "acme"}) is first
    assert shop({"brand": "acme"}) is not first


def test_the_cache_forgets_what_was_asked_for_longest_ago(shop: WhereFilters) -> None:
    kept = shop({"brand": "acme"})
    for i in range(WhereFilters.KEPT - 1):
        shop({"price": (None, i)})
    assert shop({"brand": "acme"}) is kept
    for i in range(WhereFilters.KEPT - 1):
        shop({"price": (i, None)})
    assert shop({"brand": "acme"}) is kept
    for i in range(WhereFilters.KEPT):
        shop({"stars": (i, None)})
    assert shop({"brand": "acme"}) is not kept


def test_a_catalogue_of_another_length_is_refused(shop: WhereFilters) -> None:
    with pytest.raises(ValueError, match="6 items in the catalogue but 7 in the trie"):
        WhereFilters(make_trie(7), shop.catalog)
