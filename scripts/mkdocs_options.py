"""Tables of options for the pages, read from the sources without importing them: a hook of `mkdocs.yml`.

A line `<!-- options: --lm genrec.training.lm.config.LmConfig -->` of a page becomes a table of the dataclass's fields:
option, default, and what its docstring says of it. Fields that are sections of their own are left to their own line.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import griffe

LINE = re.compile(r"^<!-- options: (?P<prefix>--[\w.]*) (?P<name>[\w.]+) -->$", re.MULTILINE)
ROOT = Path(__file__).resolve().parents[1]
_AS_YAML = {"None": "null", "True": "true", "False": "false", "()": "[]"}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the tables where a page asks for them."""
    return LINE.sub(lambda found: table(found["prefix"], found["name"]), markdown)


def table(prefix: str, name: str) -> str:
    """Options, defaults and descriptions of a dataclass, as Markdown."""
    module_name, _, kind = name.rpartition(".")
    module = _module(module_name)
    members, rows = _members(module, kind), ["| option | default | |", "|---|---|---|"]
    for field, text in _described(module[kind], members).items():
        attribute = members[field]
        if str(attribute.annotation).endswith(("Config", "TaskWeights", "Columns")):
            continue
        value = str(attribute.value or "")
        if value.startswith("field("):
            rows.append(f"| `{prefix}.{field}` | (see right) | {' '.join(text.split())} |")
            continue
        if value in module.members:  # a constant of the module
            value = str(module.members[value].value)
        default = f"`{_AS_YAML.get(value, value.strip(chr(39)))}`" if value.strip("'") else "required"
        option = f"{prefix}{'' if prefix == '--' else '.'}{field}"
        rows.append(f"| `{option}` | {default} | {' '.join(text.split())} |")
    return "\n".join(rows)


def _members(module: Any, kind: str) -> dict[str, Any]:
    """What a class and its bases in the same module have."""
    inherited = [_members(module, str(base)) for base in module[kind].bases if str(base) in module.members]
    return {name: member for some in [*inherited, module[kind].members] for name, member in some.items()}


def _described(config: Any, members: dict[str, Any]) -> dict[str, str]:
    """What the docstring says of each field."""
    sections = config.docstring.parse("google")
    attributes = next(section.value for section in sections if section.kind.value == "attributes")
    missing = {one.name for one in attributes} - members.keys()
    if missing:
        raise KeyError(f"{config.path} documents fields that it lacks: {sorted(missing)}")
    return {one.name: one.description for one in attributes}


def _module(name: str) -> Any:
    """A module, read from its file: the packages are links below `genrec`, which a search would read twice."""
    path = ROOT / Path(*name.split(".")).with_suffix(".py")
    if not path.is_file():
        path = ROOT / Path(*name.split(".")) / "__init__.py"
    return griffe.visit(name, filepath=path, code=path.read_text())
