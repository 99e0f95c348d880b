"""Options from a mapping, in the types of a configuration's fields: what the command line's parser does for flags."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from genrec.semtok.errors import InputError, OptionError, did_you_mean


def typed_options(kind: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options given, each in its field's type (`1e-4`, which YAML reads as text, is a number).

    Args:
        kind: a dataclass of configuration.

    Raises:
        OptionError: no such option, one without a default is missing, or a value of another type.
    """
    known = [field.name for field in fields(kind)]
    for name in options:
        if name not in known:
            raise OptionError(str(name), f"is no option; there are {', '.join(known)}{did_you_mean(str(name), known)}")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind)
    try:
        values = parser.parse_object({str(name): value for name, value in options.items()})
    except ArgumentError as error:
        raise wrong_type(str(error)) or InputError(" ".join(str(error).split())) from None
    for name in options:
        if values[name] is None and parser.get_default(name) is not None:  # which the parser lets pass
            raise OptionError(name, "has no value")
    return {name: values[name] for name in options}


def wrong_type(told: str) -> OptionError | None:
    """The parser's complaint about a value of another type, in one line of ours; None for another complaint."""
    told = " ".join(told.split())
    if not (found := re.search(r'Parser key "([\w.]+)": (.+)', told)):
        return None
    name, reason = found[1], found[2]
    if plain := re.fullmatch(r"Expected an? (?:<class '(\w+)'>|(.+?))\.? Got value: (.*)", reason):
        reason = f"{plain[3]!r}: must be of the type {plain[1] or plain[2]}"
    return OptionError(name, reason)
