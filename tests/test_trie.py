"""`CodeTrie` against plain Python sets, in any row order, and every kind of bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from genrec.decoding.trie import TABLE_SPARSITY, CodeTrie
from genrec.semtok.errors import InputError

SIZES = (4, 3, 5)


def draw_codes(seed: int, n: int, sizes: tuple[int, ...] = SIZES) -> NDArray[np.int32]:
    """n different code sequences in random order."""
    flat = np.random.default_rng(seed).choice(int(np.prod(sizes)), size=n, replace=False)
    return np.stack(np.unravel_index(flat, sizes), axis=1).astype(np.int32)


def walk(trie: CodeTrie) -> dict[tuple[int, ...], tuple[int, int]]:
    """Every prefix in the trie with the range of positions below it, found through the arrays alone."""
    found = {(): (0, trie.n_items)}
    nodes: list[tuple[tuple[int, ...], int]] = [((), 0)]
    for level in trie.levels:
        below = []
        for prefix, node in nodes:
            first, count = (int(t) for t in level.children(torch.tensor(node)))
            for child in range(first, first + count):
                longer = (*prefix, int(level.codes[child]))
                begin, end = (int(level.bounds(torch.tensor(c, dtype=torch.int32))) for c in (child, child + 1))
                assert longer not in found
                found[longer] = (begin, end)
                below.append((longer, child))
        nodes = below
    return found


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 60))
def test_every_node_is_the_range_of_the_items_below_it(seed: int, n: int) -> None:
    codes = draw_codes(seed, n)
    trie = CodeTrie(codes, SIZES)
    ranked = [tuple(row) for row in codes[trie.order].tolist()]
    assert ranked == sorted(tuple(row) for row in codes.tolist())
    assert trie.position[trie.order].tolist() == list(range(n))
    prefixes = {row[:depth] for row in ranked for depth in range(len(SIZES) + 1)}
    found = walk(trie)
    assert set(found) == prefixes
    for prefix, (begin, end) in found.items():
        assert [row[: len(prefix)] == prefix for row in ranked] == [begin <= i < end for i in range(n)]


def test_codes_ascend_within_a_node() -> None:
    trie = CodeTrie(draw_codes(0, 50), SIZES)
    for level in trie.levels:
        for first, last in zip(level.first_child[:-1].tolist(), level.first_child[1:].tolist(), strict=True):
            codes = level.codes[first:last].tolist()
            assert codes == sorted(set(codes))


def test_one_level_and_one_item() -> None:
    trie = CodeTrie(np.array([[3], [1], [2]], dtype=np.int32), (9,))
    assert trie.order.tolist() == [1, 2, 0]
    assert walk(trie) == {(): (0, 3), (1,): (0, 1), (2,): (1, 2), (3,): (2, 3)}
    assert walk(CodeTrie(np.array([[7, 0]], dtype=np.int32), (8, 1))) == {(): (0, 1), (7,): (0, 1), (7, 0): (0, 1)}


def test_codes_too_wide_for_one_integer_sort_the_same() -> None:
    sizes = (2**20, 2**20, 2**20, 2**20)
    codes = draw_codes(1, 40, (5, 5, 5, 5))
    wide, narrow = CodeTrie(codes, sizes), CodeTrie(codes, (5, 5, 5, 5))
    assert wide.order.tolist() == narrow.order.tolist()
    assert wide.levels[0].codes.dtype == torch.int32
    assert walk(wide) == walk(narrow)


def test_two_items_with_one_sequence_are_named() -> None:
    codes = draw_codes(2, 20)
    codes[17] = codes[4]
    with pytest.raises(InputError, match="rows 4 and 17 share the codes"):
        CodeTrie(codes, SIZES)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([[0, 1], [0, 1, 2]], "shape"),
        ([0, 1, 2], "shape"),
        ([[0.0, 1.0, 2.0]], "integers"),
        ([[0, 1]], "2 levels but sizes name 3"),
        ([[0, 0, 0], [1, 3, 0]], "row 1: code 3 of level 1 is not in 0 to 2"),
        ([[0, 0, 0], [-1, 0, 0]], "row 1: code -1 of level 0"),
        (np.empty((0, 3), dtype=np.int32), "at least one item"),
    ],
)
def test_bad_codes_are_refused(codes: list[list[int]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CodeTrie(np.array(codes, dtype=object if message == "shape" else None), SIZES)


def test_the_version_names_codes_sizes_and_row_order() -> None:
    codes = draw_codes(3, 30)
    version = CodeTrie(codes, SIZES).index_version
    assert version == CodeTrie(codes.astype(np.int64), SIZES).index_version
    assert version == CodeTrie(np.asfortranarray(codes), SIZES).index_version
    assert version != CodeTrie(codes[::-1], SIZES).index_version
    assert version != CodeTrie(codes, (4, 3, 6)).index_version


def test_the_bytes_of_the_arrays_are_counted_once() -> None:
    trie = CodeTrie(draw_codes(4, 60), SIZES)
    assert [len(level.codes) for level in trie.levels] == [4, 12, 60]
    codes, rows = (4 + 12 + 60) * 2, 60 * 4 * 2
    root, below_first, below_second = 2 * 4, 5 * 4, 13 * 4
    tables = (5 + 13 + 61) * 4
    # The first children of the nodes of depth 2 are the first of their items.
    assert trie.nbytes == codes + rows + root + 2 * below_first + below_second + tables


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 60))
def test_tables_say_what_the_lists_of_children_say(seed: int, n: int) -> None:
    trie = CodeTrie(draw_codes(seed, n), SIZES)
    for level, size in zip(trie.levels, SIZES, strict=True):
        nodes, children = len(level.first_child) - 1, len(level.codes)
        assert (level.table is None) == (nodes * size > TABLE_SPARSITY * children)
        for node in range(nodes) if level.table is not None else ():
            items = {}
            for child in range(int(level.first_child[node]), int(level.first_child[node + 1])):
                begin, end = (int(level.bounds(torch.tensor(c, dtype=torch.int32))) for c in (child, child + 1))
                items[int(level.codes[child])] = (begin, end)
                assert {int(level.child_of(torch.tensor(i, dtype=torch.int32))) for i in range(begin, end)} == {child}
            rows = [(int(level.table[node, code]), int(level.table[node, code + 1])) for code in range(size)]
            assert {code: row for code, row in enumerate(rows) if row[0] < row[1]} == items
