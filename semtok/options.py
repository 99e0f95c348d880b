"""Checks of a configuration's options, for `__post_init__`; each raises `OptionError` with the option's own name."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from typing import Any

from genrec.semtok.errors import OptionError

# What is drawn from takes sums and multiples of a seed: of scikit-learn's 32 bits and torch's 64, this leaves room.
MOST_SEED = 4_000_000_000
MOST_CODES = 1_000_000  # on one level; each is a token of the language model


# What is above is a slip of the hand: the machine would refuse it too, after an hour or with all memory gone.
MOST = 2_000_000_000
_MOST_OF = {"layers": 1_000, "heads": 10_000, "width": 100_000, "beams": 100_000, "k": 1_000_000}


def most(name: str) -> int:
    """The greatest value of a size that goes into the memory, by the last word of an option's name."""
    return _MOST_OF.get(name.rpartition("_")[2], MOST)


def _check(config: Any, names: Iterable[str], holds: Any, what: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not holds(value):
            raise OptionError(name, f"{value} {what}")


def at_least_one(config: Any, *names: str) -> None:
    """Each is 1 or more and no slip of the hand (`most`), or None where its type allows that."""
    _check(config, names, lambda value: value >= 1, "must be at least 1")
    for name in names:
        if (getattr(config, name) or 0) > most(name):
            raise OptionError(name, f"{getattr(config, name)} must be at most {most(name):,}")


def positive(config: Any, *names: str) -> None:
    """Each is finite and above 0, or None."""
    _check(config, names, lambda value: 0 < value < math.inf, "must be positive and finite")


def not_negative(config: Any, *names: str) -> None:
    """Each is finite and 0 or more, or None."""
    _check(config, names, lambda value: 0 <= value < math.inf, "must not be negative, and must be finite")


def below_one(config: Any, *names: str) -> None:
    """Each is a rate in [0, 1), such as a dropout."""
    _check(config, names, lambda value: 0 <= value < 1, "is not in [0, 1)")


def fraction(config: Any, *names: str) -> None:
    """Each is in [0, 1], or None."""
    _check(config, names, lambda value: 0 <= value <= 1, "is not in [0, 1]")


def sizes(config: Any, *names: str) -> None:
    """Each is a tuple of at most 26 numbers from 1 to a million."""
    for name in names:
        told = list(getattr(config, name))
        if any(size < 1 for size in told):
            raise OptionError(name, f"{told} must be at least 1 each")
        if len(told) > 26 or any(size > MOST_CODES for size in told):
            raise OptionError(name, f"{told} must be at most 26 numbers up to {MOST_CODES:,}")


def path(config: Any, *names: str) -> None:
    """Each is a path, or None; `~` and `~ann` at its beginning become the home folder, as in a shell.

    A shell itself leaves them alone in `--run=~/runs/mine`, and in a YAML file it never sees them.
    """
    for name in names:
        value = getattr(config, name)
        if value is None:
            continue
        if "\0" in str(value):
            raise OptionError(name, f"{str(value)!r}: a path holds no NUL")
        if str(value).startswith("~"):
            home = os.path.expanduser(value)
            if home.startswith("~"):
                raise OptionError(name, f"{value}: no such user; for a name that begins with ~, write ./{value}")
            object.__setattr__(config, name, type(value)(home))


def json_object(config: Any, name: str) -> dict[str, Any] | None:
    """The JSON object that an option holds as text, or None."""
    text = getattr(config, name)
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # also a number of 5,000 digits
        raise OptionError(name, f"{text if len(text) < 100 else f'{text[:100]}...'}: not JSON ({error})") from None
    if not isinstance(value, dict):
        raise OptionError(name, f"{text}: not a JSON object of attribute and condition")
    return value


def divides(config: Any, part: str, whole: str) -> None:
    """The first is 1 or more and divides the second, as heads do a width."""
    if getattr(config, part) < 1 or getattr(config, whole) % getattr(config, part):
        raise OptionError(part, f"{getattr(config, part)} does not divide {whole} {getattr(config, whole)}")


def choice(config: Any, name: str, choices: Iterable[str]) -> None:
    """It is one of several words."""
    if getattr(config, name) not in choices:
        raise OptionError(name, f"{getattr(config, name)!r}: choose one of {', '.join(choices)}")


def port(config: Any, *names: str) -> None:
    """Each is a port; 0 lets the system choose."""
    _check(config, names, lambda value: 0 <= value <= 65535, "is not in 0 to 65535")


def seed(config: Any, *names: str) -> None:
    """Each can seed every generator."""
    _check(config, names, lambda value: 0 <= value <= MOST_SEED, f"must not be negative or above {MOST_SEED}")
