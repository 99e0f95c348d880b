"""A world with a known answer for sequential models: items stand in a ring, and people walk it in either direction.

What comes next is the neighbour of the last item on the other side of the one before, so a model must read the order of
at least two items; by the last item alone the best that it can do is one half.
"""

from __future__ import annotations

import numpy as np

from genrec.data.cases import Cases, Split
from genrec.data.sequences import Sequences

N_ITEMS = 12


def walks(rng: np.random.Generator, n: int, directions: tuple[int, ...]) -> tuple[Sequences, np.ndarray]:
    """n walks of 2 to 8 items, and the item after each."""
    rows, answers = [], []
    for _ in range(n):
        start, direction = rng.integers(N_ITEMS), rng.choice(directions)
        path = (start + direction * np.arange(rng.integers(2, 9) + 1)) % N_ITEMS
        rows.append(path[:-1])
        answers.append(path[-1])
    return Sequences.from_lists(rows), np.array(answers, dtype=np.int32)


def ring_split(directions: tuple[int, ...] = (-1, 1), *, train: int = 300, asked: int = 60) -> Split:
    """Training walks, and validation and test cases that nobody walked in training by name."""
    rng = np.random.default_rng(0)

    def cases() -> Cases:
        histories, targets = walks(rng, asked, directions)
        ids = tuple(str(case) for case in range(asked))
        return Cases(ids, ids, histories, targets, None, np.zeros(asked, dtype=np.bool_))

    learned, _ = walks(rng, train, directions)
    return Split(learned, tuple(str(user) for user in range(train)), cases(), cases(), "given")
