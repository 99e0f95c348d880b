"""What a person's words ask for: limits, refusals, likes, and the wish that is left. Rules for English, no model.

    understand("something like the second, but cheaper", state, words, catalog)
    # liked=(second card,), where={"price": (None, 12.44)}, notes=("like Oat cleansing balm", "price below 12.45")

A text is cut into clauses. In each, prices and places on the table ("the second") are read first; what remains is
searched for values of the catalogue's attributes. A clause refuses ("no more ..."), tells what somebody has ("I
bought ..."), or wishes. Nothing is guessed in silence: every condition that is made is in the notes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from genrec.inference.chat import phrases
from genrec.inference.chat.catalog_words import WORD, CatalogWords, Match, Meaning, fold
from genrec.inference.chat.prices import digits, find_prices, say_price
from genrec.inference.chat.questions import Question, read_question
from genrec.inference.chat.references import find_places
from genrec.inference.chat.state import ConversationState
from genrec.semtok.catalog import Catalog

LONGEST = 1000  # characters of a turn that are read
LONGEST_WISH = 240  # characters: a prompt of a few hundred tokens in any script
SURE = 0.7  # share of the words' weight that a title must hold to be what "I have ..." means
COVERED = 0.5  # share of a title's own weight that must be said, but where the verb says that it is a thing
LIKE_SURE = 0.9  # the same for "I like ...", which as often speaks of a kind of thing

Act = Literal["find", "more", "why", "reset", "ask", "unclear"]
Clause = Literal["wish", "refuse", "have", "like", "allow"]


@dataclass
class Understood:
    """What one turn asks for.

    Attributes:
        act: find items, go past those on the table, tell why, begin again, ask something that changes nothing, or a
            turn of which nothing was understood.
        question: of "ask".
        order: a column and whether its largest come first; None: as before.
        wish: new words to look for; None: as before.
        joins: whether the wish adds to the one before.
        where: conditions to set, by attribute.
        lifted: attributes whose condition falls.
        liked: item ids to add to the history.
        refused: item ids never to show again.
        unwanted: attribute to values never to show again.
        allowed: attribute to values that may be shown again.
        why: the item to explain.
        notes: what was understood, and what was not.
    """

    act: Act = "find"
    question: Question | None = None
    order: tuple[str, bool] | None = None
    wish: str | None = None
    joins: bool = False
    where: dict[str, Any] = field(default_factory=dict)
    lifted: list[str] = field(default_factory=list)
    liked: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    unwanted: dict[str, list[str]] = field(default_factory=dict)
    allowed: dict[str, list[str]] = field(default_factory=dict)
    why: str | None = None
    notes: list[str] = field(default_factory=list)


def understand(text: str, state: ConversationState, words: CatalogWords, catalog: Catalog) -> Understood:
    """What a turn asks for, read against the table and the catalogue."""
    return _Reading(state, words, catalog).read(text)


class _Reading:
    """One reading of one turn; `found` fills as clauses are read."""

    def __init__(self, state: ConversationState, words: CatalogWords, catalog: Catalog) -> None:
        self.state, self.words, self.catalog = state, words, catalog
        self.found = Understood()
        self.wishes: list[str] = []
        self.compared: list[int] = []  # rows that "cheaper" without "than" compares with
        self.relation: Literal["below", "above"] | None = None
        self.asked_kinds: set[str] = set()
        self.unknown: list[str] = []
        self.known = False  # whether a word that says something is one of the catalogue's

    def read(self, text: str) -> Understood:
        found = self.found
        if len(text) > LONGEST:
            found.notes.append(f"only the first {LONGEST:,} of {len(text):,} characters were read")
            text = text[:LONGEST]
        text = " ".join(text.replace("’", "'").replace("\x00", " ").split(" ")).strip()
        plain = text.strip(" .!?\n\t")
        if phrases.RESET.fullmatch(plain):
            found.act = "reset"
        elif phrases.MORE.fullmatch(plain):
            found.act = "more"
        elif phrases.SUGGEST.fullmatch(plain):
            found.wish = ""
            found.notes.append("what goes with the history")
        elif phrases.WHY.match(text):
            self._why(text)
        elif (question := read_question(text, self.state, self.words, self.catalog)) is not None:
            found.act, found.question = "ask", question
        else:
            text = digits(text)
            for sentence in phrases.SENTENCE.split(text):
                if sentence and sentence.strip():
                    self._sentence(sentence.strip())
            self._compare()
            self._wish()
            foreign = len(self.unknown) > 2 and len(self.unknown) > 0.6 * len(WORD.findall(text))
            nothing = (self.unknown and not self.known) or foreign or not WORD.search(text)
            if nothing and not self._changes():
                found.act = "unclear"
        found.notes = list(dict.fromkeys(found.notes))
        return found

    def _why(self, text: str) -> None:
        self.found.act = "why"
        shown = self.state.shown
        places = find_places(text.strip().rstrip("?!. "), len(shown))
        rest = phrases.WHY.sub("", places.rest)
        if not shown:
            self.found.notes.append("there are no cards on the table yet")
        elif places.places:
            rows = self._shown_rows(places.places)
            self.found.why = self.catalog.item_ids[rows[0]] if rows else None
        else:
            on_table = {self.catalog.row(item_id) for item_id in shown}
            found = self.words.find_titles(_content(rest)) if _content(rest) else []
            named = [place.row for place in found if place.row in on_table and place.of_text > 0.5]
            self.found.why = self.catalog.item_ids[named[0]] if named else shown[0]

    def _sentence(self, sentence: str) -> None:
        owned = phrases.HAVE.match(sentence)
        if owned and not find_places(sentence, len(self.state.shown)).places:
            named = sentence[owned.end() :]
            strong = owned["verb"].lower() in phrases.BOUGHT or bool(re.match(r"\s*(?:an?|the|my) ", named))
            if self._own(named, strong=strong):
                return
        refuses = False
        for clause in phrases.COMMA.split(sentence):
            # "no mascara, eyeliner or lipstick": a list goes on being refused up to its "or"
            if refuses and re.search(r"\b(?:or|nor)\b", clause) and self._only_values(clause):
                clause = f"no {clause}"
            refuses = self._clause(clause.strip()) == "refuse"

    def _clause(self, clause: str) -> Clause:
        """Read one clause; what kind it was."""
        clause = self._sort(self._lift(clause))
        prices = find_prices(clause)
        places = find_places(prices.rest, len(self.state.shown))
        rows = self._shown_rows(places.places)
        rest = places.rest
        self._limit(prices.low, prices.high)
        like, refuse, allow = phrases.LIKE.match(rest), phrases.REFUSE.search(rest), phrases.ALLOW.search(rest)
        if prices.relation:
            self.relation = prices.relation
            self.compared = rows or self.compared
        if allow and not refuse:
            self._allow(rest)
            return "allow"
        if refuse:
            self._positive(rest[: refuse.start()])
            if not self._refuse(rest[refuse.end() :], rows, this=places.this):
                return "wish"
            return "refuse"
        have = phrases.HAVE.match(rest)
        if have and rows:
            self._like(rows, "you have")
            return "have"
        if have and places.this and not _content(rest[have.end() :]):
            self.found.notes.append("which one? say its number")
            return "have"
        if like:
            self.compared = self.compared or rows
            if rows:
                self._like(rows, "like")
                if not like["said"]:
                    self.wishes.append(self.catalog.titles[rows[-1]])
                return "like"
            named = rest[like.end() :]
            if self._own(named, strong=False, sure=LIKE_SURE, seek=not like["said"]):
                return "like"
            if places.this:
                self.found.notes.append("which one? say its number")
                return "like"
            self._positive(named)
            return "wish"
        if rows and not prices.relation:
            self._like(rows, "like")
        self._positive(rest)
        return "wish"

    # What a clause says about the table and the history

    def _shown_rows(self, places: Sequence[int]) -> list[int]:
        shown = self.state.shown
        beyond = [place + 1 for place in places if not 0 <= place < len(shown)]
        if beyond:
            table = f"there are {len(shown)} cards on the table" if shown else "there are no cards on the table yet"
            self.found.notes.append(f"no card {', '.join(map(str, beyond))}: {table}")
        return [self.catalog.row(shown[place]) for place in places if 0 <= place < len(shown)]

    def _like(self, rows: Sequence[int], how: str) -> None:
        for row in rows:
            self.found.liked.append(self.catalog.item_ids[row])
            self.found.notes.append(f"{how} {self._title(row)}")

    def _own(self, text: str, *, strong: bool, sure: float = SURE, seek: bool = False) -> bool:
        """Add the items whose titles a text names; False where it names none for sure.

        Args:
            strong: the verb says that it is a thing, so that a few words of its title are enough.
            seek: look for items like it.
        """
        pieces = [text, *re.split(r",\s+|\s+and\s+", text)] if re.search(r",\s|\sand\s", text) else [text]
        for tried in ([pieces[0]], pieces[1:]):
            rows = [self._named(piece, strong=strong, sure=sure) for piece in tried]
            if rows and None not in rows:
                for row in rows:
                    assert row is not None
                    self._like([row], "like" if seek else "you have")
                    if seek:
                        self.wishes.append(self.catalog.titles[row])
                return True
        return False

    def _named(self, text: str, *, strong: bool, sure: float) -> int | None:
        named = _content(text)
        best = next(iter(self.words.find_titles(named)), None) if named else None
        if best is None or best.of_text < sure or (best.of_title < COVERED and not strong):
            return None
        if len(WORD.findall(named)) < 2 and best.of_title < COVERED:
            return None  # one word of a long title names a kind of thing
        return best.row

    def _title(self, row: int) -> str:
        title = self.catalog.titles[row]
        return f"‹{title if len(title) <= 60 else title[:59].rstrip() + '…'}›"

    # Conditions

    def _limit(self, low: float | None, high: float | None) -> None:
        if low is None and high is None:
            return
        price = self.words.price
        if price is None:
            self.found.notes.append("this catalogue has no prices, so a price limit can't be kept")
            return
        before = self.found.where.get(price) or self.state.where.get(price)
        old_low, old_high = before if isinstance(before, tuple) else (None, None)
        low, high = (old_low if low is None else low), (old_high if high is None else high)
        if low is not None and high is not None and low > high:  # the new end wins over the old one
            low, high = (low, None) if low != old_low else (None, high)
        self.found.where[price] = (low, high)

    def _compare(self) -> None:
        """Make a limit of "cheaper", by the cards it was said of or else by the middle of the table."""
        price = self.words.price
        if self.relation is None:
            return
        if price is None:
            self._limit(0, 0)
            return
        rows = self.compared or [self.catalog.row(item_id) for item_id in self.state.shown]
        known = sorted(value for value in self.catalog.attributes[price][rows].to_list() if value is not None)
        if not known:
            self.found.notes.append(
                f"{'cheaper' if self.relation == 'below' else 'dearer'} than what? no price is known"
            )
            return
        if self.relation == "below":
            least = known[0] if self.compared else known[len(known) // 2]
            self._limit(None, round(least - 0.01, 2))
        else:
            most = known[-1] if self.compared else known[len(known) // 2]
            self._limit(round(most + 0.01, 2), None)

    def _lift(self, clause: str) -> str:
        """Take out what frees an attribute: "any brand", "the price doesn't matter"."""
        for column in self.words.columns:
            clause, count = phrases.lifting(column, is_price=column == self.words.price).subn(" ", clause)
            if count:
                self.found.lifted.append(column)
                self.found.where.pop(column, None)
                self.found.notes.append(f"any {fold(column)}")
        return clause.strip()

    def _sort(self, clause: str) -> str:
        """Take out what sorts: "the cheapest one", "sorted by price", "the newest", "my budget is tight"."""
        for pattern, columns, descending in phrases.SORTS:
            clause, count = pattern.subn(" ", clause)
            if not count:
                continue
            name = self.words.price if columns == ("price",) else self.words.numeric(columns)
            if name is None:
                self.found.notes.append(f"this catalogue has no {columns[0]} to sort by")
            else:
                self.found.order = (name, descending)
                self.found.notes.append(f"sorted by {name}, {'highest' if descending else 'lowest'} first")
        return clause.strip()

    def _changes(self) -> bool:
        """Whether the turn asks for anything beside its wish."""
        found = self.found
        return bool(
            found.where
            or found.lifted
            or found.liked
            or found.refused
            or found.unwanted
            or found.allowed
            or found.order
        )

    def _refuse(self, text: str, rows: Sequence[int], *, this: bool) -> bool:
        """Refuse cards, values or title words; False where there was nothing to refuse."""
        for row in rows:
            self.found.refused.append(self.catalog.item_ids[row])
            self.found.notes.append(f"never again {self._title(row)}")
        folded, raw = self._folded(text)
        matches = self.words.matches(folded)
        for match in matches:
            for meaning in match.meanings[:1]:
                self._add(self.found.unwanted, meaning)
                self.found.notes.append(f"not {' or '.join(meaning.values)}")
        if matches or rows:
            return True
        refused = [word for word, spelled in zip(raw, folded, strict=True) if spelled not in phrases.FILLER]
        phrase = " ".join(refused[:3])
        if phrase and self.words.titles_with(phrase).any():
            self._add(self.found.unwanted, Meaning("title", (phrase.lower(),)))
            self.found.notes.append(f"nothing titled '{phrase.lower()}'")
            return True
        if phrase:
            self.found.notes.append(f"no item here is called '{phrase}', so there is nothing to leave out")
        elif this:
            self.found.notes.append("which one? say its number")
        return bool(phrase)

    def _allow(self, text: str) -> None:
        folded, _ = self._folded(text)
        for match in self.words.matches(folded):
            self._add(self.found.allowed, match.meanings[0])
            self.found.notes.append(f"{' or '.join(match.meanings[0].values)} allowed again")
        titled = [value for value in self.state.unwanted.get("title", ()) if fold(value) in folded]
        for value in titled:
            self._add(self.found.allowed, Meaning("title", (value,)))
            self.found.notes.append(f"'{value}' allowed again")

    @staticmethod
    def _add(values: dict[str, list[str]], meaning: Meaning) -> None:
        kept = values.setdefault(meaning.attribute, [])
        kept.extend(value for value in meaning.values if value not in kept)

    # The wish and the values it names

    def _folded(self, text: str) -> tuple[list[str], list[str]]:
        """Words folded, typos put right, and as typed."""
        folded, raw = [], []
        for match in WORD.finditer(text):
            word = spelled = match[0]
            key = fold(word)
            if key not in self.words.vocabulary and key not in phrases.FILLER and len(key) > 3:
                better = self.words.correct(key)
                if better is not None:
                    self.found.notes.append(f"'{word}' read as '{better}'")
                    key = spelled = better
            folded.append(key)
            raw.append(spelled)
        return folded, raw

    def _only_values(self, clause: str) -> bool:
        folded = [fold(word) for word in WORD.findall(clause)]
        covered = {place for match in self.words.matches(folded) for place in range(match.start, match.end)}
        return all(place in covered or word in phrases.FILLER for place, word in enumerate(folded)) and bool(covered)

    def _positive(self, text: str) -> None:
        """What a clause wants: values that it names become conditions, its words the wish."""
        folded, raw = self._folded(text)
        content = [place for place, word in enumerate(folded) if word not in phrases.FILLER]
        matches = self.words.matches(folded)
        if not content and not matches:
            return
        brands = self._name_brands(matches, folded, raw)
        self._name_kinds(matches, folded, text)
        if self.state.wish and content and set(content) <= brands:
            return  # "only from Everpan" narrows what was looked for
        begin, end = content[0] if content else matches[0].start, content[-1] if content else matches[-1].end - 1
        unknown = [raw[place] for place in content if folded[place] not in self.words.vocabulary]
        self.unknown += unknown
        self.known = self.known or len(unknown) < len(content) or bool(matches)
        self.wishes.append(" ".join(raw[begin : end + 1]))
        self.found.joins = self.found.joins or bool(phrases.JOINS.match(text) and not phrases.ASK.search(text))

    def _name_brands(self, matches: Sequence[Match], folded: Sequence[str], raw: Sequence[str]) -> set[int]:
        """Make conditions of the brands that are named; the places of their words."""
        named: set[int] = set()
        for match in matches:
            for meaning in match.meanings:
                if meaning.attribute not in self.words.names:
                    continue
                introduced = match.start > 0 and folded[match.start - 1] in phrases.BY
                capital = match.start > 0 and raw[match.start][0].isupper()
                alone = meaning.bare and len(match.meanings) == 1
                if introduced or capital or alone:
                    self._want(meaning)
                    named.update(range(match.start, match.end))
        return named

    def _name_kinds(self, matches: Sequence[Match], folded: Sequence[str], text: str) -> None:
        """The heads of the phrase become a condition: "cream" in "oil free cream for the face".

        Of alternatives each gives its head; one without ("a mug or something warm") leaves all of them to the wish.
        """
        kinds = [match for match in matches if self._is_head(match, matches, folded)]
        if not kinds:
            return
        stop = next(
            (at for at in range(kinds[0].start, len(folded)) if folded[at] in phrases.PREPOSITIONS), len(folded)
        )
        bounds = [-1, *(at for at in range(stop) if folded[at] in ("and", "or")), stop]
        heads: list[Match] = []
        for begin, end in pairwise(bounds):
            inside = [match for match in kinds if begin < match.start < end]
            if inside:
                heads.append(inside[-1])
            elif heads:
                return
        attribute = next(meaning.attribute for meaning in heads[0].meanings if meaning.attribute in self.words.kinds)
        if attribute in self.asked_kinds:
            if not phrases.ASK.search(text):
                return  # "mascara, for sensitive eyes": the first clause has said what kind
            self.found.where.pop(attribute, None)
        self.asked_kinds.add(attribute)
        for match in heads:
            for meaning in match.meanings:
                if meaning.attribute == attribute:
                    self._want(meaning)

    def _is_head(self, match: Match, matches: Sequence[Match], folded: Sequence[str]) -> bool:
        """Whether a kind of thing is what a phrase is about: no noun of its own follows, as in "tea towels"."""
        after = folded[match.end] if match.end < len(folded) else ""
        ends = not after or after in phrases.FILLER or after in phrases.PREPOSITIONS
        before_another = any(match.end == other.start for other in matches)
        by = match.start > 0 and folded[match.start - 1] in phrases.BY
        return (
            any(meaning.attribute in self.words.kinds for meaning in match.meanings)
            and (ends or before_another)
            and not by
        )

    def _want(self, meaning: Meaning) -> None:
        """Make a condition of values, but for those that stay refused."""
        refused = {
            *self.state.unwanted.get(meaning.attribute, ()),
            *self.found.unwanted.get(meaning.attribute, ()),
        } - set(self.found.allowed.get(meaning.attribute, ()))
        wanted = [value for value in meaning.values if value not in refused]
        if not wanted:
            self.found.notes.append(f"{meaning.values[0]} stays refused; 'allow {meaning.values[0]}' brings it back")
            return
        before = self.found.where.get(meaning.attribute, ())
        self.found.where[meaning.attribute] = (*before, *(value for value in wanted if value not in before))

    def _wish(self) -> None:
        """Join the wishes of all clauses, and say what was made of them."""
        for name, condition in self.found.where.items():
            if name == self.words.price:
                self.found.notes.append(say_price(name, condition))
            else:
                self.found.notes.append(f"{name}: {' or '.join(condition)}")
        wish = " ".join(self.wishes).strip()
        if not wish:
            return
        if len(wish) > LONGEST_WISH:
            wish = wish[:LONGEST_WISH].strip()
            self.found.notes.append(f"the wish was cut to {LONGEST_WISH} characters")
        self.found.wish = wish
        self.found.notes.append(f'looking for "{wish}"')
        if self.unknown:
            self.found.notes.append(f"words that are not in this catalogue: {', '.join(dict.fromkeys(self.unknown))}")


def _content(text: str) -> str:
    """The words of a text that say something."""
    return " ".join(word for word in WORD.findall(text) if fold(word) not in phrases.FILLER)


def merge_unwanted(
    before: Mapping[str, Sequence[str]], added: Mapping[str, Sequence[str]], taken: Mapping[str, Sequence[str]]
) -> dict[str, tuple[str, ...]]:
    """The refused values after a turn; attributes without any are left out."""
    merged = {}
    for attribute in dict.fromkeys([*before, *added]):
        values = dict.fromkeys([*before.get(attribute, ()), *added.get(attribute, ())])
        kept = tuple(value for value in values if value not in taken.get(attribute, ()))
        if kept:
            merged[attribute] = kept
    return merged
