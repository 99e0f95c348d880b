"""Questions about the cards on the table: a fact, whether a card is something, how cards differ. They change nothing.

    read_question("how much is the second?", state, words, catalog)    # Question("fact", rows=(17,), attribute="price")
    read_question("coffee under 20", state, words, catalog)            # None: a wish, see `chat.understanding`

Rules for English. What they find never reaches the history, the wish or the conditions.
"""

from __future__ import annotations

import re

from genrec.inference.chat import phrases
from genrec.inference.chat.catalog_words import CatalogWords, fold, words_of
from genrec.inference.chat.draft import content_words
from genrec.inference.chat.patterns import compiled, first_group
from genrec.inference.chat.prices import find_prices
from genrec.inference.chat.reading import Question
from genrec.inference.chat.references import find_places
from genrec.inference.chat.small_talk import asks
from genrec.inference.chat.state import ConversationState
from genrec.semtok.catalog import Catalog

_PRICE = compiled(
    r"\bhow (?:much|expensive|pricey)\b|\bwhat (?:do|does|would|will)\b.*\bcosts?\b|\bwhat(?:'s| is"
    r"| are)?(?: the)? (?:price|cost)"
)
_MAKER = compiled(r"\bwho (?:makes?|made|sells?|produces?|is (?:it|that|this) (?:by|from))\b|\bwhat make\b")
_WHO = compiled(r"\bwho(?:'?s| is| are) (?:the|its|their) (\w+)\b")
_HOW = compiled(r"\bhow (\w+) (?:is|are|was|does)\b")
_WHAT = compiled(r"\b(?:what|which)(?:'?s| is| are| does| do)?(?: the| its| their)? (\w+)|\bwhose\b")
_TELL = compiled(
    r"\b(?:tell me (?:more )?(?:about|on)|more (?:info(?:rmation)?|details?)(?: (?:on|about|of|for))?|describe"
    r"|details? (?:of|on|for|about)|what(?:'?s| is| are)|what do you know (?:about|of)|tell me more)\b"
)
_IS_IT = compiled(r"^(?:and |but |so )*(?:is|are|was|does|do|has|have|can|will|would|could)\b")
_COMPARE = compiled(
    r"\bcompar(?:e|ison)\b|\b(?:what(?:'s|s| is| are)? )?(?:the )?diff(?:erences?)?\b|\bdiffer(?:s"
    r"|ent)?\b(?=.*\b(?:about|between|from)\b)|\bdiffer\b|\bside by side\b|\b(?:versus|vs)\b"
    r"|\bwhich(?: (?:one|card|item|product|of (?:these|them|those|the \w+)))*(?: is| are| would be"
    r"| do you (?:recommend|suggest))?"
    r"(?: the)? (?:better|best|nicer|nicest|right|good|suited|suitable)\b|\bhow do (?:they|these"
    r"|those) (?:compare|differ)\b|\b(?:what|which)(?:'?s| is| are)? (?:better|best|nicer|nicest)\b"
    r"|\bwhich(?: (?:ones?|card|item|product|of (?:these|them|those)))*(?: is| are| would be|'s)(?: the)?"
    r" (?!over|under|newer\b|older\b)(?:\w{3,}(?:er|est)|more \w+|most \w+)\b"
    r"|\bwhich(?: (?:one|of (?:these|them|those)))? (?:should|would|do) (?:i|you) (?:take|buy|get|choose|pick"
    r"|recommend|suggest)\b"
)
_EXTREME = compiled(
    r"\bwhich(?: (?:one|card|item|product|of (?:these|them|those)))*(?: is| are| costs?)?(?: the)?"
    r" (?:(cheap(?:er|est)|least expensive|less|least)|(most expensive|priciest|dear(?:er|est)|more expensive|most))\b"
)
_HEDGE = compiled(r"^(?:\W|\b(?:hm+|um+|uh|er|ok|okay|so|and|but|well|what about|how about|about)\b)+")
_IT = compiled(r"\b(?:it|its|this|that|they|them|these|those|one)\b")
_SEEKS = compiled(r"\b(?:anything|something|any|some|another|other|you (?:have|got|sell)|there)\b")
_OPEN = compiled(
    r"^(?:and |but |so )*(?:what|what'?s|who|who'?s|where|when|how(?: long| big| old| many| far)?|which|whose)\b"
)
_OTHER_NAMES = {
    "maker": "name", "manufacturer": "name", "make": "name", "company": "name", "label": "name", "producer": "name",
    "kind": "kind", "type": "kind", "sort": "kind", "genre": "kind", "category": "kind",
    "cost": "price", "released": "year", "date": "year",
}  # fmt: skip
_SUBJECT = compiled(  # "is 4 dishwasher safe?", "which is better, 1 or 3?"
    r"(?:(?<=^is )|(?<=^does )|(?<=^will )|(?<=^can )|(?<=^has )|(?<=^what about )"
    r"|(?<=^how about ))#?(\d{1,2})(?=[ ,?]|$)|(?<=(?:than|r of) )#?(\d{1,2})$|(?<= of )#?(\d{1,2})$"
)
_PURPOSE = compiled(r"\b(?:for|to|when|on|in|with) (.+)$")
_DIGIT = re.compile(r"(?<![\w.,$€£])#?(\d{1,2})(?![\w]|[.,]\d)")
_SPAN = re.compile(r"(?<![\w.,])#?(\d{1,2})\s*(?:-|–|to|through)\s*#?(\d{1,2})(?![\w]|[.,]\d)")


def read_question(text: str, state: ConversationState, words: CatalogWords, catalog: Catalog) -> Question | None:
    """The question about cards that a turn is, or None where it is none."""
    return _Cards(text.strip(" .!?\n\t"), state, words, catalog).question(asks=asks(text))


class _Cards:
    """A question about the cards that are shown, as far as it is one."""

    def __init__(self, plain: str, state: ConversationState, words: CatalogWords, catalog: Catalog) -> None:
        self.plain, self.state, self.words, self.catalog = plain, state, words, catalog
        self.shown = tuple(catalog.row(item_id) for item_id in state.shown)
        self.rows, self.rest = self._referred()

    def question(self, *, asks: bool) -> Question | None:
        if not self.shown and not self._points:
            return None
        told = _HEDGE.sub("", self.rest)  # "hmm the third one, does it fit?" asks of the third
        self.asked_of = told if _IS_IT.match(told) else self.plain
        if extreme := _EXTREME.search(self.plain):
            return Question("extreme", self.rows or self.shown, self.words.price, low=0.0 if extreme[2] else None)
        if _COMPARE.search(self.plain):
            purpose = _PURPOSE.search(_COMPARE.sub(" ", self.rest))
            rows = self.rows if len(self.rows) > 1 else self.shown
            return Question("compare", rows, asked=_telling(purpose[1] if purpose else "", self.words))
        if not asks:
            return None
        return self._fact() or self._is_it() or self._tell() or self._open()

    def _fact(self) -> Question | None:
        """A value: its price, its brand, its year."""
        if _PRICE.search(self.plain):
            if not self.rows and self._names_goods(_PRICE.sub(" ", self.rest)):
                return None  # "how much are tents?" looks for tents
            return Question("fact", self.rows or self.shown, self.words.price, asked="price")
        if _MAKER.search(self.plain):
            return Question("fact", self.rows or self.shown, next(iter(self.words.names), None), asked="brand")
        how = _HOW.search(self.plain)
        if how and self.rows:
            return Question("fact", self.rows, self._column(how[1]), asked=how[1].lower())  # "how heavy is the second?"
        who = _WHO.search(self.plain)
        if who and self._column(who[1]) is not None:
            return Question("fact", self.rows or self.shown, self._column(who[1]), asked=who[1].lower())
        what = _WHAT.search(self.plain)
        if what is None or what[1] is None:
            return None
        column = self._column(what[1])
        if column is not None and (self.rows or not self._names_goods(self.plain.replace(what[1], " "))):
            return Question("fact", self.rows or self.shown, column, asked=what[1].lower())
        if (
            self.rows
            and not _TELL.search(self.plain[: what.start(1)].strip())
            and what[1].lower() not in phrases.FILLER
        ):
            return Question("fact", self.rows, None, asked=what[1].lower())  # "what colour is the first?"
        return None

    def _is_it(self) -> Question | None:
        """Whether cards are something: "is the first one dishwasher safe?", "is it under 20?"."""
        if not _IS_IT.match(self.asked_of):
            return None
        if not self.rows:  # "is it waterproof?" of several cards: which one?
            return Question("is_it") if _IT.search(self.asked_of) and not _SEEKS.search(self.asked_of) else None
        prices = find_prices(_IS_IT.sub(" ", _HEDGE.sub("", self.rest)))
        asked = _telling(prices.rest, self.words, known=False)
        if not asked and prices.low is None and prices.high is None:
            return None
        return Question("is_it", self.rows, asked=asked, low=prices.low, high=prices.high)

    def _tell(self) -> Question | None:
        return Question("tell", self.rows) if self.rows and _TELL.search(self.plain) else None

    def _open(self) -> Question | None:
        """What else is asked of a card: "who's in it?", "where was the second made?"."""
        if not self.rows or not _OPEN.match(self.plain) or _SEEKS.search(self.plain):
            return None
        asked = _telling(_OPEN.sub(" ", self.rest), self.words, known=False)
        return Question("fact", self.rows, None, asked=asked or self.plain.split()[0].lower())

    def _column(self, word: str) -> str | None:
        """The column of the catalogue that a word names, in the singular or plural, or by another common name."""
        named = next((name for name in self.words.columns if fold(name) == fold(word)), None)
        if named is not None or fold(word) not in _OTHER_NAMES:
            return named
        role = _OTHER_NAMES[fold(word)]
        if role == "price":
            return self.words.price
        if role == "year":
            return self.words.numeric(("year",))
        return next(iter(self.words.names if role == "name" else self.words.kinds), None)

    def _names_goods(self, text: str) -> bool:
        """Whether a text names a kind of item or words of titles, so that it looks for something."""
        return any(word in self.words.telling for word in words_of(text) if word not in phrases.FILLER)

    def _referred(self) -> tuple[tuple[int, ...], str]:
        """The cards that the text points at, and the text without the words that point."""
        count = len(self.shown)
        places: list[int] = []

        def span(match: re.Match[str]) -> str:
            places.extend(range(int(match[1]) - 1, int(match[2])))
            return " "

        def digit(match: re.Match[str]) -> str:
            places.append(int(first_group(match)) - 1)
            return " "

        text = self.plain
        if _COMPARE.search(text):
            text = _DIGIT.sub(digit, _SPAN.sub(span, text))
        elif count and asks(text):
            text = _SUBJECT.sub(digit, _SPAN.sub(span, text) if _PRICE.search(text) else text)
        found = find_places(text, count)
        self._points = bool(places or found.places)
        rows = tuple(self.shown[place] for place in dict.fromkeys([*places, *found.places]) if 0 <= place < count)
        rows = rows or self._titled(found.rest)
        if not rows and (found.this or re.search(r"\b(?:it|its|this|that)\b", self.plain, re.IGNORECASE)):
            rows = self._focus()
        if not rows and re.search(r"\b(?:they|them|these|those)\b", self.plain, re.IGNORECASE):
            rows = self.shown
        return rows, found.rest

    def _titled(self, text: str) -> tuple[int, ...]:
        """Cards whose titles the text names by most of its words."""
        words = [word for word in content_words(text) if fold(word) in self.words.telling]
        if not words:
            return ()
        matches = self.words.find_titles(" ".join(words))
        named = [match for match in matches if match.row in self.shown and match.of_text > 0.6 and match.of_title > 0.2]
        if len(named) == len(self.shown):
            return ()
        return tuple(match.row for match in named if match.of_text == named[0].of_text)

    def _focus(self) -> tuple[int, ...]:
        """What "it" is: the item that was spoken of last, on the table or taken from it, or the only card."""
        if self.state.focus in (*self.state.shown, *self.state.history):
            return (self.catalog.row(self.state.focus),)
        return self.shown if len(self.shown) == 1 else ()


def _telling(text: str, words: CatalogWords, *, known: bool = True) -> str:
    """The words of a text that say something; only those that the catalogue knows where `known`."""
    kept = content_words(text)
    return " ".join(word for word in kept if not known or fold(word) in words.vocabulary or len(kept) == 1)
