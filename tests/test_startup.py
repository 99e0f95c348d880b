"""What a command does before its work: it loads little, tells its version, and names what is wrong or missing."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

import genrec
from genrec.cli import commands
from genrec.cli.main import main
from genrec.semtok import installed

HEAVY = ("torch", "transformers", "fastapi", "polars", "sklearn", "scipy", "numpy", "jsonargparse", "matplotlib")
REQUIRES = [
    "torch<2.15,>=2.11",
    "polars>=2",
    'fastapi<0.166,>=0.133; extra == "chat"',
    'fastapi<0.166,>=0.133; extra == "all"',
    'ruff>=0.14; extra == "dev"',
    'redis>=6; extra == "dev"',
    'redis>=6; extra == "redis"',
    'sentence-transformers>=5; extra == "minilm"',
    'sentence-transformers>=5; extra == "sentence-transformers"',
]


@pytest.mark.parametrize(
    "code",
    ["main(['--help'])", "main(['--version'])", "main(['fit-it'])", "main(['inspect', '--help'])", "import genrec"],
)
def test_nothing_heavy_is_loaded(code: str) -> None:
    script = (
        f"import json, sys\nfrom genrec.cli.main import main\n{code}\nsys.stderr.write(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stderr.splitlines()[-1]))
    assert "genrec.cli.main" in loaded
    assert not loaded & set(HEAVY)


def test_the_version_is_that_of_pyproject(capsys: pytest.CaptureFixture[str]) -> None:
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"genrec {project['version']}\n"
    assert genrec.__version__ == project["version"]


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What is installed, by name, beside a genrec that requires REQUIRES."""
    found = {"torch": "2.13.0+cpu", "polars": "2.1.0", "ruff": "0.1.0", "fastapi": "0.165.0"}

    def version(name: str) -> str:
        if name not in found:
            raise PackageNotFoundError(name)
        return found[name]

    monkeypatch.setattr(installed, "requires", lambda name: REQUIRES)
    monkeypatch.setattr(installed, "version", version)
    return found


def test_a_tested_set_is_not_spoken_of(versions: dict[str, str]) -> None:
    assert installed.outside_tested_ranges() == []


@pytest.mark.parametrize(
    ("name", "version", "line"),
    [
        ("torch", "2.15.0", "torch 2.15.0 is installed; genrec is tested with >=2.11,<2.15"),
        ("torch", "2.10.1", "torch 2.10.1 is installed; genrec is tested with >=2.11,<2.15"),
        ("fastapi", "0.165.1rc1", None),
        ("fastapi", "0.170.0rc1", "fastapi 0.170.0rc1 is installed; genrec is tested with >=0.133,<0.166"),
    ],
)
def test_a_version_outside_its_range_is_one_line(
    name: str, version: str, line: str | None, versions: dict[str, str]
) -> None:
    versions[name] = version
    assert installed.outside_tested_ranges() == ([] if line is None else [line])


def test_commands_that_run_a_model_say_it_first(
    versions: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    versions["torch"] = "2.15.0"
    assert main(["fit", str(tmp_path / "none.yaml")]) == 2
    assert [record.message for record in caplog.records] == [
        "torch 2.15.0 is installed; genrec is tested with >=2.11,<2.15"
    ]


@pytest.mark.parametrize(
    ("module", "extra"),
    [("fastapi.routing", "chat"), ("redis", "redis"), ("sentence_transformers", "sentence-transformers")],
)
def test_a_missing_extra_is_named(
    module: str,
    extra: str,
    versions: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def lacking(arguments: list[str]) -> None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(commands, "chat", lacking)
    assert main(["chat", "run"]) == 2
    said = capsys.readouterr().err
    assert f"genrec chat: {module} is not installed; it comes with the extra {extra}: pip install '.[{extra}]'" in said
    assert said.count("\n") == 1


def test_a_module_of_no_extra_is_a_defect(versions: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(arguments: list[str]) -> None:
        raise ModuleNotFoundError("No module named 'genrec.nothing'", name="genrec.nothing")

    monkeypatch.setattr(commands, "chat", lacking)
    with pytest.raises(ModuleNotFoundError):
        main(["chat", "run"])
