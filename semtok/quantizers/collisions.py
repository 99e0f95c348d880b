"""One item, one ID: items that a quantiser gave the same codes are moved apart, as few and as little as possible.

An item alone on its codes never moves. Of the items on one path, the nearest stays; the others take free last codes
under the same prefix, in the assignment of least total cost (Kuhn 1955). Where a prefix has no room left, an item goes
up to the longest of its prefixes that has, and down from there by the cheapest code on each level whose subtree has
room. Everything is deterministic.

Shapes: N items, L levels, V_l codes on level l, m items at a time, p levels of a prefix.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from genrec.semtok.errors import InputError
from genrec.semtok.quantizers.residual import Codes, Floats

CostFunction = Callable[[NDArray[np.int64], Codes], Floats]
"""Item rows [m] and prefixes [m, p] to the cost of each code of level p, float32 [m, V_p]."""


def resolve(codes: Codes, sizes: Sequence[int], costs: CostFunction) -> Codes:
    """One-to-one codes, int32 [N, L], for the codes [N, L] of a quantiser.

    Raises:
        InputError: more items than paths.
    """
    capacity = math.prod(sizes)
    if len(codes) > capacity:
        raise InputError(f"--semtok.sizes {list(sizes)} have room for {capacity} items, the catalogue has {len(codes)}")
    resolved = codes.copy()
    overflow: list[int] = []
    for rows in _colliding_nodes(codes, sizes):
        overflow += _settle_node(resolved, rows, sizes[-1], costs)
    if overflow:
        placed = np.setdiff1d(np.arange(len(codes)), overflow)
        tree = TakenPaths(resolved[placed], sizes)
        for row in sorted(overflow):
            resolved[row] = tree.take(row, costs, tuple(codes[row, :-1].tolist()))
    return resolved


class TakenPaths:
    """Which paths of the code tree are taken.

    Args:
        codes: int32 [N, L], one-to-one.
        sizes: codes on each level.
    """

    def __init__(self, codes: Codes, sizes: Sequence[int]) -> None:
        self.sizes = tuple(sizes)
        # below[p]: paths under a node of p codes, so that a path is a number and a node is a range of numbers.
        self._below = [math.prod(self.sizes[level:]) for level in range(len(self.sizes) + 1)]
        self._taken = np.sort(path_numbers(codes, self.sizes))
        self._added: Counter[tuple[int, ...]] = Counter()

    def free(self, prefix: tuple[int, ...]) -> int:
        """Free paths under a prefix."""
        below = self._below[len(prefix)]
        first = sum(code * self._below[level + 1] for level, code in enumerate(prefix))
        low, high = np.searchsorted(self._taken, [first, first + below])
        return below - int(high - low) - self._added[prefix]

    def take(self, row: int, costs: CostFunction, prefix: tuple[int, ...] = ()) -> Codes:
        """Take the cheapest free path, level by level, for an item: int32 [L].

        Args:
            prefix: codes to keep as many of as there is room under.

        Raises:
            InputError: every path is taken.
        """
        if self.free(()) == 0:
            raise InputError(f"all {self._below[0]} semantic IDs are taken: fit the quantizer anew with larger sizes")
        path = next(kept for n in range(len(prefix), -1, -1) if self.free(kept := prefix[:n]))
        while len(path) < len(self.sizes):
            ranked = np.argsort(costs(np.array([row]), np.array([path], dtype=np.int32))[0], kind="stable")
            path = next(child for code in ranked.tolist() if self.free(child := (*path, code)))
        for level in range(len(path) + 1):
            self._added[path[:level]] += 1
        return np.array(path, dtype=np.int32)


def path_numbers(codes: Codes, sizes: Sequence[int]) -> NDArray[np.int64]:
    """Codes [N, p] of the first levels as one number an item, in the order of the codes.

    Raises:
        InputError: more paths than a number of 63 bits counts.
    """
    if math.prod(sizes) >= 2**63:
        raise InputError(f"--semtok.sizes {list(sizes)}: more than 2^63 code paths")
    numbers = np.zeros(len(codes), dtype=np.int64)
    for level in range(codes.shape[1]):
        numbers = numbers * sizes[level] + codes[:, level]
    return numbers


def shared_by(codes: Codes, sizes: Sequence[int]) -> NDArray[np.int64]:
    """How many items have each item's codes [N, p], itself included: int64 [N]."""
    _, inverse, counts = np.unique(path_numbers(codes, sizes), return_inverse=True, return_counts=True)
    return counts[inverse]


def _colliding_nodes(codes: Codes, sizes: Sequence[int]) -> list[NDArray[np.int64]]:
    """Rows under each prefix of L - 1 codes below which at least two items share a path, in order of the prefix."""
    numbers = path_numbers(codes[:, :-1], sizes)
    wanted = np.unique(numbers[shared_by(codes, sizes) > 1])
    rows = np.flatnonzero(np.isin(numbers, wanted))
    order = rows[np.argsort(numbers[rows], kind="stable")]
    return np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1) if len(order) else []


def _settle_node(codes: Codes, rows: NDArray[np.int64], size: int, costs: CostFunction) -> list[int]:
    """Give the items under one prefix different last codes, in place; returns the rows for which there is no room."""
    price = costs(rows, codes[rows, :-1])  # [m, V]
    last = codes[rows, -1].copy()
    movers = []
    for code in np.unique(last):
        here = np.flatnonzero(last == code)
        keeper = here[np.argmin(price[here, code])]
        movers += [index for index in here.tolist() if index != keeper]
    free = np.setdiff1d(np.arange(size), last)
    chosen, targets = linear_sum_assignment(price[np.asarray(movers, dtype=np.int64)[:, None], free])
    for index, target in zip(chosen.tolist(), targets.tolist(), strict=True):
        codes[rows[movers[index]], -1] = free[target]
    return [int(rows[movers[index]]) for index in sorted(set(range(len(movers))) - set(chosen.tolist()))]
