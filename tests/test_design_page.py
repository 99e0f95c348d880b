"""The page on design against the code: its rooms, its arrows, and every file that it names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from worlds.design_page import LINKED, PAGE, ROOT, arrows, packages, rooms

SOURCES = [path for package in packages() for path in sorted((ROOT / package).rglob("*.py"))]
FREE = "genrec/cli"  # imports what it composes


def files() -> Iterator[tuple[str, Path]]:
    """Room and file, each file once."""
    for path in SOURCES:
        parts = path.relative_to(ROOT).parts
        if parts[0] != "genrec" or parts[1] not in LINKED:
            yield "/".join(parts[:2]) if len(parts) > 2 else parts[0], path


def room_of(module: str) -> str | None:
    """`genrec.training.lm.fit` lies in `training/lm`; None of what is not ours, or names no file or folder."""
    parts = module.split(".")
    if parts[0] != "genrec":
        return None
    parts = parts[1:] if len(parts) > 1 and parts[1] in LINKED else parts
    path = ROOT.joinpath(*parts)
    if path.is_dir():
        return "/".join(parts[:2])
    return ("/".join(parts[:2]) if len(parts) > 2 else parts[0]) if path.with_suffix(".py").is_file() else None


def imported_rooms(source: str) -> set[str]:
    """Rooms that a text imports from, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {room_of(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {room_of(node.module), *(room_of(f"{node.module}.{alias.name}") for alias in node.names)}
    return {room for room in found if room}


def test_the_table_has_every_room() -> None:
    there = {room for room, path in files() if path.read_text().strip() or room.count("/")}
    assert there - {FREE} == rooms()
    assert rooms() == arrows().keys()


@pytest.mark.parametrize("room", sorted(arrows()))
def test_the_arrows_of_a_room_are_its_imports(room: str) -> None:
    """Change the page in the commit that changes an import between rooms."""
    imported = set().union(*(imported_rooms(path.read_text()) for one, path in files() if one == room)) - {room}
    lazy = {"inference", FREE} if room == "genrec" else set()  # the public names
    assert imported - lazy == arrows()[room] - lazy


def test_arrows_between_packages_are_those_of_the_first_table() -> None:
    for room, others in arrows().items():
        package = room.partition("/")[0]
        allowed = packages()[package] | ({"inference"} if room == "genrec" else set())
        assert {other.partition("/")[0] for other in others} <= allowed, room


def test_every_file_that_the_page_names_is_there() -> None:
    text = PAGE.read_text()
    named = {name.rstrip("/") for name in re.findall(r"`([\w/]+/[\w./]*)`", text)}
    named |= set(re.findall(r"\b(?:semtok|genrec|training|inference)/[\w/]+\.py\b", text))
    assert len(named) > 10
    runs = {"lm", "lm/heads"}  # folders of a run
    assert {name for name in named - runs if not (ROOT / name).exists()} == set()


def test_the_check_sees_every_kind_of_import() -> None:
    source = "import genrec.training.lm.fit as y\ndef f():\n    from genrec.decoding import trie\nimport numpy\n"
    assert imported_rooms(source) == {"training/lm", "genrec/decoding"}
    assert imported_rooms("from genrec import Recommender") == {"genrec"}
