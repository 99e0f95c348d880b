"""Files that a run brings, read through a schema: a file of another form is one line, and never a surprise later.

JSON goes through pydantic: it checks the frozen dataclasses that the program has anyway, strictly and without a second
definition of them, it bounds the depth of what it parses, and the server has it as a dependency of its framework.

    facts = read_as(folder / "data.json", DataFacts)
"""

from __future__ import annotations

from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from genrec.semtok.errors import InputError

Value = TypeVar("Value")


@cache  # making one takes milliseconds
def _adapter(kind: Any) -> TypeAdapter[Any]:
    if is_dataclass(kind):
        with_config(ConfigDict(extra="forbid"))(cast(type[Any], kind))  # of those inside too
    return TypeAdapter(kind)


def read_as(path: Path, kind: type[Value]) -> Value:
    """Parse a JSON file as a type: a dataclass, whose own checks run too, or a builtin such as `list[dict[str, Any]]`;
    raises InputError where it is missing or of another form.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    return parse_as(data, kind, str(path))


def parse_as(data: bytes | str, kind: type[Value], name: str) -> Value:
    """Parse JSON text as a type; raises InputError, beginning with `name`, where it is of another form."""
    try:
        value: Value = _adapter(cast(Any, kind)).validate_json(data, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        said = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{name}: {place + ': ' if place else ''}{said}") from None
    return value
