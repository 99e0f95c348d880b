"""The design's rooms: a package imports only those above it; training and inference do not know each other."""

from __future__ import annotations

import ast
from collections.abc import Collection
from pathlib import Path

import pytest
from worlds.design_page import LINKED, ROOT, packages

MAY_IMPORT = packages()
# These import every room, lazily: the package's public names and the command line.
EXEMPT = ("genrec/__init__.py", "genrec/cli/")


def room(module: str) -> str:
    """`genrec.training.lm.stage` lies in `training`, `genrec.data.cases` in `genrec`; of others the top-level name."""
    first, _, rest = module.partition(".")
    second = rest.split(".")[0]
    return second if first == "genrec" and second in LINKED else first


def imports(source: str, package: str) -> set[str]:
    """Rooms that a module's text imports, also inside functions; `package` is the module's own."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {room(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            found.add(package)
        elif isinstance(node, ast.ImportFrom) and node.module == "genrec":
            found |= {room(f"genrec.{alias.name}") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(room(node.module or ""))
    return found


def modules(package: str) -> list[Path]:
    """The files of a package, without those that a link brings into `genrec/`."""
    paths = (path.relative_to(ROOT) for path in (ROOT / package).rglob("*.py"))
    return sorted(path for path in paths if path.parts[:2] not in {("genrec", name) for name in LINKED})


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_room_imports_only_those_above_it(package: str) -> None:
    assert modules(package)
    broken = []
    for path in modules(package):
        if not path.as_posix().startswith(EXEMPT):
            forbidden = (imports((ROOT / path).read_text(), package) & MAY_IMPORT.keys()) - MAY_IMPORT[package]
            broken += [f"{path} imports {other}" for other in sorted(forbidden)]
    assert broken == []


@pytest.mark.parametrize("package", LINKED)
def test_every_import_goes_through_genrec(package: str) -> None:
    """`import training` would find whatever is called so; only `genrec.training` is ours wherever it is installed."""
    assert (ROOT / "genrec" / package).resolve() == ROOT / package
    broken = []
    for path in [*(path for name in MAY_IMPORT for path in modules(name)), *modules("tests"), *modules("scripts")]:
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            broken += [f"{path} imports {name}" for name in names if name.split(".")[0] == package]
    assert broken == []


def test_nothing_imports_the_command_line_or_scripts() -> None:
    broken = []
    for package in MAY_IMPORT:
        for path in modules(package):
            source = (ROOT / path).read_text()
            if "scripts" in imports(source, package):
                broken.append(f"{path} imports scripts")
            if not path.as_posix().startswith(EXEMPT) and "genrec.cli" in source:
                broken.append(f"{path} names genrec.cli")
    assert broken == []


def test_the_check_sees_every_kind_of_import() -> None:
    source = "import genrec.training.x as y\ndef f():\n    from genrec.inference import z\n    from .w import v\n"
    assert imports(source, "genrec") == {"training", "inference", "genrec"}
    assert imports("from genrec import training, data", "genrec") == {"training", "genrec"}


def test_no_file_imports_itself_through_others() -> None:
    """Files that import each other in a circle can be read, and opened first, in no order."""
    files = {dotted(path): path for package in MAY_IMPORT for path in modules(package)}
    files = {name: path for name, path in files.items() if not path.as_posix().startswith("genrec/cli/")}
    follows = {name: imported_files((ROOT / path).read_text(), files.keys()) - {name} for name, path in files.items()}
    assert len(follows) > 100
    assert "genrec.inference.store.topk_store" in follows["genrec.inference.store.opening"]
    assert circle(follows) == set()
    assert circle({"a": {"b"}, "b": {"c", "d"}, "c": {"b"}, "d": set()}) == {"b", "c"}


def dotted(path: Path) -> str:
    """`semtok/catalog.py` is imported as `genrec.semtok.catalog`."""
    parts = path.with_suffix("").parts
    return ".".join(parts if parts[0] == "genrec" else ("genrec", *parts)).removesuffix(".__init__")


def imported_files(source: str, files: Collection[str]) -> set[str]:
    """The files that a module's text imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found & set(files)


def circle(follows: dict[str, set[str]]) -> set[str]:
    """What is left when files that import no other, or that no other imports, are removed again and again."""
    left = dict(follows)
    while True:
        imported = set().union(*(others & left.keys() for others in left.values())) if left else set()
        ends = {name for name, others in left.items() if not others & left.keys() or name not in imported}
        if not ends:
            return set(left)
        left = {name: others for name, others in left.items() if name not in ends}
