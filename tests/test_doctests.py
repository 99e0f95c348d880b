"""The examples in docstrings give what they say."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def modules_with_examples() -> list[str]:
    """Modules of the packages, `genrec` and the three that are linked below it, whose text has a prompt."""
    found = []
    for package in ("genrec", "semtok", "training", "inference"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            linked = package == "genrec" and parts[1] in ("semtok", "training", "inference")
            if not linked and ">>> " in path.read_text():
                found.append(".".join(parts if package == "genrec" else ("genrec", *parts)))
    return found


@pytest.mark.parametrize("name", modules_with_examples())
def test_docstring_examples(name: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert tried > 0
    assert failed == 0


def test_there_are_some() -> None:
    assert len(modules_with_examples()) >= 5
