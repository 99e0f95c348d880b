"""The one exception that means "the input is bad, not the program"."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input from a person: the message is one line that names the file, the row or the flag.

    Commands print it on standard error and exit with status 2; everything else that escapes is a defect.
    """
