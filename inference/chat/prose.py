"""Who writes the sentences beside the cards, and what keeps them true.

`TemplateProse` speaks from the cards alone. A language model (`chat.model_prose`) writes freer, so each of its
sentences goes through `checked` first: one that names a number, a title, a brand, a category or a proper name that is
neither on the cards nor in what the person said is not shown, and a template speaks in its place.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from genrec.inference.chat.catalog_words import WORD, CatalogWords, fold, words_of
from genrec.inference.chat.phrases import CHATTY, FILLER
from genrec.inference.chat.state import Card, ConversationState, Speaker, say_conditions

SENTENCES = 2  # that a model may say
_COUNTS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine", 10: "ten"}
PLAIN = FILLER | {fold(word) for word in CHATTY}
CONTROL = re.compile(r"<\|?[^<>\s]{1,40}\|?>")
_SENTENCE = re.compile(r"[^.!?\n]*(?:\.(?=\d)[^.!?\n]*)*(?:[.!?\n]|$)")


@dataclass(frozen=True)
class Facts:
    """What a writer of prose may speak about."""

    asked: str  # what the person typed
    cards: tuple[Card, ...]  # the items on the table
    state: ConversationState  # the state after the turn
    history_titles: tuple[str, ...]  # titles of the items in the history, oldest first
    price: str | None  # the attribute that holds prices, or None


class Prose(Protocol):
    """Writes the lead of a reply."""

    speaker: Speaker

    def stream(self, facts: Facts) -> Iterator[str]:
        """Pieces of text, in order; raises ProseError where no writer answers just now."""
        ...


class ProseError(Exception):
    """The writer does not answer; the message says why in a few words."""


class TemplateProse:
    """Sentences from templates over the cards; the same facts give the same words."""

    speaker: Speaker = "template"

    def stream(self, facts: Facts) -> Iterator[str]:
        """The lead, then a fact about the cards, word by word."""
        text = " ".join(sentence for sentence in (_lead(facts), _remark(facts)) if sentence)
        for place, word in enumerate(text.split(" ")):
            yield word if place == 0 else f" {word}"


def _lead(facts: Facts) -> str:
    state, count = facts.state, len(facts.cards)
    if count == 0:
        if state.passed:
            return "That was all of them: there are no others that meet all of this."
        conditions = say_conditions(state.where)
        this = f"this: {conditions}" if conditions else "this"
        return f"Nothing in the catalogue meets all of {this}. Take one thing back, and I look again."
    if state.relaxed:
        return f"Nothing here meets all of that, so I let go of this: {say_conditions(state.relaxed)}."
    these = "this one" if count == 1 else f"these {_COUNTS.get(count, count)}"
    wish = f"“{state.wish}”"
    if state.order is not None:
        choices = [f"{_sorted_by(*state.order, facts.price)}{f', for {wish}' if state.wish else ''}."]
    elif state.passed:
        choices = [f"Then perhaps {these}{f' for {wish}' if state.wish else ''}.", f"What about {these} instead?"]
    elif state.wish and state.history:
        last = facts.history_titles[-1]
        choices = [f"For {wish}, with {last} in mind: {these}.", f"For {wish} I would look at {these}."]
    elif state.wish:
        choices = [
            f"For {wish} I would look at {these}.",
            f"Here is what comes closest to {wish}.",
            f"For {wish}, {these} fit best." if count > 1 else f"For {wish}, {these} fits best.",
        ]
    elif state.history:
        last = facts.history_titles[-1]
        choices = [f"With {last} in mind, I would look at {these}.", f"Going by {last}, I would try {these} next."]
    else:
        choices = [f"Hello! Tell me what you are looking for, or begin with {these}."]
    return choices[zlib.crc32(facts.asked.encode()) % len(choices)]


def _sorted_by(name: str, descending: bool, price: str | None) -> str:
    if name == price:
        return "The dearest first" if descending else "The cheapest first"
    if name.lower() in ("year", "date"):
        return "The newest first" if descending else "The oldest first"
    return f"By {name.replace('_', ' ')}, the {'highest' if descending else 'lowest'} first"


def _remark(facts: Facts) -> str:
    """A true remark on several cards that were asked for: their prices, or what most of them have in common."""
    state = facts.state
    if len(facts.cards) < 2 or not (state.wish or state.history or state.where or state.order):
        return ""
    price = facts.price or ""
    priced = [
        (float(card.attributes[price]), place)
        for place, card in enumerate(facts.cards, start=1)
        if price in card.attributes
    ]
    if len(priced) > 1:
        (low, cheapest), (high, _) = min(priced), max(priced)
        if low == high:
            return f"Each costs {low:.2f}."
        told = "" if state.order is not None and state.order[0] == price else f"; number {cheapest} is the cheapest"
        return f"They cost {low:.2f} to {high:.2f}{told}."
    for name in [name for name in facts.cards[0].attributes if name not in state.where]:
        values = [card.attributes.get(name) for card in facts.cards]
        common = max(set(filter(None, values)), key=lambda value: (values.count(value), value), default=None)
        if common is not None and 2 * values.count(common) > len(values) and len(common) <= 60:
            count = _COUNTS.get(values.count(common), values.count(common))
            return f"{str(count).capitalize()} of them have the same {name.replace('_', ' ')}: {common}."
    return ""


def checked(pieces: Iterator[str], facts: Facts, words: CatalogWords) -> Iterator[str]:
    """The sentences of a model, as they are finished, up to the first that may not be true; `SENTENCES` at most."""
    said, waiting = 0, ""
    for piece in pieces:
        waiting += piece
        while said < SENTENCES and (match := _SENTENCE.match(waiting)) and match.end() < len(waiting):
            sentence, waiting = waiting[: match.end()], waiting[match.end() :]
            if not sentence.strip():
                continue
            if not is_true(sentence, facts, words):
                return
            said += 1
            yield sentence.strip() if said == 1 else f" {sentence.strip()}"
        if said == SENTENCES:
            return
    # What is left without an end was cut off by the limit of tokens, unless it closes itself.
    if waiting.strip().endswith((".", "!", "?")) and is_true(waiting, facts, words):
        yield waiting.strip() if said == 0 else f" {waiting.strip()}"


def is_true(sentence: str, facts: Facts, words: CatalogWords) -> bool:
    """Whether a sentence names nothing that the cards and the conversation don't.

    Refused are control tokens, numbers, brands, categories and other words of the catalogue's own, and words with a
    capital letter inside the sentence, that stand on no card, in no title of the history, and not in the wish.
    """
    if CONTROL.search(sentence):
        return False
    texts = [facts.state.wish, *facts.history_titles]
    for card in facts.cards:
        texts += [card.title, *card.attributes.values()]
    known = {word for text in texts for word in words_of(text)} | {str(len(facts.cards))}
    spelled = WORD.findall(sentence.replace("’", "'"))
    folded = [fold(word) for word in spelled]
    numbers = set(re.findall(r"\d+(?:[.,]\d+)?", sentence))
    if not numbers <= {*re.findall(r"\d+(?:[.,]\d+)?", " ".join(texts)), str(len(facts.cards))}:
        return False
    for place, (word, key) in enumerate(zip(spelled, folded, strict=True)):
        name = word[0].isupper() and word != "I" and not word.startswith("I'") and place > 0
        if key not in known and key not in PLAIN and (name or key in words.telling):
            return False
    covered = (key for match in words.matches(folded) for key in folded[match.start : match.end])
    return all(key in known or key in PLAIN for key in covered)
