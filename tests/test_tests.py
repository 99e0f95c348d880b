"""Tests stand by themselves: what several need lies in `worlds/` or `conftest.py`."""

from __future__ import annotations

import ast
from pathlib import Path

TESTS = Path(__file__).parent


def imported(source: str) -> set[str]:
    """First names of the modules that a text imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module.split(".")[0]}
            found |= {alias.name for alias in node.names} if node.module == "tests" else set()
    return found


def test_no_test_imports_another() -> None:
    tests = {path.stem for path in TESTS.glob("test_*.py")}
    assert tests
    broken = {
        path.name: sorted(others)
        for path in [*TESTS.glob("*.py"), *TESTS.glob("worlds/*.py")]
        if (others := imported(path.read_text()) & tests)
    }
    assert broken == {}


def test_the_check_sees_every_kind_of_import() -> None:
    source = "import test_a.b\ndef f():\n    from test_c import d\n    from tests import test_e\n"
    assert imported(source) >= {"test_a", "test_c", "test_e"}
