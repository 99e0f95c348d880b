"""Price limits in English: "under 20", "between 10 and 30 euros", "from $15", "cheaper than the second".

A number followed by a unit ("200 ml", "40 pieces") is no price.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

from genrec.inference.chat.patterns import at_word, first_group, without
from genrec.inference.chat.years import decades

Relation = Literal["below", "above"]

_UNITS = (
    "ml|cl|dl|l|litres?|liters?|mg|g|grams?|kg|kilos?|oz|ounces?|fl|lbs?|mm|cm|m|metres?|meters?|inch(?:es)?|ft"
    "|feet|pieces?"
    "|pcs|packs?|count|ct|%|percent|years?|months?|weeks?|days?|hours?|minutes?|seconds?|watts?|w|volts?|people"
    "|players?|shades?|colou?rs?|cards?|items?|of (?:them|these|those)"
)
_MONEY = r"(?:[$€£]|(?:euros?|eur|dollars?|usd|bucks?|pounds?|quid|gbp)\b)"
_NUMBER = r"(\d{1,3}(?:,\d{3})++(?:\.\d{1,2})?+|\d{1,7}+(?:[.,]\d{1,2})?+)(?![\d-])"
_AMOUNT = rf"(?:[$€£]\s*)?{_NUMBER}\s*{_MONEY}?(?!\s*(?:{_UNITS})\b)"
_PAID = rf"(?:[$€£]\s*{_NUMBER}|{_NUMBER}\s*{_MONEY})"
_DEARER = r"(?:over|above|more than|pricier than|dearer than|more expensive than)"
_CHEAPER = r"(?:under|below|less than|cheaper than)"
_NONE = r"(?:nothing|not|no|none|never)(?:\s+that\s+costs?)?"


_BETWEEN = at_word(rf"(?:between|from)\s+{_AMOUNT}\s*(?:and|to|-|–)\s*{_AMOUNT}")
_DASH = at_word(rf"(?:[$€£]\s*)?(\d+(?:[.,]\d{{1,2}})?)\s*(?:-|–|to)\s*{_PAID}")
_AROUND = at_word(rf"(?:around|about|roughly|approximately|circa|~)\s*{_AMOUNT}")
_NOT_BELOW = at_word(rf"{_NONE}\s+{_CHEAPER}\s*{_AMOUNT}")
_MOST = r"at most|up to|max(?:imum)?(?: of)?|(?:my )?budget (?:of|is)|within|<=?"
_HIGH = at_word(
    rf"{_NONE}\s+{_DEARER}\s*{_AMOUNT}|(?:price\s+)?(?:is\s+)?(?:{_CHEAPER}|{_MOST})\s*{_AMOUNT}"
    rf"|{_AMOUNT}\s*(?:or less|at most|max(?:imum)?\b|tops)|for\s+{_PAID}"
)
_OUT = at_word(
    rf"(?:anything|everything|all|whatever) {_DEARER}\s*{_AMOUNT}\s*(?:is|are|'s)\s*(?:out|too \w+|no good|a no)"
)
_ISH = at_word(rf"(?:[$€£]\s*)?{_NUMBER}[ -]?(?:ish\b|or so\b)(?:\s*{_MONEY})?")
# A price that takes the place of the one before: "no wait, 120", "make it 30"; and one that is all of a clause
_INSTEAD = at_word(
    rf"(?:(?:no,? )?wait,?|make (?:it|that)|i mean(?:t)?|say|(?:or )?rather|let'?s say)\s+(?:max(?:imum)? )?{_AMOUNT}"
)
_RIGHTED = at_word(
    rf"[$€£]?\d[\d.,]*\s*{_MONEY}?[\s,.!–-]*(?:(?:no|oh|er|sorry|wait|actually|rather|or|i mean(?:t)?|make (?:that|it)"
    rf"|scratch that|let'?s say)[\s,.!]+)+([$€£]?\d)"
)
_ALONE = re.compile(rf"\s*{_PAID}\s*", re.IGNORECASE)
_LOW = at_word(
    rf"(?:price\s+)?(?:is\s+)?(?:{_DEARER}|at least|starting (?:at|from)|min(?:imum)?(?: of)?|>=?)\s*{_AMOUNT}"
    rf"|{_AMOUNT}\s*(?:or more|and up|upwards|at least)|from\s+(?:{_PAID}|{_AMOUNT}(?=\s*$))"
)
_MUCH = r"(?:(?:much|a bit|a little|slightly|even|way)\s+)?"
_BELOW = at_word(
    rf"{_MUCH}(?:cheaper|less expensive|lower[- ]priced)(?:\s+than)?\b"
    r"|(?:not|less)\s+(?:so|as|that|too)\s+(?:expensive|dear|pricey)(?:\s+as)?\b"
    r"|(?:is\s+|was\s+|are\s+)?(?:(?:far|much|way|a bit|a little)\s+)?too (?:expensive|dear|pricey|costly|steep)\b"
    r"|(?:that|this|it)(?:'?s| is)\s+(?:(?:a bit|quite|pretty|very|so|rather|really)\s+)?(?:steep|pricey"
    r"|expensive|a lot)\b|(?:that|so) much(?: money)? for\b"
)
_ABOVE = at_word(rf"{_MUCH}(?:more expensive|pricier|dearer|higher[- ]priced)(?:\s+than)?\b|(?:is\s+)?too cheap\b")
_RANGES = (
    (_BETWEEN, "both"), (_DASH, "both"), (_OUT, "high"), (_ISH, "around"), (_NOT_BELOW, "low"),
    (_HIGH, "high"), (_LOW, "low"), (_AROUND, "around"),
)  # fmt: skip


@dataclass(frozen=True)
class Prices:
    """What a clause says about prices."""

    low: float | None  # least price, or None
    high: float | None  # most, or None
    relation: Relation | None  # "cheaper" or "dearer" without an amount: than what, the caller has to know
    rest: str  # the clause without these words
    instead: bool = False  # whether this takes the place of any limit before


_ONES = {
    "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
    "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16, "seventeen": 17,
    "eighteen": 18, "nineteen": 19,
}  # fmt: skip
_TENS = {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90}
_SCALES = {"hundred": 100, "thousand": 1000, "grand": 1000}
_VALUE = _ONES | _TENS
_WORD_NUMBER = rf"(?:(?:a |one )?(?:{'|'.join(_SCALES)})|{'|'.join(sorted(_VALUE, key=len, reverse=True))})"
_SPELLED = rf"({_WORD_NUMBER}(?:(?:[\s-]+|(?<=hundred) and |(?<=thousand) and ){_WORD_NUMBER})*)\b"
_CUE = (
    rf"{_CHEAPER}|{_DEARER}|{_MOST}|at least|between|around|about|roughly|for|or|and|to|than|spend|make it|wait,?|say"
)
_AFTER_CUE = at_word(rf"((?:{_CUE})\s+){_SPELLED}(?!\s*(?:{_UNITS})\b)")
_BEFORE_MONEY = at_word(rf"()\b{_SPELLED}(?=\s*(?:euros?|eur|dollars?|usd|bucks?|pounds?|quid|gbp)\b)")
_ANY_SPELLED = at_word(_SPELLED)
_SLANG = (
    (at_word(r"(?:a )?tenner\b"), "10 pounds"),
    (at_word(r"(?:a )?fiver\b"), "5 pounds"),
)
_SMALL = ("one", "two", "three", "four")  # after "or", "and", "for" these are cards or people sooner than money


def digits(text: str) -> str:
    """Amounts in words as digits: "under two hundred bucks" is "under 200 bucks"; other numbers stay words.

    Of an amount that is put right at once ("100, no wait, 120") the second stays.
    """

    def spelled(match: re.Match[str]) -> str:
        if match[2].lower() in _SMALL and match[1]:
            return match[0]
        return f"{match[1]}{_amount(match[2])}"

    for word, amount in _SLANG:
        text = word.sub(amount, text)
    return _RIGHTED.sub(r"\1", _AFTER_CUE.sub(spelled, _BEFORE_MONEY.sub(spelled, text)))


def numbers_in(text: str) -> set[float]:
    """Every number that a text says, in digits or in words; of a decade ("the 90s") its first and last year."""
    found = {_number(match) for match in re.findall(r"\d+(?:,\d{3})*(?:[.,]\d+)?", text)}
    found |= {float(_amount(match)) for match in _ANY_SPELLED.findall(text)}
    found |= {float(amount.split()[0]) for word, amount in _SLANG if word.search(text)}
    for low, high in decades(text):
        found |= {float(low), float(high)}
    return found


def _amount(words: str) -> int:
    total = current = 0
    for word in re.findall(r"[a-z]+", words.lower()):
        if word in _SCALES:
            current = max(1, current) * _SCALES[word]
            if _SCALES[word] == 1000:
                total, current = total + current, 0
        else:
            current += _VALUE.get(word, 0)  # "a" and "and" count nothing
    return total + current


def find_prices(clause: str) -> Prices:
    """Take the words about prices out of a clause."""
    low = high = None
    for pattern, ends in _RANGES:
        match = pattern.search(clause)
        if match is None:
            continue
        amounts = sorted(_number(group) for group in match.groups() if group)
        if ends == "both" and low is None and high is None:
            low, high = amounts
        elif ends == "around" and low is None and high is None:
            low, high = round(0.8 * amounts[0], 2), round(1.2 * amounts[0], 2)
        elif ends == "high" and high is None:
            high = amounts[0]
        elif ends == "low" and low is None:
            low = amounts[0]
        clause = without(clause, match)
    instead = _INSTEAD.search(clause)
    if instead is not None:
        high, clause = _number(first_group(instead)), without(clause, instead)
    alone = _ALONE.fullmatch(clause) if low is None and high is None else None
    if alone is not None:
        high, clause = _number(first_group(alone)), ""
    relation: Relation | None = None
    if low is None and high is None:
        match = _BELOW.search(clause) or _ABOVE.search(clause)
        if match is not None:
            relation = "below" if match.re is _BELOW else "above"
            clause = without(clause, match)
    return Prices(low, high, relation, clause, instead is not None)


def say_price(name: str, condition: tuple[float | None, float | None]) -> str:
    """A range in words: "price below 20"."""
    low, high = condition
    if low is None:
        return f"any {name}" if high is None else f"{name} up to {say_number(high)}"
    if high is None:
        return f"{name} from {say_number(low)}"
    return f"{name} {say_number(low)} to {say_number(high)}"


def say_number(value: float) -> str:
    """A number that reads back as the same number, without exponent and without ".0": 20, 12345.67, 1250000."""
    return str(value) if isinstance(value, int) else np.format_float_positional(value, trim="-")


def _number(text: str) -> float:
    thousands = re.fullmatch(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", text)
    return float(text.replace(",", "" if thousands else "."))
