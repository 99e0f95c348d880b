"""The rooms and arrows of docs/design.md, read: the page is where they are written down."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/design.md"
LINKED = ("semtok", "training", "inference")  # below `genrec/` too, where they are links


def _section(heading: str) -> str:
    return PAGE.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def _table(heading: str) -> list[list[str]]:
    """The cells of the table below a heading, without its head."""
    lines = [line for line in _section(heading).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def _names(cell: str) -> set[str]:
    return {name.rstrip("/") for name in re.findall(r"`([\w/]+)`", cell)}


def packages() -> dict[str, set[str]]:
    """Package to those that it may import, itself too."""
    return {name: {name, *_names(row[1])} for row in _table("Packages") for name in _names(row[0])}


def rooms() -> set[str]:
    """Folders such as `genrec/decoding`, and the packages themselves for the files at their top."""
    return {name for row in _table("Rooms") for name in _names(row[0])}


def arrows() -> dict[str, set[str]]:
    """Room to the rooms that it imports: `    genrec/data → semtok`, going on in lines without an arrow."""
    found: dict[str, set[str]] = {}
    room = ""
    for line in _section("Rooms").splitlines():
        if line.startswith("    "):
            left, arrow, right = line.partition("→")
            room = left.strip() if arrow else room
            found.setdefault(room, set()).update((right if arrow else left).split())
    return {room: others - {"nothing"} for room, others in found.items()}
