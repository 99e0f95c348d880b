"""Options from a mapping, in the types of a configuration's fields: what the command line's parser does for flags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser

from genrec.semtok.errors import InputError

# What is drawn from takes sums and multiples of a seed: of scikit-learn's 32 bits and torch's 64, this leaves room.
MOST_SEED = 4_000_000_000


def typed_options(kind: type, options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The options given, each in its field's type (`1e-4`, which YAML reads as text, is a number).

    Args:
        kind: a dataclass of configuration.
        where: file or flag, for the message.

    Raises:
        InputError: no such option, one without a default is missing, or a value of another type.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind)
    try:
        values = parser.parse_object({str(name): value for name, value in options.items()})
    except ArgumentError as error:
        raise InputError(f"{where}: {' '.join(str(error).split())}") from None
    for name in options:
        if values[name] is None and parser.get_default(name) is not None:  # which the parser lets pass
            raise InputError(f"{where}: {name} has no value")
    return {name: values[name] for name in options}
