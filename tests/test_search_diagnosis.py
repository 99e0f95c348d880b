"""The diagnosis of a search whose scores are known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from worlds.table_scorer import TableScorer

from genrec.data.cases import Cases
from genrec.data.sequences import Sequences
from genrec.decoding.filters import ItemFilter
from genrec.decoding.trie import CodeTrie
from genrec.evaluation import search_diagnosis as module
from genrec.evaluation.search_diagnosis import BEAM, EXACT, search_diagnosis
from genrec.evaluation.tables import Row
from genrec.ranking.ranker import Ranker, RankingConfig

# Three items begin with 0, each of them likely; one begins with 1, which is the likeliest first code of all.
CODES = np.array([[0, 0], [0, 1], [0, 2], [1, 0]], dtype=np.int32)


class Prompts:
    """A vocabulary whose prompt is the user: the first item of the history."""

    def prompt(self, codes: NDArray[np.int32]) -> list[int]:
        return [int(codes[0, 1])]


def ranker(beams: int) -> Ranker:
    """User 0 takes code 1 first, user 1 code 0; the item behind code 1 is a bad one."""
    first = np.log(np.array([[0.4, 0.6], [0.9, 0.1]], dtype=np.float32))
    second = np.log(np.full((2, 2, 3), 0.01, dtype=np.float32))
    second[:, 0] = np.log([0.9, 0.05, 0.05])
    scorer = TableScorer([first, second])
    config = RankingConfig("beam", beams=beams)
    return Ranker(scorer, CodeTrie(CODES, (2, 3)), Prompts(), CODES, None, config)  # type: ignore[arg-type]


def cases_of(*users: int) -> Cases:
    """Cases whose target is item 0."""
    ids = tuple(map(str, range(len(users))))
    histories = Sequences.from_lists([[user] for user in users])
    return Cases(ids, ids, histories, np.zeros(len(users), dtype=np.int32), None, np.zeros(len(users), dtype=bool))


def figures(rows: list[Row]) -> dict[tuple[str, str, str], float]:
    return {(row["model"], row["slice"], row["metric"]): row["value"] for row in rows}


def test_what_one_beam_loses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "K", 1)
    cases, one = cases_of(0, 1), ranker(1)
    found = figures(search_diagnosis(one, cases, [ItemFilter(one.trie)] * 2))
    assert found[BEAM, "all", "recall"] == 0.5  # user 0's beam follows code 1, below which the target isn't
    assert found[BEAM, "all", "prefix_1"] == 0.5
    assert found[EXACT, "all", "recall"] == 1.0
    assert found[EXACT, "all", f"recall_minus_{BEAM}"] == 0.5
    assert found[BEAM, "items_with_the_first_code_1-9", "recall"] == 0.5
    two = ranker(2)
    found = figures(search_diagnosis(two, cases, [ItemFilter(two.trie)] * 2))
    assert (found[BEAM, "all", "recall"], found[EXACT, "all", f"recall_minus_{BEAM}"]) == (1.0, 0.0)


def test_items_that_a_filter_denies_are_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "K", 1)
    one = ranker(1)
    found = figures(search_diagnosis(one, cases_of(0), [ItemFilter(one.trie).deny([3])]))
    assert found[BEAM, "all", "recall"] == 1.0  # nothing is left below code 1
    assert found[EXACT, "all", "recall"] == 1.0


def test_a_catalogue_too_large_to_be_looked_at_whole_has_no_exact_row() -> None:
    two = ranker(2)
    n = module.LEAST + 1
    cases = cases_of(*[0] * n)
    filters = [ItemFilter(two.trie)] * n
    assert EXACT in {row["model"] for row in search_diagnosis(two, cases, filters, tokens=2 * n)}
    assert EXACT not in {row["model"] for row in search_diagnosis(two, cases, filters, tokens=2 * module.LEAST - 2)}
