"""`Sequences`: many item sequences of different lengths in two flat arrays.

Shapes: S sequences, E events in all of them, P pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Sequences:
    """Ragged int32 rows, oldest event first."""

    values: NDArray[np.int32]  # [E], catalogue rows (or any small integers)
    offsets: NDArray[np.int64]  # [S+1]; sequence s is `values[offsets[s]:offsets[s + 1]]`

    def __post_init__(self) -> None:
        if self.offsets.ndim != 1 or len(self.offsets) == 0 or self.offsets[0] != 0:
            raise ValueError("offsets must be one-dimensional and begin with 0")
        if self.offsets[-1] != len(self.values) or np.any(np.diff(self.offsets) < 0):
            raise ValueError("offsets must not decrease and must end at the number of values")

    @classmethod
    def from_lists(cls, rows: Iterable[ArrayLike]) -> Sequences:
        """Build from an iterable of integer sequences.

        >>> [row.tolist() for row in Sequences.from_lists([[3, 1], [], [2]])]
        [[3, 1], [], [2]]
        """
        arrays = [np.asarray(row, dtype=np.int32) for row in rows]
        values = np.concatenate(arrays) if arrays else np.empty(0, dtype=np.int32)
        return cls(values, offsets_of([len(array) for array in arrays]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> NDArray[np.int32]:
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def __iter__(self) -> Iterator[NDArray[np.int32]]:
        return (self[i] for i in range(len(self)))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Length of each sequence, int64 [S]."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> NDArray[np.int64]:
        """The sequence of each event, int64 [E]."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def pairs(self) -> NDArray[np.int32]:
        """Every two events that follow one another in a sequence, [P, 2].

        >>> Sequences.from_lists([[3, 1, 4], [2], [], [5, 9]]).pairs().tolist()
        [[3, 1], [1, 4], [5, 9]]
        """
        owners = self.owners
        inside = owners[:-1] == owners[1:]
        return np.stack([self.values[:-1], self.values[1:]], axis=1)[inside]

    def take(self, indices: ArrayLike) -> Sequences:
        """The sequences at `indices`, in that order."""
        chosen = np.asarray(indices, dtype=np.int64)
        return gather(self.values, self.offsets[chosen], self.lengths[chosen])

    def last(self, n: int) -> Sequences:
        """Every sequence cut to its last `n` events.

        >>> [row.tolist() for row in Sequences.from_lists([[3, 1, 4], [2]]).last(2)]
        [[1, 4], [2]]
        """
        kept = np.minimum(self.lengths, n)
        return gather(self.values, self.offsets[1:] - kept, kept)


def offsets_of(lengths: ArrayLike) -> NDArray[np.int64]:
    """The offsets, int64 [S+1], of S rows of these lengths."""
    return np.insert(np.cumsum(np.asarray(lengths), dtype=np.int64), 0, 0)


def gather(values: NDArray[np.int32], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> Sequences:
    """The sequences that begin at `starts` [S] of a flat array and have `lengths` [S]."""
    offsets = offsets_of(lengths)
    index = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
    return Sequences(values[index], offsets)
