"""The pages: short lines, links that lead somewhere, and Python that runs as it is printed."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import shlex
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml
from worlds.small_shop import LITTLE, contents

import genrec
from genrec.cli.config import fit_class
from genrec.cli.main import main
from genrec.data.sample_shop import make_sample_shop

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "dev/LOG.md"]
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")


def blocks(page: Path) -> list[str]:
    """The Python of a page."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def printed(source: str) -> list[str]:
    """The lines that a block prints."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        exec(compile(source, "page", "exec"), {})
    return text.getvalue().splitlines()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_lines_are_short_and_links_lead_somewhere(page: Path) -> None:
    lines = page.read_text().splitlines()
    assert [number for number, line in enumerate(lines, start=1) if len(line) > 120] == []
    links = {one or other for one, other in LINK.findall(page.read_text())}
    local = {link.partition("#")[0] for link in links if not link.startswith(("http", "#", "mailto:"))}
    assert {link for link in local if not (page.parent / link).exists()} == set()


def test_every_page_is_in_the_navigation() -> None:
    def pages(entry: object) -> set[str]:
        if isinstance(entry, str):
            return {entry}
        return {page for one in (entry.values() if isinstance(entry, dict) else entry) for page in pages(one)}  # type: ignore[attr-defined]

    # `!!python` tags of extensions would not be data; the file has none.
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    assert pages(navigation) == {str(p.relative_to(ROOT / "docs")) for p in PAGES if ROOT / "docs" in p.parents}


def sections(kind: type, prefix: str = "--") -> set[tuple[str, str]]:
    """The dotted sections of a configuration and the classes that declare them."""
    found = {(prefix, f"{kind.__module__}.{kind.__name__}")}
    for field in dataclasses.fields(kind):
        factory = field.default_factory
        inner = type(factory()) if factory is not dataclasses.MISSING else get_type_hints(kind)[field.name]
        if dataclasses.is_dataclass(inner):
            found |= sections(inner, f"{prefix}{'' if prefix == '--' else '.'}{field.name}")
    return found


def test_every_option_of_fit_is_on_its_page() -> None:
    text = (ROOT / "docs/reference/options.md").read_text()
    shown = set(re.findall(r"^<!-- options: (\S+) (\S+) -->$", text, flags=re.MULTILINE))
    assert len(shown) > 20
    assert shown == sections(fit_class())


def test_the_readme_runs(tiny_run: Path) -> None:
    """On a small shop's run instead of the demo's: the ids of both begin with 10001."""
    (source,) = blocks(ROOT / "README.md")
    assert '"runs/demo"' in source
    ids = {record["item_id"] for record in make_sample_shop(0, users=1).items.records}
    assert set(re.findall(r'"(\d+)"', source)) <= ids
    lines = printed(source.replace('"runs/demo"', repr(str(tiny_run))))
    assert lines[0] == "1 list, 3 items"
    assert len([line for line in lines if re.search(r"\b100\d\d\b.+[a-z]{3}", line)]) == 3 + 3


def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """In Python from its two files to a server, with less training; then its commands find the same run done."""
    page = ROOT / "docs/tutorial.md"
    monkeypatch.chdir(tmp_path)
    served: list[Any] = []
    monkeypatch.setattr(genrec, "fit", partial(genrec.fit, verbose=False, **LITTLE), raising=False)
    monkeypatch.setattr(genrec, "serve", lambda *run, **options: served.append((*run, options)), raising=False)
    told = printed("\n".join(blocks(page)))
    assert told[0].startswith("genrec fused")
    assert told[1] == "1 list, 3 items"
    assert served[0][1] == {"port": 8000}
    shown = page.read_text()
    for name in ("goods.csv", "orders.csv"):
        rows = (tmp_path / "data" / name).read_text().splitlines()
        assert "\n".join(f"    {row}" for row in rows[:3]) in shown

    (yaml_file,) = re.findall(r'^```yaml title="shop.yaml"\n(.*?)^```', shown, flags=re.MULTILINE | re.DOTALL)
    Path("shop.yaml").write_text(yaml_file)
    Path("users.csv").write_text("user_id,history\nanna,10001 10037\nben,10012\n")
    before = contents(tmp_path / "runs/shop")
    commands = [shlex.split(line) for line in re.findall(r"^    genrec (.+)$", shown, flags=re.MULTILINE)]
    assert [command[0] for command in commands] == ["fit", "evaluate", "inspect", "show", "recommend", "serve"]
    for command in commands[:-1]:
        flags = [f"--{name}={value}" for name, value in flat(LITTLE)] if command[0] == "fit" else []
        assert main([*command, *flags]) == 0, command
    assert contents(tmp_path / "runs/shop") == before
    assert "2 lists in runs/anna_and_ben, 0 of them short" in capsys.readouterr().out


def flat(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by section as flags."""
    for name, value in settings.items():
        yield from flat(value, f"{above}{name}.") if isinstance(value, dict) else [(f"{above}{name}", value)]
