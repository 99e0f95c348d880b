"""Ragged rows behave like the lists they stand for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec.data.sequences import Sequences

ragged = st.lists(st.lists(st.integers(0, 9), max_size=6), max_size=6)


def lists(sequences: Sequences) -> list[list[int]]:
    return [sequence.tolist() for sequence in sequences]


@given(ragged)
def test_from_lists_and_back(rows: list[list[int]]) -> None:
    sequences = Sequences.from_lists(rows)
    assert lists(sequences) == rows
    assert len(sequences) == len(rows)
    assert sequences.lengths.tolist() == [len(row) for row in rows]
    assert (sequences.values.dtype, sequences.offsets.dtype) == (np.int32, np.int64)
    assert [sequences[i].tolist() for i in range(len(rows))] == rows


@given(ragged.filter(len), st.data())
def test_take_repeats_and_reorders(rows: list[list[int]], data: st.DataObject) -> None:
    indices = data.draw(st.lists(st.integers(0, len(rows) - 1)))
    assert lists(Sequences.from_lists(rows).take(indices)) == [rows[i] for i in indices]


@given(ragged, st.integers(0, 8))
def test_last_cuts_every_row(rows: list[list[int]], n: int) -> None:
    assert lists(Sequences.from_lists(rows).last(n)) == [row[-n:] if n else [] for row in rows]


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([], "begin with 0"),
        ([1, 2], "begin with 0"),
        ([[0, 2]], "one-dimensional"),
        ([0, 1], "end at the number of values"),
        ([0, 3, 2], "not decrease"),
        ([0, 2, 3], "end at the number of values"),
    ],
)
def test_broken_offsets_are_refused(offsets: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sequences(np.asarray([5, 6], dtype=np.int32), np.asarray(offsets, dtype=np.int64))
