"""Turns that ask something and change nothing: a greeting, a fact about a card, a comparison, what no catalogue tells.

    read_question("how much is the second?", state, words, catalog)    # Question("fact", rows=(17,), attribute="price")
    read_question("do you ship to Norway?", state, words, catalog)     # Question("off_topic", asked="ship")
    read_question("coffee under 20", state, words, catalog)            # None: a wish, see `chat.understanding`

Rules for English. What they find never reaches the history, the wish or the conditions.
"""

from __future__ import annotations

import re

from genrec.inference.chat import phrases
from genrec.inference.chat.catalog_words import WORD, CatalogWords, fold, words_of
from genrec.inference.chat.prices import find_prices
from genrec.inference.chat.reading import Question
from genrec.inference.chat.references import find_places
from genrec.inference.chat.state import ConversationState
from genrec.semtok.catalog import Catalog


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


_GREET = _compiled(
    r"(?:(?:hi|hello|hey|hiya|howdy|greetings|good (?:morning|afternoon|evening|day))(?: there| again| you"
    r"| all)*[,!. ]*)+"
    r"(?:how(?:'s| are| is) (?:you|it|things|life)(?: doing| going| today)*)?"
    r"|how(?:'s| are| is) (?:you|it going|things|life)(?: doing| going| today)*|what'?s up"
)
_ACKNOWLEDGE = _compiled(
    r"(?:(?:ok|okay|great|perfect|awesome|cool|nice|lovely|wonderful|super|alright|all right|got it|well done|yes"
    r"|yeah|yep"
    r"|sure|no|nope|nah|hm+|wow|i see|never ?mind|maybe|good|fine)[,!. ]*)+"
)
_THANKS = _compiled(
    r"(?:(?:ok|okay|great|perfect|awesome|cool|nice|lovely|wonderful|super|alright|all right|got it|well done|no"
    r"|that(?:'s| is) (?:great|perfect|all|it|helpful)|(?:many )?thanks?(?: a lot| so much| very much)?"
    r"|thank you(?: so much| very much)?|thx|cheers|bye|goodbye|good night|see you(?: later| soon)?|take care"
    r"|for (?:your|the|all your) help)[,!. ]*)+"
)
_HELP = _compiled(
    r"(?:please )?(?:help(?: me)?|(?:can|could) you help(?: me)?"
    r"|what (?:can|do|should) (?:you|i) (?:do|say|ask|type|sell|have|offer)(?: here| for me| to you)?"
    r"|how (?:does (?:this|it)|do you|do i|can you|can i) (?:work|help me|use (?:this|you|it))|what is this"
    r"|what(?:'s| is) in (?:this|the) (?:shop|store|catalogu?e)|what (?:kinds?|sorts?|types?) of (?:things|items"
    r"|products)"
    r"(?: do you (?:have|sell)| are there)?)"
)
# What a shop is asked and a catalogue doesn't hold
_OFF_TOPIC = _compiled(
    r"\b(ship(?:s|ping|ped|ment)?|deliver(?:y|ies|s|ed)?|returns?|return policy|refunds?|exchange|warranty"
    r"|pay(?:ment)?"
    r"|paypal|credit cards?|invoice|discounts?|coupons?|vouchers?|promo(?:tion)?(?: codes?)?|(?:in|out of) stock"
    r"|availab(?:le|ility)|my order|order status|track(?:ing)?|opening hours|open (?:on|at|today)|customer service"
    r"|(?:talk|speak) to (?:a|an|some)|gift ?wrap(?:ping)?|newsletter|my account|password|log ?in|sign (?:in|up)"
    r"|weather"
    r"|(?:tell me a )?joke|news|who (?:are|made) you|your name|are you (?:a |an )?(?:bot|human|real|ai|robot)|reserve"
    r"|physical stores?|near me|how old are you)\b"
)
_ASKS = _compiled(
    r"^(?:and |but |so |well |hey |please )*(?:do|does|did|can|could|will|would|is|are|was|how|what|where|when"
    r"|who|which"
    r"|what's|may|i want to (?:return|talk|speak|track)|i(?:'d| would) like to (?:return|talk|speak|track)|tell me)\b"
)
_PRICE = _compiled(
    r"\bhow (?:much|expensive|pricey)\b|\bwhat (?:do|does|would|will)\b.*\bcosts?\b|\bwhat(?:'s| is"
    r"| are)?(?: the)? (?:price|cost)"
)
_MAKER = _compiled(r"\bwho (?:makes?|made|sells?|produces?|is (?:it|that|this) (?:by|from))\b|\bwhat make\b")
_HOW = _compiled(r"\bhow (\w+) (?:is|are|was|does)\b")
_WHAT = _compiled(r"\b(?:what|which)(?:'s| is| are| does| do)?(?: the| its| their)? (\w+)|\bwhose\b")
_TELL = _compiled(
    r"\b(?:tell me (?:more )?(?:about|on)|more (?:info(?:rmation)?|details?)(?: (?:on|about|of|for))?|describe"
    r"|details? (?:of|on|for|about)"
    r"|what(?:'s| is| are)|what do you know (?:about|of)|tell me more)\b"
)
_IS_IT = _compiled(r"^(?:and |but |so )*(?:is|are|was|does|do|has|have|can|will|could)\b")
_COMPARE = _compiled(
    r"\bcompar(?:e|ison)\b|\b(?:what(?:'s|s| is| are)? )?(?:the )?differences?\b|\bdiffer\b|\b(?:versus|vs)\b"
    r"|\bwhich(?: (?:one|card|item|product|of (?:these|them|those|the \w+)))*(?: is| are| would be"
    r"| do you (?:recommend|suggest))?"
    r"(?: the)? (?:better|best|nicer|nicest|right|good|suited|suitable)\b|\bhow do (?:they|these"
    r"|those) (?:compare|differ)\b"
    r"|\bwhich(?: (?:one|of (?:these|them|those)))? (?:should|would|do) (?:i|you) (?:take|buy|get|choose|pick"
    r"|recommend|suggest)\b"
)
_EXTREME = _compiled(
    r"\bwhich(?: (?:one|card|item|product|of (?:these|them|those)))*(?: is| are| costs?)?(?: the)?"
    r" (?:(cheap(?:er|est)|least expensive|less|least)|(most expensive|priciest|dear(?:er|est)|more expensive"
    r"|most))\b"
)
_PURPOSE = _compiled(r"\b(?:for|to|when|on|in|with) (.+)$")
_DIGIT = re.compile(r"(?<![\w.,$€£])#?(\d{1,2})(?![\w]|[.,]\d)")
_SPAN = re.compile(r"(?<![\w.,])#?(\d{1,2})\s*(?:-|–|to|through)\s*#?(\d{1,2})(?![\w]|[.,]\d)")


def read_question(text: str, state: ConversationState, words: CatalogWords, catalog: Catalog) -> Question | None:
    """The question that a turn is, or None where it is none: a wish, a limit, a refusal."""
    plain = text.strip(" .!?\n\t")
    for pattern, kind in ((_GREET, "greet"), (_ACKNOWLEDGE, "acknowledge"), (_THANKS, "thanks"), (_HELP, "help")):
        if plain and pattern.fullmatch(plain):
            return Question(kind)  # type: ignore[arg-type]
    topic = _OFF_TOPIC.search(plain)
    if topic and _ASKS.match(plain) and not _is_sold(topic[0], words):
        return Question("off_topic", asked=topic[0].lower())
    return _Cards(plain, state, words, catalog).question(asks=bool(_ASKS.match(plain)) or text.rstrip().endswith("?"))


def _is_sold(topic: str, words: CatalogWords) -> bool:
    """Whether the catalogue has items called so: "gift wrap" may be one."""
    return bool(words.titles_with(topic).any())


class _Cards:
    """A question about the cards that are shown, as far as it is one."""

    def __init__(self, plain: str, state: ConversationState, words: CatalogWords, catalog: Catalog) -> None:
        self.plain, self.state, self.words, self.catalog = plain, state, words, catalog
        self.shown = tuple(catalog.row(item_id) for item_id in state.shown)
        self.rows, self.rest = self._referred()

    def question(self, *, asks: bool) -> Question | None:
        if not self.shown and not self._points:
            return None
        if _EXTREME.search(self.plain):
            dearest = _EXTREME.search(self.plain)[2] is not None  # type: ignore[index]
            return Question("extreme", self.rows or self.shown, self.words.price, low=0.0 if dearest else None)
        if _COMPARE.search(self.plain):
            purpose = _PURPOSE.search(_COMPARE.sub(" ", self.rest))
            rows = self.rows if len(self.rows) > 1 else self.shown
            return Question("compare", rows, asked=_telling(purpose[1] if purpose else "", self.words))
        if not asks:
            return None
        return self._fact() or self._is_it() or self._tell()

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
        if not self.rows or not _IS_IT.match(self.plain):
            return None
        prices = find_prices(_IS_IT.sub(" ", self.rest))
        asked = _telling(prices.rest, self.words, known=False)
        if not asked and prices.low is None and prices.high is None:
            return None
        return Question("is_it", self.rows, asked=asked, low=prices.low, high=prices.high)

    def _tell(self) -> Question | None:
        return Question("tell", self.rows) if self.rows and _TELL.search(self.plain) else None

    def _column(self, word: str) -> str | None:
        """The column of the catalogue that a word names, in the singular or plural."""
        return next((name for name in self.words.columns if fold(name) == fold(word)), None)

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
            places.append(int(match[1]) - 1)
            return " "

        text = self.plain
        if _COMPARE.search(text):
            text = _DIGIT.sub(digit, _SPAN.sub(span, text))
        found = find_places(text, count)
        self._points = bool(places or found.places)
        inside = [place for place in dict.fromkeys([*places, *found.places]) if 0 <= place < count]
        rows = tuple(self.shown[place] for place in inside)
        if not rows:
            rows = self._titled(found.rest)
        if not rows and (found.this or re.search(r"\b(?:it|its|this|that)\b", self.plain, re.IGNORECASE)):
            rows = self._focus()
        if not rows and re.search(r"\b(?:they|them|these|those)\b", self.plain, re.IGNORECASE):
            rows = self.shown
        return rows, found.rest

    def _titled(self, text: str) -> tuple[int, ...]:
        """Cards whose titles the text names by most of its words."""
        words = [
            word for word in WORD.findall(text) if fold(word) in self.words.telling and fold(word) not in phrases.FILLER
        ]
        if not words:
            return ()
        matches = self.words.find_titles(" ".join(words))
        named = [match for match in matches if match.row in self.shown and match.of_text > 0.6 and match.of_title > 0.2]
        return (
            tuple(match.row for match in named if match.of_text == named[0].of_text)
            if len(named) < len(self.shown)
            else ()
        )

    def _focus(self) -> tuple[int, ...]:
        """What "it" is: the card that was spoken of last, or the only one."""
        if self.state.focus in self.state.shown:
            return (self.catalog.row(self.state.focus),)
        return self.shown if len(self.shown) == 1 else ()


def _telling(text: str, words: CatalogWords, *, known: bool = True) -> str:
    """The words of a text that say something; only those that the catalogue knows where `known`."""
    kept = [word for word in WORD.findall(text) if fold(word) not in phrases.FILLER]
    return " ".join(word for word in kept if not known or fold(word) in words.vocabulary or len(kept) == 1)
