"""Sequences rebuilt from growing prefixes and sliding windows: whole again, and no event twice."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from genrec.data.sequences import Sequences
from genrec.data.windows import merge_rows

Rows = list[tuple[str, list[int]]]


def merged(rows: Rows, width: int, start: Rows | None = None) -> Rows:
    def pair(several: Rows) -> tuple[list[str], Sequences]:
        return [user for user, _ in several], Sequences.from_lists(items for _, items in several)

    users, sequences = merge_rows(*pair(rows), width, start=pair(start) if start is not None else None)
    return [(user, sequence.tolist()) for user, sequence in zip(users, sequences, strict=True)]


def windows(sequence: list[int], width: int) -> list[list[int]]:
    """The rows that a published split makes of a sequence: every target with the last `width` items before it."""
    return [sequence[max(0, end - width) : end + 1] for end in range(1, len(sequence))]


def test_growing_prefixes_become_one_sequence() -> None:
    assert merged([("u", [1, 2]), ("u", [1, 2, 3]), ("v", [4, 5]), ("u", [1, 2, 3, 2])], 3) == [
        ("u", [1, 2, 3, 2]),
        ("v", [4, 5]),
    ]


def test_prefixes_in_any_order_with_gaps_and_repeats() -> None:
    assert merged([("u", [1, 2, 3, 4]), ("u", [1, 2]), ("u", [1, 2, 3, 4]), ("u", [1, 2, 3, 4, 5, 6])], 9) == [
        ("u", [1, 2, 3, 4, 5, 6])
    ]


def test_windows_with_missing_rows_between_them_count_an_event_once() -> None:
    assert merged([("u", [1, 2, 3]), ("u", [2, 3, 4]), ("u", [4, 5, 6])], 2) == [("u", [1, 2, 3, 4, 5, 6])]
    assert merged([("u", [1, 2, 3]), ("u", [2, 3, 4]), ("u", [1, 2, 3]), ("u", [2, 3, 4])], 2) == [("u", [1, 2, 3, 4])]


def test_rows_that_do_not_meet_stay_apart() -> None:
    assert merged([("u", [1, 2, 3]), ("u", [7, 8, 9]), ("u", [2, 3, 4])], 2) == [("u", [1, 2, 3, 4]), ("u", [7, 8, 9])]
    assert merged([("u", [1, 2]), ("u", [2, 3])], 5) == [("u", [1, 2]), ("u", [2, 3])]


def test_rows_continue_what_is_there_and_empty_ones_pass() -> None:
    start = [("v", [9]), ("u", [1, 2]), ("u", [5])]
    assert merged([("u", [1, 2, 3]), ("w", []), ("w", [4])], 3, start) == [
        ("v", [9]),
        ("u", [1, 2, 3]),
        ("u", [5]),
        ("w", [4]),
    ]


@given(
    st.dictionaries(st.sampled_from("abc"), st.lists(st.integers(0, 3), min_size=2, max_size=12), min_size=1),
    st.integers(1, 20),
)
def test_windows_of_any_sequence_give_it_back(sequences: dict[str, list[int]], width: int) -> None:
    rows = [(user, row) for user, sequence in sequences.items() for row in windows(sequence, width)]
    longest = max(len(row) - 1 for _, row in rows)
    assert merged(rows, longest) == list(sequences.items())


@given(st.permutations([0, 1, 2, 3, 4, 5, 6]), st.permutations(range(6)), st.integers(1, 6))
def test_no_event_is_counted_twice_in_any_order_of_whole_rows(items: list[int], order: list[int], keep: int) -> None:
    rows = [("u", windows(items, 99)[i]) for i in order[:keep]]
    assert merged(rows, 99) == [("u", items[: max(order[:keep]) + 2])]
