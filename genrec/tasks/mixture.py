"""`Tasks`: the mixture of text tasks that are trained beside the next item, drawn by weight.

Each task is a function that makes one example about a subject; template, cut and negatives are drawn.

About an item (LC-Rec, Zheng et al. 2023, sections III-C.2 and III-C.3): text to codes, codes to title, and a query made
from attributes to codes.

About a history (sections III-C.4 and III-C.5): its codes to the next title, its titles to the next codes, and what its
owner likes. The item that is asked for is any but the first of a training history; what comes before it is the prompt.

By negative sampling (Semantic Convergence, Li et al. 2024, stage 2, as we read it): would this user take this item, and
which of two. Half of the negatives are as popular as the positive, half share its first code.

Shapes: N items, L levels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from genrec.data.sequences import Sequences
from genrec.decoding.vocabulary import SidVocabulary
from genrec.semtok.catalog import Catalog
from genrec.semtok.errors import InputError
from genrec.tasks import templates
from genrec.tasks.facets import Facets
from genrec.tasks.negatives import Negatives
from genrec.tasks.preference_texts import template_texts
from genrec.tasks.weights import TaskWeights
from genrec.tasks.writer import PromptWriter, TaskRow, draw

Subjects = NDArray[np.int64]
_TITLES, _TITLE_TOKENS = 8, 16  # of a history in words: its last titles, and the tokens of one


class Tasks:
    """Token rows of the mixture, and what they are made of.

    Args:
        catalog: N items.
        codes: int32 [N, L].
        histories: training histories.
        weights: what a task of weight 0 could be about is not looked at.
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
        self.catalog, self.histories, self.max_items = catalog, histories, max_items
        self.writer = PromptWriter(catalog, codes, vocabulary, tokenizer)
        self.stop = self.writer.words(";")
        self.facets, self.negatives = Facets.of(catalog), Negatives(histories, codes)
        wanted = {name: weight for name, weight in weights.of_tasks().items() if weight}
        self._subjects = {name: TASKS[name].subjects(self) for name in wanted}
        for name, subjects in self._subjects.items():
            if len(subjects) == 0:
                raise InputError(f"--lm.tasks.{name}: the data hold nothing that this task could be about; use 0")
        self._shares = {name: weight / sum(wanted.values()) for name, weight in wanted.items()}

    def rows(self, n: int, rng: np.random.Generator) -> list[TaskRow]:
        """About `n` examples, each task by its share; no subject comes again before every other one came."""
        return [
            TASKS[name].example(self, int(subject), rng)
            for name, subjects in self._subjects.items()
            for subject in _drawn(subjects, round(n * self._shares[name]), rng)
        ]

    @cached_property
    def preferences(self) -> list[str]:
        """A sentence on what the owner of each history likes."""
        return template_texts(self.catalog, self.histories.last(self.max_items), most=3, titles=2, max_characters=240)

    def cut(self, history: int, rng: np.random.Generator) -> tuple[NDArray[np.int32], int]:
        """What comes before one of a history's items, and that item."""
        items = self.histories[history]
        place = int(rng.integers(1, len(items)))
        return items[max(0, place - self.max_items) : place], int(items[place])


def _drawn(subjects: Subjects, n: int, rng: np.random.Generator) -> Subjects:
    rounds = [rng.permutation(subjects) for _ in range(-(-n // len(subjects)))]
    return np.concatenate(rounds)[:n] if rounds else subjects[:0]


def text_to_codes(of: Tasks, item: int, rng: np.random.Generator) -> TaskRow:
    """From an item's words to its codes; half the time from its title alone."""
    template = draw(templates.TEXT_TO_CODES, rng)
    words = of.writer.titles[item] if rng.random() < 0.5 else of.writer.texts[item]
    return TaskRow(of.writer.fill(template, text=words), of.writer.item(item))


def codes_to_text(of: Tasks, item: int, rng: np.random.Generator) -> TaskRow:
    """From an item's codes to its title."""
    prompt = of.writer.fill(draw(templates.CODES_TO_TEXT, rng), item=of.writer.item(item))
    return TaskRow(prompt, of.writer.answer(of.writer.titles[item]))


def query_to_codes(of: Tasks, item: int, rng: np.random.Generator) -> TaskRow:
    """From what a person would type, price word, brand and kind, to the codes of one item that it fits."""
    template = draw(templates.QUERY_TO_CODES, rng)
    return TaskRow(of.writer.fill(template, text=of.writer.words(query(of, item, rng))), of.writer.item(item))


def query(of: Tasks, item: int, rng: np.random.Generator) -> str:
    """Some of the item's facets in the order of speech; a few words of its title where it has none."""
    kinds, brand, price = of.facets.kinds[item], of.facets.brands[item], of.facets.prices[item]
    if not (kinds or brand):
        words = of.catalog.titles[item].split()
        return " ".join(words[i] for i in np.sort(rng.permutation(len(words))[: rng.integers(2, 5)]))
    names = [kinds[-1] if rng.random() < 0.8 else kinds[rng.integers(len(kinds))]] if kinds else []
    if brand and (not names or rng.random() < 0.5):
        names.insert(0, brand)
    if price and rng.random() < 0.5:
        names.insert(0, price)
    text = " ".join(names)
    return text.lower() if rng.random() < 0.5 else text


def codes_to_title(of: Tasks, history: int, rng: np.random.Generator) -> TaskRow:
    """From the codes of a history to the title of the next item."""
    before, target = of.cut(history, rng)
    prompt = of.writer.fill(draw(templates.CODES_TO_TITLE, rng), history=of.writer.history(before))
    return TaskRow(prompt, of.writer.answer(of.writer.titles[target]))


def titles_to_codes(of: Tasks, history: int, rng: np.random.Generator) -> TaskRow:
    """From the titles of a history to the codes of the next item."""
    before, target = of.cut(history, rng)
    titles: list[int] = []
    for row in before[-_TITLES:].tolist():
        titles += [*of.writer.titles[row][:_TITLE_TOKENS], *of.stop]
    return TaskRow(of.writer.fill(draw(templates.TITLES_TO_CODES, rng), titles=titles), of.writer.item(target))


def preference(of: Tasks, history: int, rng: np.random.Generator) -> TaskRow:
    """From the codes of a history to a sentence on what its owner likes, by the template of `preference_texts`."""
    shown = of.writer.history(of.histories[history][-of.max_items :])
    prompt = of.writer.fill(draw(templates.PREFERENCE, rng), history=shown)
    return TaskRow(prompt, of.writer.answer(of.writer.words(of.preferences[history])))


def would_take(of: Tasks, history: int, rng: np.random.Generator) -> TaskRow:
    """Yes for the item that came next, no for a negative; either with chance 1/2."""
    before, item = of.cut(history, rng)
    interacted = rng.random() < 0.5
    if not interacted:
        item = of.negatives.like(item, of.histories[history], rng)
    prompt = of.writer.fill(
        draw(templates.WOULD_TAKE, rng),
        history=of.writer.history(before),
        item=of.writer.item(item),
        title=of.writer.titles[item],
    )
    return TaskRow(prompt, of.writer.answer(of.writer.words(templates.YES if interacted else templates.NO)))


def preferred_of_two(of: Tasks, history: int, rng: np.random.Generator) -> TaskRow:
    """The codes of the item that came next, offered beside a negative in random order."""
    before, positive = of.cut(history, rng)
    pair = [positive, of.negatives.like(positive, of.histories[history], rng)]
    first, second = pair if rng.random() < 0.5 else pair[::-1]
    prompt = of.writer.fill(
        draw(templates.PREFERRED_OF_TWO, rng),
        history=of.writer.history(before),
        item=of.writer.item(first),
        other=of.writer.item(second),
    )
    return TaskRow(prompt, of.writer.item(positive))


def _items(of: Tasks) -> Subjects:
    return np.arange(len(of.catalog))


def _described_items(of: Tasks) -> Subjects:
    """Items with a title or a facet."""
    told = zip(of.catalog.titles, of.facets.kinds, of.facets.brands, strict=True)
    return np.flatnonzero([bool(title.strip() or kinds or brand) for title, kinds, brand in told])


def _histories(of: Tasks) -> Subjects:
    """Histories of at least two items."""
    return np.flatnonzero(of.histories.lengths >= 2)


def _told_histories(of: Tasks) -> Subjects:
    return np.array([s for s in _histories(of) if of.preferences[s]], dtype=np.int64)


def _declining_histories(of: Tasks) -> Subjects:
    """Histories whose user has not interacted with every item."""
    return np.array([s for s in _histories(of) if of.negatives.can_serve(of.histories[s])], dtype=np.int64)


class Task(NamedTuple):
    """One kind of example."""

    subjects: Callable[[Tasks], Subjects]  # what an example can be about: catalogue rows, or numbers of histories
    example: Callable[[Tasks, int, np.random.Generator], TaskRow]


TASKS = {
    "text_to_codes": Task(_items, text_to_codes),
    "codes_to_text": Task(_items, codes_to_text),
    "query_to_codes": Task(_described_items, query_to_codes),
    "codes_to_title": Task(_histories, codes_to_title),
    "titles_to_codes": Task(_histories, titles_to_codes),
    "preference": Task(_told_histories, preference),
    "would_take": Task(_declining_histories, would_take),
    "preferred_of_two": Task(_declining_histories, preferred_of_two),
}
"""By the names of `TaskWeights`."""
