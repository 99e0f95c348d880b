"""Cutting sequences of very different lengths into batches with little padding, the same way for every model.

Shapes: S sequences, n items of one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def windows(length: int, size: int) -> list[tuple[int, int, int]]:
    """Cover `length` items by windows of at most `size`: (start, first target, end), each item a target exactly once.

    From the end backwards in steps of three quarters of a window: a target has a quarter of a window before it, or the
    whole sequence. Halves read half as much again for lists that are no better.

    >>> windows(6, 4)
    [(0, 0, 3), (2, 3, 6)]
    """
    result = []
    end = length
    while end > 0:
        start = max(0, end - size)
        first_target = start if start == 0 else end - max(1, size * 3 // 4)
        result.append((start, first_target, end))
        end = first_target
    return result[::-1]


def batches_by_length(
    lengths: NDArray[np.int64], token_budget: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Group sequences of like length into batches of at most `token_budget` padded positions, in random order.

    A sequence longer than the budget gets a batch of its own. Random ties (and a random step of one in length) change
    who shares a batch from epoch to epoch.

    Args:
        lengths: int64 [S].
        rng: decides ties and the order of batches.

    Returns:
        Index arrays that together hold every sequence once.
    """
    order = np.lexsort((rng.random(len(lengths)), lengths + rng.integers(0, 2, len(lengths))))
    groups, start, longest = [], 0, 0
    for end, index in enumerate(order):
        longest = max(longest, int(lengths[index]))
        if longest * (end - start + 1) > token_budget and end > start:
            groups.append(order[start:end])
            start, longest = end, int(lengths[index])
    if start < len(order):
        groups.append(order[start:])
    return [groups[i] for i in rng.permutation(len(groups))]
