"""The one exception that means "the input is bad, not the program"; with it, what says that an option is wrong."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Self

_NAMED = 3  # of them in a message
_COMPARED = 10_000  # names that a misspelled one is compared with: a tenth of a second


class InputError(ValueError):
    """Bad input from a person: the message is one line that names the file, the row or the flag.

    Commands print it on standard error and exit with status 2; everything else that escapes is a defect.
    """


class OptionError(InputError):
    """An option of a configuration is wrong: `learning_rate -1.0 must be positive and finite`.

    The class that holds the option raises it and knows the field alone. Whoever builds that class as a part of a larger
    one adds where it stands (`within`), until the path is the one that a person has written, and the command line says
    it as a flag: `--lm.learning_rate -1.0 must be positive and finite`.

    Attributes:
        field: the option's name, or its path with dots.
        reason: the rest of the message, beginning with the value where there is one.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field} {reason}")
        self.field, self.reason = field, reason

    def within(self, section: str) -> Self:
        """The same error, its option in a section of a larger configuration."""
        return type(self)(f"{section}.{self.field}", self.reason)

    def as_flag(self) -> InputError:
        """The same error, its option as the flag of a command."""
        return InputError(f"--{self}")


def first_line(error: BaseException) -> str:
    """The first line of what a library says, its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def listed(names: Iterable[str]) -> str:
    """Names in quotes, with commas between them."""
    return ", ".join(map(repr, names))


def near_names(wanted: str, names: Iterable[str]) -> list[str]:
    """The names that somebody may have meant who wrote one that does not exist, likeliest first.

    Letter case is passed over; names that hold the wanted one, or begin it, count as near whatever their length.
    """
    told = wanted.casefold()
    by_fold = {name.casefold(): name for name in names}
    if told in by_fold:
        return [by_fold[told]]
    holding = sorted((fold for fold in by_fold if told and told in fold), key=len)[:_NAMED]
    like = difflib.get_close_matches(told, list(by_fold)[:_COMPARED], n=_NAMED, cutoff=0.6)
    likeness = [difflib.SequenceMatcher(None, fold, told).ratio() for fold in like]
    like = [fold for fold, ratio in zip(like, likeness, strict=True) if ratio > likeness[0] - 0.1]  # not half as near
    return [by_fold[fold] for fold in dict.fromkeys([*like, *holding])][:_NAMED]


def did_you_mean(wanted: str, names: Iterable[str]) -> str:
    """The end of a message about an unknown name: `; did you mean 'Clover Court Co'?`, or nothing."""
    near = near_names(wanted, names)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def did_you_mean_file(path: str | Path) -> str:
    """The end of a message about a file or folder that does not exist: the like-named ones beside it, or nothing."""
    wanted = Path(path)
    folder = wanted.parent
    if folder.is_dir():
        near = near_names(wanted.name, (found.name for found in folder.iterdir()))
        return f"; did you mean {' or '.join(str(folder / name) for name in near)}?" if near else ""
    while not folder.is_dir():
        wanted, folder = folder, folder.parent
    return f" (there is no folder {wanted})"
