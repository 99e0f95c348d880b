"""Collision resolution: always one-to-one, items alone never move, least cost under a prefix (by brute force)."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from genrec.semtok.errors import InputError
from genrec.semtok.quantizers.collisions import CostFunction, TakenPaths, path_numbers, resolve, shared_by
from genrec.semtok.quantizers.residual import Codes, Floats


def table_costs(n_items: int, sizes: tuple[int, ...], seed: int = 0) -> CostFunction:
    """Costs drawn once for every item, level and code; the prefix does not matter."""
    rng = np.random.default_rng(seed)
    tables = [rng.random((n_items, size)).astype(np.float32) for size in sizes]

    def costs(rows: NDArray[np.int64], prefix: Codes) -> Floats:
        return tables[prefix.shape[1]][rows]

    return costs


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Codes, tuple[int, ...]]:
    """Codes with many collisions, up to a completely full tree."""
    sizes = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    n_items = draw(st.integers(1, math.prod(sizes)))
    rows = [[draw(st.integers(0, size - 1)) for size in sizes] for _ in range(n_items)]
    return np.array(rows, dtype=np.int32), sizes


@given(worlds())
def test_codes_become_one_to_one_and_items_alone_stay(world: tuple[Codes, tuple[int, ...]]) -> None:
    codes, sizes = world
    before = codes.copy()
    resolved = resolve(codes, sizes, table_costs(len(codes), sizes))
    np.testing.assert_array_equal(codes, before)  # the input is left as it was
    assert (shared_by(resolved, sizes) == 1).all()
    assert (resolved >= 0).all()
    assert (resolved < sizes).all()
    alone = shared_by(codes, sizes) == 1
    np.testing.assert_array_equal(resolved[alone], codes[alone])
    # Of every colliding group exactly one stays, and it is the nearest.
    moved = (resolved != codes).any(axis=1)
    assert moved.sum() == len(codes) - len(np.unique(codes, axis=0))
    price = table_costs(len(codes), sizes)(np.arange(len(codes)), codes[:, :-1])
    for path in np.unique(codes, axis=0):
        group = np.flatnonzero((codes == path).all(axis=1))
        assert not moved[group[np.argmin(price[group, path[-1]])]]
    np.testing.assert_array_equal(resolve(codes, sizes, table_costs(len(codes), sizes)), resolved)


@given(worlds())
def test_items_leave_their_prefix_only_when_it_is_full(world: tuple[Codes, tuple[int, ...]]) -> None:
    codes, sizes = world
    resolved = resolve(codes, sizes, table_costs(len(codes), sizes))
    for row in np.flatnonzero((resolved != codes).any(axis=1)):
        level = int(np.argmax(resolved[row] != codes[row]))  # the first level on which the item left its path
        for depth in range(level + 1, len(sizes)):
            under = (resolved[:, :depth] == codes[row, :depth]).all(axis=1).sum()
            assert under == math.prod(sizes[depth:])


@given(st.integers(2, 5), st.integers(0, 1000))
def test_movers_under_a_prefix_cost_the_least_possible(n_items: int, seed: int) -> None:
    sizes = (1, 6)
    costs = table_costs(n_items, sizes, seed)
    codes = np.zeros((n_items, 2), dtype=np.int32)
    price = costs(np.arange(n_items), codes[:, :1]).astype(np.float64)
    resolved = resolve(codes, sizes, costs)
    keeper = int(np.argmin(price[:, 0]))
    assert resolved[keeper, 1] == 0
    movers = [row for row in range(n_items) if row != keeper]
    best = min(
        sum(price[row, code] for row, code in zip(movers, chosen, strict=True))
        for chosen in permutations(range(1, 6), len(movers))
    )
    assert sum(price[row, resolved[row, 1]] for row in movers) == pytest.approx(best)


def test_a_full_prefix_sends_the_rest_to_the_nearest_one_with_room() -> None:
    codes = np.array([[0, 0], [0, 0], [0, 0], [1, 0], [1, 1]], dtype=np.int32)
    first = np.array([[0, 1, 2]] * 5, dtype=np.float32)  # prefix 0 is nearest, then 1, then 2

    def costs(rows: NDArray[np.int64], prefix: Codes) -> Floats:
        if prefix.shape[1] == 0:
            return first[rows]
        return np.array([[0, 1], [1, 1], [2, 5], [0, 0], [0, 0]], dtype=np.float32)[rows]

    # Item 0 stays, item 1 takes the free code of prefix 0, prefix 1 is full, so item 2 goes to prefix 2.
    expected = [[0, 0], [0, 1], [2, 0], [1, 0], [1, 1]]
    assert resolve(codes, (3, 2), costs).tolist() == expected


def test_more_items_than_paths_are_refused() -> None:
    with pytest.raises(InputError, match="room for 4 items, the catalogue has 5"):
        resolve(np.zeros((5, 2), dtype=np.int32), (2, 2), table_costs(5, (2, 2)))


@given(worlds(), st.integers(0, 1000))
def test_free_paths_are_counted_exactly(world: tuple[Codes, tuple[int, ...]], seed: int) -> None:
    codes, sizes = world
    codes = np.unique(codes, axis=0)
    tree = TakenPaths(codes, sizes)
    taken = {tuple(row) for row in codes.tolist()}
    costs = table_costs(math.prod(sizes), sizes, seed)
    for row in range(math.prod(sizes) - len(codes)):  # fill the tree
        path = tuple(tree.take(row, costs).tolist())
        assert path not in taken
        taken.add(path)
        for depth in range(len(sizes) + 1):
            under = sum(other[:depth] == path[:depth] for other in taken)
            assert tree.free(path[:depth]) == math.prod(sizes[depth:]) - under
    with pytest.raises(InputError, match="are taken"):
        tree.take(0, costs)


def test_paths_are_numbered_in_the_order_of_their_codes() -> None:
    codes = np.array([[0, 0], [0, 2], [1, 0], [1, 1]], dtype=np.int32)
    assert path_numbers(codes, (2, 3)).tolist() == [0, 2, 3, 4]
    assert shared_by(codes[:, :1], (2,)).tolist() == [2, 2, 2, 2]
    with pytest.raises(InputError, match="more than 2"):
        path_numbers(np.zeros((1, 8), dtype=np.int32), (256,) * 8)
