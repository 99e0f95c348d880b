"""Putting sequences back together from the rows that a published split cuts them into.

Split files hold one row a target: `history,target`. The rows of one user are growing prefixes of one sequence, or
windows that slide over it once the history is cut to the last W items. Trained on as they are, an event would count
once as a target and again in each later row, since a loss on every item of a history makes targets of them all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from genrec.data.sequences import Sequences


def merge_rows(
    user_ids: Sequence[str],
    rows: Sequences,
    width: int,
    *,
    start: tuple[Sequence[str], Sequences] | None = None,
) -> tuple[tuple[str, ...], Sequences]:
    """Merge the rows of each user into as few sequences as explain them, each event once.

    Rows are taken in their order (file order, which must be oldest first for windows). With `history` all but the last
    item of a row:

    1. A history shorter than `width` is whole, so it begins where its sequence begins: a row that a sequence begins
       with is skipped, a row that begins with a whole sequence replaces it.
    2. A history of `width` items may have been cut. If a sequence ends with it, the row's last item is appended; if the
       row stands inside a sequence, it is skipped; else the longest end of a sequence that the row begins with is where
       the row continues it (rows between them are missing).
    3. A row that fits no sequence of its user begins a new one.

    Args:
        user_ids: whose each row is.
        rows: histories with their targets behind them; empty rows are passed over.
        width: length of the longest history in the rows' files.
        start: users and sequences to begin from, one pair a sequence; they are continued, not merged with each other.

    Returns:
        users and sequences, by first appearance of the user.
    """
    found: dict[str, list[list[int]]] = {}
    if start is not None:
        for user, sequence in zip(*start, strict=True):
            found.setdefault(user, []).append(sequence.tolist())
    for user, array in zip(user_ids, rows, strict=True):
        row = array.tolist()
        if row:
            _place(row, found.setdefault(user, []), maybe_cut=len(row) > width)
    pairs = [(user, sequence) for user, sequences in found.items() for sequence in sequences]
    return tuple(user for user, _ in pairs), Sequences.from_lists(np.asarray(s, dtype=np.int32) for _, s in pairs)


def _place(row: list[int], sequences: list[list[int]], *, maybe_cut: bool) -> None:
    if maybe_cut:
        for sequence in reversed(sequences):
            if sequence[-len(row) + 1 :] == row[:-1]:
                sequence.append(row[-1])
                return
        if any(_inside(row, sequence) for sequence in sequences):
            return
        overlaps = [_overlap(sequence, row) for sequence in sequences]
        if overlaps and max(overlaps) > 0:
            best = int(np.argmax(overlaps))
            sequences[best].extend(row[overlaps[best] :])
            return
    else:
        for sequence in sequences:
            if sequence[: len(row)] == row:
                return
            if row[: len(sequence)] == sequence:
                sequence.extend(row[len(sequence) :])
                return
    sequences.append(row)


def _inside(row: list[int], sequence: list[int]) -> bool:
    return any(sequence[i : i + len(row)] == row for i in range(len(sequence) - len(row) + 1))


def _overlap(sequence: list[int], row: list[int]) -> int:
    """The most items that end `sequence` and begin `row`."""
    sizes: Iterable[int] = range(min(len(sequence), len(row) - 1), 0, -1)
    return next((size for size in sizes if sequence[-size:] == row[:size]), 0)
