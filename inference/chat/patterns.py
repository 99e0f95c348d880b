"""What the rules' patterns and the sentences that answer them have in common."""

from __future__ import annotations

import re
from collections.abc import Sequence


def compiled(pattern: str) -> re.Pattern[str]:
    """A pattern that takes no notice of case."""
    return re.compile(pattern, re.IGNORECASE)


def at_word(pattern: str) -> re.Pattern[str]:
    """The same, where a word begins."""
    return compiled(rf"(?<!\w)(?:{pattern})")


def without(clause: str, match: re.Match[str]) -> str:
    """A clause less the words that were understood."""
    return f"{clause[: match.start()]} {clause[match.end() :]}".strip()


def first_group(match: re.Match[str]) -> str:
    """What the first of several alternatives' groups holds."""
    return next(group for group in match.groups() if group)


def listed(names: Sequence[str]) -> str:
    """Names with commas, and "and" before the last."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def cut(text: str, length: int) -> str:
    """A text of at most so many characters."""
    return text if len(text) <= length else f"{text[: length - 1].rstrip()}…"
