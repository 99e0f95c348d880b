"""Opening a run: what belongs together is read, all else is one line, and add-items is seen whole or not at all."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from worlds.hostile import seal

from genrec import run_folder
from genrec.add_items import add
from genrec.cli.main import main
from genrec.run import DataFacts, Run, other_section
from genrec.semtok.errors import InputError
from genrec.semtok.folders import hash_file, new_folder, read_json, to_json, write_atomic, write_manifest
from genrec.semtok.schema import read_as
from genrec.semtok.vectors import ItemVectors

CHANGES = ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "shutil.copyfile")
UNTIMED = ("log.jsonl", ".lock")


class Killed(BaseException):
    """Ends what runs as a signal would: nothing catches it, and nothing here cleans up."""


_left: list[int] = []  # disk changes until the kill; empty: nobody is killed


def _count(event: str, arguments: tuple[Any, ...]) -> None:
    if _left and event in CHANGES:
        _left[0] -= 1
        if _left[0] < 0:
            _left.clear()
            raise Killed


sys.addaudithook(_count)


def killed_at(step: int, work: Callable[[], object]) -> bool:
    """Whether work was killed before its step-th change of the disk; not in a fork, which polars' threads forbid."""
    _left[:] = [step]
    try:
        work()
    except Killed:
        return True
    finally:
        _left.clear()
    return False


def contents(run: Path) -> dict[str, str]:
    return {
        str(path.relative_to(run)): hash_file(path)
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name not in UNTIMED
    }


def new_items(folder: Path, *names: str) -> Path:
    file = folder / f"{names[0]}.jsonl"
    file.write_text("".join(json.dumps({"item_id": name, "title": "Copper kettle"}) + "\n" for name in names))
    return file


def copy_of(run: Path, target: Path) -> Path:
    """A run as far as its semantic IDs."""
    return shutil.copytree(run, target, ignore=shutil.ignore_patterns("lm", "topk", "report", ".*"))


@pytest.fixture(scope="module")
def run(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_of(tiny_run, tmp_path_factory.mktemp("run") / "run")


def check_whole(opened: Run, n: int) -> None:
    assert len(opened.catalog()) == len(opened.semantic_ids()) == len(opened.item_vectors()) == n
    assert len(opened.text_vectors()) == n
    sequential = opened.sequential()
    assert sequential is not None
    assert sequential.items.n_items == n
    assert opened.semantic_ids().item_ids == opened.catalog().item_ids


def test_add_items_killed_at_any_moment_is_seen_whole_or_not_and_ends_in_the_same_bytes(
    run: Path, tmp_path: Path
) -> None:
    file, undisturbed = new_items(tmp_path, "new1", "new2"), copy_of(run, tmp_path / "undisturbed")
    assert add(Run(undisturbed), file) == 2
    with Run.open(run) as before, Run.open(undisturbed) as after:
        published = before.semantic_ids().codes
        texts = {60: before.text_vectors().values, 62: after.text_vectors().values}
    step, killed = 0, True
    seen: list[int] = []
    refused: list[str] = []
    while killed:
        copy = copy_of(run, tmp_path / f"at{step}")
        killed = killed_at(step, lambda copy=copy: add(Run(copy), file))
        try:
            with Run.open(copy) as opened:
                n = len(opened.catalog())
                check_whole(opened, n)
                np.testing.assert_array_equal(opened.semantic_ids().codes[:60], published)
                np.testing.assert_array_equal(opened.text_vectors().values, texts[n])
            seen.append(n)
        except InputError as error:  # killed between the two renames of a folder
            refused.append(str(error))
        if killed:
            assert add(Run(copy), file) == 2
        assert contents(copy) == contents(undisturbed)
        assert sorted(path.name for path in copy.iterdir()) == sorted(path.name for path in undisturbed.iterdir())
        shutil.rmtree(copy)
        step += 1
    assert seen == sorted(seen)
    assert set(seen) == {60, 62}
    assert len(refused) == 4  # folders
    assert all("a killed command was putting it in place; repeat that command" in line for line in refused)


def test_another_table_after_a_killed_add_items_ends_as_if_it_had_been_the_first(run: Path, tmp_path: Path) -> None:
    first, second, undisturbed = (
        new_items(tmp_path, "a"), new_items(tmp_path, "b"), copy_of(run, tmp_path / "undisturbed"),
    )  # fmt: skip
    add(Run(undisturbed), second)
    copy = copy_of(run, tmp_path / "run")
    assert killed_at(12, lambda: add(Run(copy), first))
    add(Run(copy), second)
    assert contents(copy) == contents(undisturbed)


def test_whoever_opens_a_run_while_items_are_added_sees_one_version(run: Path, tmp_path: Path) -> None:
    copy, done, sizes = copy_of(run, tmp_path / "run"), threading.Event(), []
    files = [new_items(tmp_path, f"new{number}") for number in range(4)]

    def add_all() -> None:
        for file in files:
            add(Run(copy), file)
        done.set()

    writer = threading.Thread(target=add_all)
    writer.start()
    while writer.is_alive() or not sizes or sizes[-1] < 64:
        with Run.open(copy) as opened:
            sizes.append(len(opened.catalog()))
            check_whole(opened, sizes[-1])
    writer.join()
    assert done.is_set()
    assert sizes == sorted(sizes)


def test_nobody_opens_a_run_whose_folders_are_put_in_place(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = Run(copy_of(run, tmp_path / "run"))
    for name in ("READER_WAITS", "WRITER_WAITS"):
        monkeypatch.setattr(run_folder, name, 0.05)
    with copy.placing(), pytest.raises(InputError, match="in use by another process"), Run.open(copy.path):
        pass
    refused = pytest.raises(InputError, match="in use by another process")
    with Run.open(copy.path), Run.open(copy.path), refused, copy.placing():  # readers do not wait for each other
        pass
    with copy.placing():
        pass


def test_what_was_read_late_is_of_the_version_that_was_opened(run: Path, tmp_path: Path) -> None:
    """As a server asks for the text vectors when somebody first searches, long after items were added."""
    copy = copy_of(run, tmp_path / "run")
    with Run.open(copy) as opened:
        assert len(opened.catalog()) == 60
    add(Run(copy), new_items(tmp_path, "new"))
    assert len(opened.text_vectors()) == 60
    opened.verified("semtok")
    write_atomic(copy / "semtok/quality.json", "{}")
    write_manifest(copy / "semtok", {"stage": "semtok"})
    with pytest.raises(InputError, match="semtok: was made anew since the run was opened"):
        opened.verified("semtok")


def test_parts_that_do_not_belong_to_a_run_are_one_line(run: Path, tmp_path: Path) -> None:
    copy = copy_of(run, tmp_path / "run")
    values = copy / "vectors/item/item.safetensors"
    whole = values.read_bytes()
    values.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(InputError, match=r"item\.safetensors: contents differ"):
        Run(copy).item_vectors()
    assert len(Run(copy, hashes=False).item_vectors()) == 60
    values.write_bytes(whole)
    inputs = read_json(copy / "split/manifest.json")["inputs"]
    for change, message in (
        ({"stage": "lm"}, r"split: is the folder of another stage \(lm\)"),
        ({"needs": {"catalog": "of another run"}}, "split was made of another catalog; genrec fit finishes the run"),
    ):
        write_manifest(copy / "split", inputs | change)
        with pytest.raises(InputError, match=message):
            Run(copy).split()
        with pytest.raises(InputError, match=message), Run.open(copy):
            pass
    write_manifest(copy / "split", inputs)
    write_atomic(copy / "split/data.json", to_json({"exclude_seen": "yes", "time_unit": "days"}))
    write_manifest(copy / "split", inputs)
    with pytest.raises(InputError, match=r"data\.json: exclude_seen: "):
        _ = Run(copy).exclude_seen


@pytest.mark.parametrize("old", ["dense_share", "neighbours"])
def test_a_run_of_an_earlier_version_is_refused_with_its_cure(
    old: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = copy_of(run, tmp_path / "run")
    with new_folder(copy / "lm", {"stage": "lm"}) as folder:
        facts = {"score_space": "level", "ranking": {"ranking": "joined", "dense_share": 0.5}}
        write_atomic(folder / "genrec.json", to_json(facts if old == "dense_share" else {"score_space": "level"}))
        if old == "neighbours":
            write_atomic(folder / "heads/neighbours.safetensors", b"")
    with pytest.raises(InputError, match=r"of an earlier version of genrec, .* makes it anew"):
        Run(copy).language_model()
    assert main(["recommend", str(copy), "--k", "3"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("genrec recommend:")]
    assert "earlier version" in line


def test_json_goes_through_a_schema(tmp_path: Path) -> None:
    file = tmp_path / "data.json"
    file.write_text('{"exclude_seen": true, "time_unit": "days"}')
    assert read_as(file, DataFacts) == DataFacts(True, "days")
    for text, message in (
        ("[" * 100_000, "recursion limit"),
        ('{"exclude_seen": 1, "time_unit": "days"}', "exclude_seen: "),
        ('{"exclude_seen": true, "time_unit": "years"}', "time_unit: "),
        ('{"exclude_seen": true, "time_unit": "days", "more": 1}', "more: "),
        ('{"exclude_seen": true}', "time_unit: "),
        ("\udcff", "JSON"),
    ):
        file.write_bytes(text.encode(errors="surrogateescape"))
        with pytest.raises(InputError, match=message) as refused:
            read_as(file, DataFacts)
        assert "\n" not in str(refused.value)
    with pytest.raises(InputError, match="no such file"):
        read_as(tmp_path / "gone", DataFacts)


def test_collaborative_vectors_cover_the_items_that_the_split_names(run: Path) -> None:
    vectors = Run(run).collaborative_vectors()
    assert Run(run).split().last_row < len(vectors)
    ItemVectors(vectors.values[:20], vectors.source).save(run / "vectors/collaborative/collaborative.safetensors")
    seal(run, "vectors/collaborative/collaborative.safetensors", behind=False)
    with pytest.raises(InputError, match=r"vectors of 20 items, the split names row \d+"):
        Run(run).collaborative_vectors()


def test_settings_are_compared_where_both_versions_of_genrec_know_the_option() -> None:
    older = {"seed": 0, "lm": {"epochs": 3, "gone": 1}, "semtok": {"kmeans": {"iterations": 9}}}
    newer = {"seed": 1, "lm": {"epochs": 3}, "semtok": {"kmeans": {"iterations": 9, "parts": 1}}, "baseline": None}
    assert other_section(older, newer, ["seed"]) is None
    assert other_section(newer, older, ["seed"]) is None
    assert other_section(older, newer, []) == "seed"
    for section, value in (("lm", {"epochs": 4}), ("semtok", {"kmeans": {"iterations": 8}}), ("lm", None)):
        assert other_section(older, newer | {section: value}, ["seed"]) == section


def test_the_items_that_a_run_was_fitted_on_are_those_of_its_split_and_catalogue(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    assert Run(copy).fitted_items == 60
    file = copy / "semtok/quality.json"
    text = file.read_text()
    for n_items, told in (("20", "20"), ("61", "61"), ("60.5", "60.5"), ("null", "None")):
        file.write_text(text.replace('"n_items": 60', f'"n_items": {n_items}'))
        seal(copy, "semtok/quality.json", behind=False)
        with pytest.raises(InputError, match=rf"n_items is {told}, but the split names row \d+"):
            _ = Run(copy).fitted_items
