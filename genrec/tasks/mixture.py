"""`Tasks`: the mixture of text tasks that are trained beside the next item, drawn by weight.

Shapes: N items, L levels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from genrec.data.sequences import Sequences
from genrec.decoding.vocabulary import SidVocabulary
from genrec.semtok.catalog import Catalog
from genrec.semtok.errors import InputError
from genrec.tasks.alignment import CodesToText, QueryToCodes, TextToCodes
from genrec.tasks.choice import PreferredOfTwo, WouldTake
from genrec.tasks.facets import Facets
from genrec.tasks.following import CodesToTitle, Histories, PreferenceSummary, TitlesToCodes
from genrec.tasks.negatives import Negatives
from genrec.tasks.weights import TaskWeights
from genrec.tasks.writer import PromptWriter, TaskRow


class Task(Protocol):
    """One kind of example.

    Attributes:
        subjects: what an example can be about: catalogue rows, or numbers of histories.
    """

    subjects: NDArray[np.int64]

    def row(self, subject: int, rng: np.random.Generator) -> TaskRow:
        """An example about a subject; template, cut and negatives are drawn."""
        ...


class Tasks:
    """Token rows of the mixture.

    Args:
        catalog: N items.
        codes: int32 [N, L].
        histories: training histories.
        weights: a task of weight 0 is not built.
        max_items: the last items of a history that a prompt holds.

    Raises:
        InputError: a task has a weight but the data have nothing that it could be about.
    """

    def __init__(
        self,
        catalog: Catalog,
        codes: NDArray[np.int32],
        vocabulary: SidVocabulary,
        tokenizer: PreTrainedTokenizerBase,
        histories: Sequences,
        weights: TaskWeights,
        *,
        max_items: int = 20,
    ) -> None:
        writer, facets = PromptWriter(catalog, codes, vocabulary, tokenizer), Facets.of(catalog)
        cuts, negatives = Histories(histories, max_items), Negatives(histories, codes)
        makers: Mapping[str, Callable[[], Task]] = {
            "text_to_codes": lambda: TextToCodes(writer, len(catalog)),
            "codes_to_text": lambda: CodesToText(writer, len(catalog)),
            "query_to_codes": lambda: QueryToCodes(writer, catalog, facets),
            "codes_to_title": lambda: CodesToTitle(writer, cuts),
            "titles_to_codes": lambda: TitlesToCodes(writer, cuts),
            "preference": lambda: PreferenceSummary(writer, cuts, catalog),
            "would_take": lambda: WouldTake(writer, cuts, negatives),
            "preferred_of_two": lambda: PreferredOfTwo(writer, cuts, negatives),
        }
        wanted = {name: weight for name, weight in weights.of_tasks().items() if weight}
        self.tasks = {name: makers[name]() for name in wanted}
        for name, task in self.tasks.items():
            if len(task.subjects) == 0:
                raise InputError(f"--lm.tasks.{name}: the data hold nothing that this task could be about; use 0")
        total = sum(wanted.values())
        self.shares = {name: weight / total for name, weight in wanted.items()}

    def rows(self, n: int, rng: np.random.Generator) -> list[TaskRow]:
        """About `n` examples, each task by its share; no subject comes again before every other one came."""
        return [
            task.row(int(subject), rng)
            for name, task in self.tasks.items()
            for subject in _subjects(task.subjects, round(n * self.shares[name]), rng)
        ]


def _subjects(subjects: NDArray[np.int64], n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    rounds = [rng.permutation(subjects) for _ in range(-(-n // len(subjects)))]
    return np.concatenate(rounds)[:n] if rounds else subjects[:0]
