"""`RulesReader`: what a person's words ask for, by rules for English. No model.

    RulesReader(catalog).read("something like the second, but cheaper", state)
    # liked=[second card], where={"price": (None, 12.44)}, notes=["like ‹Oat cleansing balm›", "price up to 12.44"]

The road through a turn: a command ("start over", "more", "why this?"), else a question (`chat.questions`), else
sentences, cut into clauses. In a clause, what lifts and sorts, prices (`chat.limits`) and places on the table
(`chat.references`) are read first; what remains refuses ("no more ..."), tells what somebody has or likes
(`chat.belongings`), or wishes (`chat.values`). Nothing is guessed in silence: every condition is in the notes.
"""

from __future__ import annotations

import re

from genrec.inference.chat import belongings, limits, phrases, values
from genrec.inference.chat.catalog_words import WORD, words_of_catalog
from genrec.inference.chat.draft import Draft, content
from genrec.inference.chat.prices import digits, find_prices
from genrec.inference.chat.questions import read_question
from genrec.inference.chat.reading import Reading
from genrec.inference.chat.references import find_places
from genrec.inference.chat.small_talk import read_open, read_service, read_small_talk
from genrec.inference.chat.spelling import tidy
from genrec.inference.chat.state import ConversationState
from genrec.semtok.catalog import Catalog

LONGEST = 1000  # characters of a turn that are read
LIKE_SURE = 0.9  # share of the words that "I like ..." must name of a title: it as often speaks of a kind of thing


class RulesReader:
    """Reads turns about one catalogue by rules."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog, self._words = catalog, words_of_catalog(catalog)

    def read(self, text: str, state: ConversationState) -> Reading:
        """What a turn means; everything that was understood, and what was not, is in its notes."""
        draft = Draft(state, self._words, self._catalog)
        found = draft.found
        if len(text) > LONGEST:
            draft.note(f"only the first {LONGEST:,} of {len(text):,} characters were read")
            text = text[:LONGEST]
        text = text.replace("’", "'").replace("\x00", " ").strip()
        text, spelled = tidy(text, self._words)
        found.notes += spelled
        question = read_small_talk(text, self._words)
        text = phrases.LEAD.sub("", text)
        plain = text.strip(" .!?\n\t")
        if question is not None:
            found.question = question
        elif phrases.RESET.fullmatch(plain):
            found.command = "reset"
        elif phrases.MORE.fullmatch(plain):
            found.command = "more"
        elif phrases.SUGGEST.fullmatch(plain):
            found.wish = ""
            draft.note("what goes with the history")
        elif phrases.WHY.match(text):
            _why(draft, text)
        elif question := read_service(text, self._words) or read_question(text, state, self._words, self._catalog):
            found.question = question
        else:
            _sentences(draft, digits(text))
            if found.command == "unclear":
                found.question = read_open(text, self._words)
        found.notes = list(dict.fromkeys(found.notes))
        return found


def _why(draft: Draft, text: str) -> None:
    """Which card is to be explained: one by its place or its title, else the first."""
    found, shown = draft.found, draft.state.shown
    found.command = "why"
    places = find_places(text.strip().rstrip("?!. "), len(shown))
    rest = content(phrases.WHY.sub("", places.rest))
    if not shown:
        draft.note("there are no cards on the table yet")
    elif places.places:
        rows = draft.shown_rows(places.places)
        found.why = draft.catalog.item_ids[rows[0]] if rows else None
    else:
        on_table = {draft.catalog.row(item_id) for item_id in shown}
        titles = draft.words.find_titles(rest)
        named = [title.row for title in titles if title.row in on_table and title.of_text > 0.5]
        found.why = draft.catalog.item_ids[named[0]] if named else shown[0]


def _sentences(draft: Draft, text: str) -> None:
    """A turn that is no command and no question; one of which nothing was understood is `unclear`."""
    for sentence in phrases.SENTENCE.split(text):
        if sentence and sentence.strip():
            _sentence(draft, sentence.strip())
    limits.compare_prices(draft)
    values.finish(draft)
    unknown = draft.unknown
    foreign = len(unknown) > 2 and len(unknown) > 0.6 * len(WORD.findall(text))
    nothing = (unknown and not draft.known) or foreign or not WORD.search(text)
    if nothing and not draft.found.changes:
        draft.found.command = "unclear"


def _sentence(draft: Draft, sentence: str) -> None:
    owned = phrases.HAVE.match(sentence)
    if owned and not find_places(sentence, len(draft.state.shown)).places:
        named = sentence[owned.end() :]
        strong = owned["verb"].lower() in phrases.BOUGHT or bool(re.match(r"\s*(?:an?|the|my) ", named))
        if belongings.own(draft, named, strong=strong):
            return
    refuses = False
    for clause in phrases.COMMA.split(sentence):
        # "no mascara, eyeliner or lipstick": a list goes on being refused up to its "or"
        if refuses and re.search(r"\b(?:or|nor)\b", clause) and values.only_values(draft, clause):
            clause = f"no {clause}"
        refuses = _clause(draft, clause.strip())


def _clause(draft: Draft, clause: str) -> bool:
    """Read one clause; whether it refused something."""
    clause = limits.years(draft, limits.sort(draft, limits.lift(draft, phrases.TRAIL.sub("", clause))))
    prices = find_prices(clause)
    places = find_places(prices.rest, len(draft.state.shown))
    rows, rest = draft.shown_rows(places.places), places.rest
    if places.this and not rows and draft.state.focus in draft.state.shown:
        rows = [draft.catalog.row(draft.state.focus)]  # "it" is what was spoken of last
    limits.limit(draft, prices.low, prices.high, instead=prices.instead)
    if prices.relation:
        draft.relation = prices.relation
        draft.compared = rows or draft.compared
    refuse = phrases.REFUSE.search(rest)
    if refuse:
        values.wish_for(draft, rest[: refuse.start()])
        return values.refuse(draft, rest[refuse.end() :], rows, this=places.this)
    have, like = phrases.HAVE.match(rest), phrases.LIKE.match(rest)
    if phrases.ALLOW.search(rest):
        values.allow(draft, rest)
    elif have and rows:
        belongings.like(draft, rows, "you have")
    elif have and places.this and not content(rest[have.end() :]):
        draft.note("which one? say its number")
    elif rows and phrases.TAKE.match(rest) and not prices.relation:
        belongings.like(draft, rows, "like")
        values.wish_for(draft, phrases.TAKE.sub("", rest))
    elif like:
        _like(draft, rest, like, rows, this=places.this)
    else:
        if not prices.relation:
            belongings.like(draft, rows, "like")
        values.wish_for(draft, rest)
    return False


def _like(draft: Draft, rest: str, like: re.Match[str], rows: list[int], *, this: bool) -> None:
    """ "I like ..." tells of a thing, "something like ..." looks for its like too."""
    draft.compared = draft.compared or rows
    named = rest[like.end() :]
    if rows:
        belongings.like(draft, rows, "like")
        if not like["said"]:
            draft.wishes.append(draft.catalog.titles[rows[-1]])
    elif not belongings.own(draft, named, strong=False, sure=LIKE_SURE, seek=not like["said"]):
        if this:
            draft.note("which one? say its number")
        else:
            values.wish_for(draft, named)
