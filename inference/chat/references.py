"""Places on the table in English: "the second", "number 3", "the last one", "the first two", "all of these"."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from genrec.inference.chat.patterns import at_word, first_group

_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_COUNTS = {"two": 2, "three": 3, "four": 4, "2": 2, "3": 3, "4": 4}
_WORDS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
_NOUN = r"(?:ones?|items?|cards?|products?|options?|results?|choices?|suggestions?|(?:one )?of (?:these|them|those))"
_ORDINAL = rf"(?:{'|'.join(_ORDINALS)}|\d{{1,2}}(?:st|nd|rd|th))"
# "the second" ends where no noun of its own follows: "the first aid kit" is no place
_END = (
    r"(?=\s*(?:$|[,.;:!?)]|(?:and|but|or|is|was|looks?|seems|please|again|too|also|though|only|just|instead|already"
    r"|better|because|since|in|from|for|with|under|below|over|above|cheaper|than|though|costs?)\b))"
)


_SEVERAL = at_word(rf"(?:the )?(first|last) ({'|'.join(_COUNTS)})(?: {_NOUN})?{_END}")
_ONE = at_word(
    rf"(?:the|my|that) ({_ORDINAL}|last) {_NOUN}\b|(?:the|my|that) ({_ORDINAL}|last){_END}|({_ORDINAL}"
    rf"|last) {_NOUN}{_END}"
)
_NUMBER = at_word(
    rf"(?:the )?(?:(?:number|card|item|option) ({'|'.join(_WORDS)})\b"
    r"|(?:number|no\.?|nr\.?|item|card|option|#)\s*#?(\d{1,2})(?!\w|[.,]\d))"
)
_LISTED = re.compile(  # "I like 1 and 3", "not 2, 4"
    r"(?<!\w)((?:i (?:really )?(?:like|love|want)|take|prefer|pick|choose|keep|add|go (?:with|for)|not|hate|dislike"
    r"|don'?t (?:like|want)|get rid of|remove|hide|skip|drop|forget|ditch|leave out)\s+)"
    r"(#?\d{1,2}(?:\s*(?:,|and|or|&)\s*#?\d{1,2})*)\s*$",
    re.IGNORECASE,
)
_BARE = at_word(rf"(?<=why )({_ORDINAL}|last|#?\d{{1,2}})\s*\??$|(?<=not )({_ORDINAL}|\d{{1,2}})$")
_ALL = at_word(
    r"(?:any |all |both )?of (?:these|them|those)|(?:all|both) (?:these|those)|(?:these|those)(?= ones?\b|$)"
)
_THIS = at_word(r"(?:this|that|it)(?: one| item| card)?(?=\s*(?:$|[?!.]))")


@dataclass(frozen=True)
class Places:
    """Which cards a clause speaks of."""

    places: tuple[int, ...]  # from 0, in the order of mention; one may lie beyond the table
    this: bool  # "this" or "it" without a number
    rest: str  # the clause without these words


def find_places(clause: str, shown: int) -> Places:
    """Take the words that point at cards out of a clause.

    Args:
        shown: cards on the table.
    """
    found: list[int] = []

    def take(places: Iterable[int], left: str = " ") -> str:
        found.extend(places)
        return left

    clause = _SEVERAL.sub(lambda match: take(_several(match, shown)), clause)
    clause = _LISTED.sub(lambda match: take((int(n) - 1 for n in re.findall(r"\d+", match[2])), match[1]), clause)
    for pattern in (_ONE, _NUMBER, _BARE):
        clause = pattern.sub(lambda match: take([_place(first_group(match), shown)]), clause)
    if shown and not found:
        clause = _ALL.sub(lambda match: take(range(shown)), clause)
    rest, this = _THIS.subn(" ", clause) if not found else (clause, 0)
    return Places(tuple(dict.fromkeys(found)), this > 0, rest.strip())


def _several(match: re.Match[str], shown: int) -> range:
    count = _COUNTS[match[2].lower()]
    return range(shown)[:count] if match[1].lower() == "first" else range(shown)[-count:]


def _place(word: str, shown: int) -> int:
    word = word.lower().lstrip("#")
    if word == "last":
        return max(shown - 1, 0)
    if word in _WORDS:
        return _WORDS[word] - 1
    return _ORDINALS.index(word) if word in _ORDINALS else int(re.sub(r"\D", "", word)) - 1
