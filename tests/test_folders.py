"""Folders are whole or absent, also when the writer is killed at any moment."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from genrec.semtok import folders
from genrec.semtok.errors import InputError
from genrec.semtok.folders import (
    MANIFEST,
    check_folder,
    check_replaceable,
    finish_rename,
    hash_file,
    hash_value,
    hold_lock,
    link_folder,
    new_folder,
    read_json,
    to_json,
    write_atomic,
)

OLD, NEW = {"version": 1}, {"version": 2}
CHANGES = ("os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate")


def write_version(target: Path, inputs: dict[str, int], *, resume: bool = False) -> None:
    with new_folder(target, inputs, resume=resume) as folder:
        write_atomic(folder / "a.txt", f"a{inputs['version']}")
        write_atomic(folder / "deep" / "b.txt", f"b{inputs['version']}" * 1000)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def killed_at(step: int, work: Callable[[], None]) -> bool:
    """Run `work` in a child that ends like a killed process before its step-th change of the disk.

    Between two changes nothing differs for whoever looks at the disk afterwards: these are all the moments.
    Returns False once the child got through.
    """
    child = os.fork()
    if child == 0:
        left = step

        def count(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            if event in CHANGES or (event == "open" and isinstance(arguments[1], str) and "w" in arguments[1]):
                left -= 1
                if left < 0:
                    os._exit(9)

        sys.addaudithook(count)
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9)
    return status == 9


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("older", [False, True])
def test_killed_at_any_moment_the_folder_is_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, older: bool, resume: bool
) -> None:
    monkeypatch.setattr(
        folders, "library_versions", dict
    )  # reads the installed packages' files: slow, and not at stake
    for version, inputs in (("old", OLD), ("new", NEW)):
        write_version(tmp_path / version, inputs)
    whole = [contents(tmp_path / "old"), contents(tmp_path / "new")]
    step, killed = 0, True
    while killed:
        target = tmp_path / f"at{step}" / "run"
        target.parent.mkdir()
        if older:
            write_version(target, OLD)
        killed = killed_at(step, partial(write_version, target, NEW, resume=resume))
        finish_rename(target)
        assert target.exists() or not older
        if target.exists():
            check_folder(target, hashes=True)
            assert contents(target) in (whole if older else whole[1:])
        write_version(target, NEW, resume=resume)
        assert contents(target) == whole[1]
        assert [p.name for p in target.parent.iterdir()] == ["run"]
        shutil.rmtree(target.parent)
        step += 1
    assert step > 10  # the loop killed something


def test_a_killed_finish_is_finished_by_the_next(tmp_path: Path) -> None:
    target, scratch = tmp_path / "run", tmp_path / ".run.new"
    write_version(tmp_path / "new", NEW)
    step, killed = 0, True
    while killed:
        write_version(target, OLD)
        shutil.copytree(tmp_path / "new", scratch)
        killed = killed_at(step, partial(finish_rename, target))
        finish_rename(target)
        assert contents(target) == contents(tmp_path / "new")
        assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "run"]
        step += 1


def test_a_killed_link_leaves_the_old_folder_or_the_linked_one(tmp_path: Path) -> None:
    write_version(tmp_path / "source", NEW)
    source, step, killed = contents(tmp_path / "source"), 0, True
    while killed:
        target = tmp_path / f"at{step}" / "run"
        target.parent.mkdir()
        write_version(target, OLD)
        old = contents(target)
        killed = killed_at(step, partial(link_folder, tmp_path / "source", target))
        finish_rename(target)
        assert contents(target) in (old, source)
        link_folder(tmp_path / "source", target)
        assert contents(target) == source
        assert [p.name for p in target.parent.iterdir()] == ["run"]
        step += 1
    assert step > 5
    assert os.path.samefile(target / "a.txt", tmp_path / "source/a.txt")
    write_version(target, OLD)
    write_atomic(target / "deep/b.txt", "other")
    assert contents(tmp_path / "source") == source


def test_without_links_a_folder_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: str, target: str) -> None:
        raise OSError(18, "Invalid cross-device link")

    write_version(tmp_path / "source", NEW)
    monkeypatch.setattr(os, "link", refuse)
    link_folder(tmp_path / "source", tmp_path / "target")
    assert contents(tmp_path / "target") == contents(tmp_path / "source")
    check_folder(tmp_path / "target", hashes=True)


def test_a_torn_write_leaves_the_old_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_atomic(path, "old")
    (tmp_path / ".x.json.tmp").write_text("to")
    assert path.read_text() == "old"
    write_atomic(path, b"new")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_resume_keeps_checkpoints_of_the_same_inputs_only(tmp_path: Path) -> None:
    target = tmp_path / "run"

    def interrupted() -> None:
        with new_folder(target, OLD, resume=True) as folder:
            write_atomic(folder / "checkpoint", "half")
            raise KeyboardInterrupt

    for again, kept in (((OLD, True), True), ((OLD, False), False), ((NEW, True), False)):
        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert not target.exists()
        with new_folder(target, again[0], resume=again[1]) as folder:
            assert (folder / "checkpoint").exists() == kept
        shutil.rmtree(target)


def test_manifest_says_what_went_in_and_came_out(tmp_path: Path) -> None:
    write_version(tmp_path / "run", OLD)
    manifest = check_folder(tmp_path / "run", hashes=True)
    assert manifest["inputs"] == OLD
    assert set(manifest["files"]) == {"a.txt", "deep/b.txt"}
    assert manifest["files"]["a.txt"] == {"bytes": 2, "sha256": hash_file(tmp_path / "run" / "a.txt")}
    assert "polars" in manifest["libraries"]


def test_damage_is_found(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(InputError, match="run: no such folder"):
        check_folder(run)
    run.mkdir()
    with pytest.raises(InputError, match=r"no manifest\.json; the folder is unfinished"):
        check_folder(run)
    write_version(run, OLD)
    (run / "a.txt").write_text("zz")
    check_folder(run)
    with pytest.raises(InputError, match=r"a\.txt: contents differ"):
        check_folder(run, hashes=True)
    (run / "a.txt").write_text("z")
    with pytest.raises(InputError, match=r"a\.txt: 1 bytes, the manifest says 2; truncated"):
        check_folder(run)
    (run / "a.txt").unlink()
    with pytest.raises(InputError, match=r"a\.txt: listed in the manifest but missing"):
        check_folder(run)
    for foreign in (
        [],
        {"files": {}},
        {"inputs": {}, "files": []},
        {"inputs": {}, "files": {"a": "abc"}},
        {"inputs": {}, "files": {"a": {"bytes": 1}}},
    ):
        (run / MANIFEST).write_text(to_json(foreign))
        with pytest.raises(InputError, match="not a manifest of genrec"):
            check_folder(run)


def test_only_absent_empty_and_own_folders_may_be_replaced(tmp_path: Path) -> None:
    target = tmp_path / "run"

    def check() -> None:
        check_replaceable(target, lambda inputs: "version" in inputs, "--out run")

    check()
    target.mkdir()
    check()
    write_version(target, OLD)
    (target / "a.txt").unlink()  # damaged, but made by this writer
    check()
    for manifest in ({"name": "my web app"}, {"inputs": {"other": 1}, "files": {}}, []):
        (target / MANIFEST).write_text(to_json(manifest))
        with pytest.raises(InputError, match="--out run: holds something else already"):
            check()
    (target / MANIFEST).unlink()
    with pytest.raises(InputError, match="holds something else already"):
        check()
    shutil.rmtree(target)
    target.write_text("a file")
    with pytest.raises(InputError, match="holds something else already"):
        check()


def test_a_lock_is_held_once_and_goes_with_its_holder(tmp_path: Path) -> None:
    lock = tmp_path / "new" / "lock"
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with hold_lock(lock, "taken"):
            os.write(writing, b"x")
            signal.pause()
    os.read(reading, 1)
    with pytest.raises(InputError, match="taken"), hold_lock(lock, "taken"):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with hold_lock(lock, "taken"), pytest.raises(InputError, match="taken"), hold_lock(lock, "taken"):
        pass


def test_a_place_where_nothing_can_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InputError, match=r"file/x: cannot be made"), new_folder(tmp_path / "file" / "x", {}):
        pass
    with pytest.raises(InputError, match=r"file: cannot be written to"), hold_lock(tmp_path / "file" / "x", "taken"):
        pass


def test_json(tmp_path: Path) -> None:
    assert to_json({"b": "é", "a": 1}) == '{\n  "a": 1,\n  "b": "é"\n}\n'
    path = tmp_path / "x.json"
    with pytest.raises(InputError, match="no such file"):
        read_json(path)
    for broken in (b"{", b"\xff", b'{"a": "\\ud800"}'):  # half a character could not be written again
        path.write_bytes(broken)
        with pytest.raises(InputError, match="not a JSON file"):
            read_json(path)
    path.write_text('{"a": [1]}')
    assert read_json(path) == {"a": [1]}


def test_hash_of_a_value_ignores_the_order_of_keys() -> None:
    assert hash_value({"a": 1, "b": [1, 2]}) == hash_value({"b": [1, 2], "a": 1})
    assert hash_value({"a": 1}) != hash_value({"a": 2}) != hash_value({"a": "2"})
