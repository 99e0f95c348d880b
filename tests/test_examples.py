"""The examples, run as their heads say, on the small shop; the first one fits its own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from textwrap import indent

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("[0-9]_*.py"))
SAYS = {
    "2_filters_and_search": "where {'price': {'max': 10}}",
    "3_new_items": "its place after 10001:",
    "4_batch_and_store": "stale after an event: True",
    "5_serve": "live [{",
    "6_conversation": "all that it remembers:",
}


def ran(example: Path, *arguments: str, folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(example), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_it_is_short_and_says_how_to_run_it(example: Path) -> None:
    lines = example.read_text().splitlines()
    assert len(lines) < 60
    assert any(line.startswith(f"python examples/{example.name}") for line in lines[:6])


@pytest.mark.slow
def test_the_first_fits_and_recommends(tmp_path: Path) -> None:
    said = ran(EXAMPLES[0], folder=tmp_path)
    assert "genrec fused (default)" in said
    assert said.rstrip().splitlines()[-6] == "after nothing:"


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES[1:], ids=lambda example: example.stem)
def test_the_others_run_on_a_fitted_run(example: Path, tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    said = ran(example, str(run), *([port] if example.stem == "5_serve" else []), folder=tmp_path)
    assert SAYS[example.stem] in said


def notebook(name: str) -> str:
    """The code of a notebook that is stored without output."""
    cells = json.loads((ROOT / "examples" / name).read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(code) > 4
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    return "\n".join("".join(cell["source"]) for cell in code)


@pytest.mark.slow
def test_the_notebook_about_the_inside_runs(tiny_run: Path) -> None:
    """Its cells one after another; what a last expression would show is not looked at."""
    source = notebook("a_run_from_the_inside.ipynb")
    assert source.count('"runs/example"') == 1
    scope: dict[str, object] = {}
    exec(compile(source.replace('"runs/example"', repr(str(tiny_run))), "notebook", "exec"), scope)
    assert "are allowed" in str(scope["every"].reasons[0])  # type: ignore[attr-defined]


@pytest.mark.slow
def test_the_notebook_from_two_csv_files_ends_at_an_endpoint(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    source = notebook("from_two_csv_files.ipynb")
    assert source.count("PORT = 8766") == 1
    told = "import json\nprint(json.dumps([answer, recommender.catalog.titles[-1], evaluation.verdict]))"
    (tmp_path / "notebook.py").write_text(
        "if __name__ == '__main__':\n" + indent(f"{source.replace('PORT = 8766', f'PORT = {port}')}\n{told}", "    ")
    )
    answer, newest, verdict = json.loads(ran(tmp_path / "notebook.py", folder=tmp_path).splitlines()[-1])
    assert (answer["source"], len(answer["items"])) == ("store", 3)
    assert newest == "Clover Court sun balm SPF 50, 100 ml"
    assert verdict.startswith("genrec fused")
