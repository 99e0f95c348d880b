"""The design's rooms: a package imports only those above it; training and inference do not know each other."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "semtok": {"semtok"},
    "genrec": {"semtok", "genrec"},
    "training": {"semtok", "genrec", "training"},
    "inference": {"semtok", "genrec", "inference"},
}
# These import every room, lazily: the package's public names and the command line.
EXEMPT = ("genrec/__init__.py", "genrec/cli/")


def imports(source: str, package: str) -> set[str]:
    """Top-level packages that a module's text imports, also inside functions; `package` is the module's own."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(package if node.level else (node.module or "").split(".")[0])
    return found


def modules(package: str) -> list[Path]:
    return sorted(path.relative_to(ROOT) for path in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_room_imports_only_those_above_it(package: str) -> None:
    assert modules(package)
    broken = []
    for path in modules(package):
        if not path.as_posix().startswith(EXEMPT):
            forbidden = (imports((ROOT / path).read_text(), package) & MAY_IMPORT.keys()) - MAY_IMPORT[package]
            broken += [f"{path} imports {other}" for other in sorted(forbidden)]
    assert broken == []


def test_nothing_imports_the_command_line_or_scripts() -> None:
    broken = []
    for package in MAY_IMPORT:
        for path in modules(package):
            source = (ROOT / path).read_text()
            if "scripts" in imports(source, package):
                broken.append(f"{path} imports scripts")
            if not path.as_posix().startswith("genrec/cli/") and "genrec.cli" in source:
                broken.append(f"{path} names genrec.cli")
    assert broken == []


def test_the_check_sees_every_kind_of_import() -> None:
    source = "import training.x as y\ndef f():\n    from inference import z\n    from .w import v\n"
    assert imports(source, "genrec") == {"training", "inference", "genrec"}
