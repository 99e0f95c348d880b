"""`CodeTrie`: the code sequences that are items, in compact per-level code space.

Items are sorted by their codes; an item's place in that order is its trie position. Every node is then a contiguous
range of positions, and the children of a node a contiguous range of nodes, so the whole trie is a few flat arrays a
level and one step of a search costs what the nodes that it touches cost, whatever the size of the catalogue. Where many
codes of a level are taken, a table over all of them stands beside the lists of children and saves looking these up.

Shapes: N items, L levels, V_l codes on level l, n_l nodes of depth l (n_0 = 1, the root; n_L = N, the items).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genrec.semtok.errors import InputError

TABLE_SPARSITY = 8  # a table over all codes of a level pays from one child in so many codes


@dataclass(frozen=True)
class TrieLevel:
    """The edges from the nodes of depth l to their children of depth l + 1.

    Attributes:
        first_child: int32 [n_l + 1]; the children of node i are `first_child[i]` to `first_child[i + 1]`.
        codes: int16 or int32 [n_(l+1)]; the code that leads to each child, ascending within a node.
        first_item: int32 [n_(l+1) + 1]; the items below child j are positions `first_item[j]` to `first_item[j + 1]`.
            None on the last level, where child j is position j.
        table: int32 [n_l, V_l + 1], or None where most codes lead nowhere; the items below node i that code c leads to
            are positions `table[i, c]` to `table[i, c + 1]`.
    """

    first_child: Tensor
    codes: Tensor
    first_item: Tensor | None
    table: Tensor | None

    def children(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """First child and number of children of each node: two int32 tensors of the shape of `nodes`."""
        first = self.first_child[nodes]
        return first, self.first_child[nodes + 1] - first

    def bounds(self, children: Tensor) -> Tensor:
        """Where the items below each child begin, int32; `children`, int32, may be one past the last."""
        return children if self.first_item is None else _lookup(self.first_item, children)

    def code(self, children: Tensor) -> Tensor:
        """The code that leads to each child, int64; of one past the last, any."""
        return _lookup(self.codes, children.clamp(max=len(self.codes) - 1)).long()

    def child_of(self, positions: Tensor) -> Tensor:
        """The child above each trie position (int32), int64; one past the last for position N."""
        if self.first_item is None:
            return positions.long()
        return torch.searchsorted(self.first_item, positions, right=True) - 1

    def to(self, device: torch.device) -> TrieLevel:
        """The same level on another device."""
        first_item = None if self.first_item is None else self.first_item.to(device)
        table = None if self.table is None else self.table.to(device)
        return TrieLevel(self.first_child.to(device), self.codes.to(device), first_item, table)


def _lookup(values: Tensor, index: Tensor) -> Tensor:
    """`values[index]` for a flat `values`; several times faster than indexing."""
    return values.index_select(0, index.flatten()).view(index.shape)


class CodeTrie:
    """The trie of a catalogue's codes.

    Args:
        codes: int [N, L], one row a catalogue row, in any order.
        sizes: codes on each level.

    Attributes:
        order: int32 [N], trie position to catalogue row.
        position: int32 [N], catalogue row to trie position.
        index_version: SHA-256 of the codes and sizes; lists and stores quote it.

    Raises:
        InputError: the codes are ragged, empty, no integers, out of range, or two rows share one sequence.

    >>> trie = CodeTrie(np.array([[1, 0], [0, 1], [0, 0]]), (2, 2))
    >>> trie.order.tolist()  # by codes: items below a node lie side by side
    [2, 1, 0]
    """

    def __init__(self, codes: NDArray[np.int32], sizes: tuple[int, ...]) -> None:
        codes = _checked(codes, sizes)
        self.sizes = tuple(int(size) for size in sizes)
        self.n_items, self.n_levels = codes.shape
        self.index_version = _hash(codes, self.sizes)
        self.order, columns = _sorted(codes, self.sizes)
        self.levels = _levels(columns, self.sizes)
        if len(self.levels[-1].codes) < self.n_items:
            self._refuse_duplicates(codes)
        self.position = np.empty(self.n_items, dtype=np.int32)
        self.position[self.order] = np.arange(self.n_items, dtype=np.int32)
        self._on_device: dict[torch.device, tuple[TrieLevel, ...]] = {torch.device("cpu"): self.levels}

    def _refuse_duplicates(self, codes: NDArray[np.int32]) -> None:
        repeats = (codes[self.order[1:]] == codes[self.order[:-1]]).all(axis=1)
        second = int(np.argmax(repeats)) + 1
        rows = sorted((int(self.order[second - 1]), int(self.order[second])))
        raise InputError(
            f"catalogue rows {rows[0]} and {rows[1]} share the codes {tuple(codes[rows[0]].tolist())}: "
            f"{int(repeats.sum())} of {self.n_items} items can't be told from another"
        )

    def levels_on(self, device: torch.device) -> tuple[TrieLevel, ...]:
        """The levels on a device; copied once."""
        if device not in self._on_device:
            self._on_device[device] = tuple(level.to(device) for level in self.levels)
        return self._on_device[device]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays that the trie keeps."""
        tensors = [t for level in self.levels for t in vars(level).values() if t is not None]
        shared = {t.data_ptr(): t.untyped_storage().nbytes() for t in tensors}
        return int(sum(shared.values())) + self.order.nbytes + self.position.nbytes


def _checked(codes: NDArray[np.int32], sizes: tuple[int, ...]) -> NDArray[np.int32]:
    codes = np.asarray(codes)
    if codes.ndim != 2 or codes.dtype.kind not in "iu":
        raise InputError(f"codes must be integers of shape [items, levels], not {codes.dtype} of shape {codes.shape}")
    if codes.shape[1] != len(sizes) or len(sizes) == 0:
        raise InputError(f"codes have {codes.shape[1]} levels but sizes name {len(sizes)}")
    if len(codes) == 0:
        raise InputError("a trie needs at least one item")
    for level, size in enumerate(sizes):
        column = codes[:, level]
        if column.min() < 0 or column.max() >= size:
            row = int(np.argmax((column < 0) | (column >= size)))
            raise InputError(f"catalogue row {row}: code {column[row]} of level {level} is not in 0 to {size - 1}")
    return codes.astype(np.int32, copy=False)


def _hash(codes: NDArray[np.int32], sizes: tuple[int, ...]) -> str:
    digest = hashlib.sha256(repr(sizes).encode())
    digest.update(np.ascontiguousarray(codes, dtype="<i4").data)
    return digest.hexdigest()


def _sorted(
    codes: NDArray[np.int32], sizes: tuple[int, ...]
) -> tuple[NDArray[np.int32], Iterator[NDArray[np.integer[Any]]]]:
    """Rows in lexicographic order of their codes, and each level's codes in that order, one level after the other."""
    bits = [max(1, (size - 1).bit_length()) for size in sizes]
    row_bits = len(codes).bit_length()
    if sum(bits) + row_bits > 64:
        order = np.lexsort(codes.T[::-1]).astype(np.int32)
        return order, (codes[order, level] for level in range(len(sizes)))
    # A row's codes and its number in one integer: sorting these is twenty times faster than finding an order, and
    # what they held is read off them without touching the rows again.
    keys = np.zeros(len(codes), dtype=np.uint64)
    for level, width in enumerate(bits):
        keys <<= width
        keys |= codes[:, level].astype(np.uint64)
    keys <<= row_bits
    keys |= np.arange(len(codes), dtype=np.uint64)
    keys.sort()
    order = (keys & (2**row_bits - 1)).astype(np.int32)
    shifts = [row_bits + sum(bits[level + 1 :]) for level in range(len(sizes))]
    return order, ((keys >> shift & (2**width - 1)).astype(np.int32) for shift, width in zip(shifts, bits, strict=True))


def _levels(columns: Iterator[NDArray[np.integer[Any]]], sizes: tuple[int, ...]) -> tuple[TrieLevel, ...]:
    """The levels of sorted codes; items that share one sequence are one node of the last."""
    levels: list[TrieLevel] = []
    begins = np.empty(0, dtype=np.bool_)  # is this position the first of its node of the depth at hand?
    above = np.empty(0, dtype=np.int32)  # where the nodes of the depth above begin, and N
    for column, size in zip(columns, sizes, strict=True):
        if not levels:
            begins = np.zeros(len(column), dtype=np.bool_)
            begins[0] = True
            above = np.array([0, len(column)], dtype=np.int32)
        begins[1:] |= column[1:] != column[:-1]
        starts = np.append(np.flatnonzero(begins), len(column)).astype(np.int32)
        codes: NDArray[np.integer[Any]] = column[begins].astype(np.int16 if size <= 2**15 else np.int32)
        is_last = len(levels) == len(sizes) - 1
        # Where every child is one item, children are counted as items are.
        first_child = above if len(codes) == len(column) else np.searchsorted(starts, above).astype(np.int32)
        table = _table(first_child, codes, starts, size)
        first_item = None if is_last else torch.from_numpy(starts)
        levels.append(TrieLevel(torch.from_numpy(first_child), torch.from_numpy(codes), first_item, table))
        above = starts
    return tuple(levels)


def _table(
    first_child: NDArray[np.int32], codes: NDArray[np.integer[Any]], starts: NDArray[np.int32], size: int
) -> Tensor | None:
    """`TrieLevel.table` where at least one in `TABLE_SPARSITY` of its cells leads somewhere."""
    n_nodes = len(first_child) - 1
    if n_nodes * size > TABLE_SPARSITY * len(codes):
        return None
    cells = np.repeat(np.arange(n_nodes, dtype=np.int32) * np.int32(size), np.diff(first_child))
    cells += codes
    begin = np.zeros(n_nodes * size + 1, dtype=np.int32)
    begin[1:][cells] = np.diff(starts)
    np.cumsum(begin, out=begin)
    return torch.from_numpy(begin).unfold(0, size + 1, size)  # where one node ends the next begins: they share a cell
