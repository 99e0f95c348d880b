"""Years in English: "80s horror", "from the nineties", "before 1990", "nothing older than 2000", "from 2005 to 2012".

Ends are included, as with prices. Read only where the catalogue has a column of years.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from genrec.inference.chat.patterns import at_word, first_group, without

_TENS = ("twenties", "thirties", "forties", "fifties", "sixties", "seventies", "eighties", "nineties")
_YEAR = r"((?:18|19|20)\d\d)"
_DECADE = rf"(?:early |late |mid[- ]?)?(?:'?((?:18|19|20)?\d)0'?s|({'|'.join(_TENS)})|(noughties))"
_NEWER = r"(?:after|since|newer than|later than|more recent than|younger than)"
_OLDER = r"(?:before|until|till|older than|earlier than|prior to|up to)"
_NONE = r"(?:nothing|not|no|none|never)(?: (?:that|which)(?:'s| is| are))?"


def _compiled(pattern: str) -> re.Pattern[str]:
    return at_word(rf"(?:{pattern})(?!\w)")


_DECADES = _compiled(_DECADE)
_BETWEEN = _compiled(rf"(?:(?:from|between|made|released) )*{_YEAR} ?(?:and|to|till|until|-|–) ?{_YEAR}")
_NOT_OLDER = _compiled(rf"{_NONE} {_OLDER} (?:the )?{_YEAR}")
_NOT_NEWER = _compiled(rf"{_NONE} {_NEWER} (?:the )?{_YEAR}")
_LOW = _compiled(
    rf"(?:(?:from|made|released) )?{_NEWER} {_YEAR}|(?:from )?{_YEAR} (?:on|onwards?|or (?:newer|later)|and later)"
)
_HIGH = _compiled(rf"(?:(?:from|made|released) )?{_OLDER} {_YEAR}|{_YEAR} or (?:older|earlier|before)")
_EXACT = _compiled(rf"(?:from|in|made in|released in|of) {_YEAR}")
_AROUND_DECADE = _compiled(rf"(?:({_NEWER})|({_OLDER})|from|in|of)? ?(?:the )?{_DECADE}")


class Years(NamedTuple):
    """The first and the last year that a clause says, None where it says none, and the clause without them."""

    low: int | None
    high: int | None
    rest: str


def find_years(clause: str) -> Years:
    """Take the words about years out of a clause."""
    match = _BETWEEN.search(clause)
    if match is not None:
        first, last = sorted(map(int, match.groups()))
        return Years(first, last, without(clause, match))
    low = high = None
    for pattern, end in ((_NOT_OLDER, "low"), (_NOT_NEWER, "high"), (_LOW, "low"), (_HIGH, "high")):
        match = pattern.search(clause)
        if match is not None:
            year = int(first_group(match))
            low, high = (year, high) if end == "low" else (low, year)
            clause = without(clause, match)
    if low is not None or high is not None:
        return Years(low, high, clause)
    match = _EXACT.search(clause)
    if match is not None:
        return Years(int(match[1]), int(match[1]), without(clause, match))
    match = _AROUND_DECADE.search(clause)
    if match is None:
        return Years(None, None, clause)
    first = _first_year(*match.groups()[2:])
    rest = without(clause, match)
    if match[1]:
        return Years(first, None, rest)
    return Years(None, first, rest) if match[2] else Years(first, first + 9, rest)


def decades(text: str) -> list[tuple[int, int]]:
    """First and last year of every decade that a text names."""
    return [(first, first + 9) for first in (_first_year(*match.groups()) for match in _DECADES.finditer(text))]


def _first_year(digits: str | None, word: str | None, noughties: str | None) -> int:
    """The first year of a decade; "10s" and "the twenties" are of this century, "30s" of the last."""
    if noughties:
        return 2000
    if word:
        tens = _TENS.index(word.lower()) + 2
    elif digits and len(digits) == 3:
        return 10 * int(digits)
    else:
        tens = int(digits or 0)
    return (2000 if tens < 3 else 1900) + 10 * tens
