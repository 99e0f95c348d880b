"""Folders that are either whole or absent: atomic writes, and a manifest written last.

Every stage of a run writes through `new_folder`; a reader calls `check_folder` before it trusts one. Nothing here knows
what the folders hold.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from genrec.semtok.errors import InputError

MANIFEST = "manifest.json"
LOG = "log.jsonl"  # times and speeds, which differ each time: no manifest lists it
_LIBRARIES = ("torch", "transformers", "scikit-learn", "polars")


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file so that a reader, or a kill at any moment, sees the old bytes or the new ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.tmp")
    with open(scratch, "wb") as out:
        out.write(data.encode() if isinstance(data, str) else data)
        out.flush()
        os.fsync(out.fileno())
    os.replace(scratch, path)


def to_json(value: Any) -> str:
    """JSON text with sorted keys, two spaces and a final newline: the same value gives the same bytes."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def read_json(path: Path) -> Any:
    """Parse a JSON file; raises InputError where it is missing or not JSON."""
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text)
        if "\\u" in text:
            to_json(value).encode()  # half a character could not be written again
        return value
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:  # also a number of 5,000 digits
        raise InputError(f"{path}: not a JSON file ({error})") from None


def hash_value(value: Any) -> str:
    """SHA-256 of a JSON-able value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


_known_hashes: dict[tuple[int, int, int, int], str] = {}  # of this process, by device, inode, size and time
_SETTLED = 2_000_000_000  # nanoseconds: a younger file may be written to again within one tick of the disk's clock


def hash_unchanged(path: Path) -> str:
    """`hash_file`, read once a process for a file that keeps its place on the disk, its size and its time.

    For large files that are replaced and never written into, as weights in sealed folders are.
    """
    facts = path.stat()
    key = facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns
    if key in _known_hashes:
        return _known_hashes[key]
    found = hash_file(path)
    if time.time_ns() - facts.st_mtime_ns > _SETTLED:
        _known_hashes[key] = found
    return found


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide a run's bytes."""
    return {name: metadata.version(name) for name in _LIBRARIES}


def write_manifest(folder: Path, inputs: Mapping[str, Any]) -> None:
    """Write `manifest.json`: what went in, which libraries, and each file's size and hash.

    Args:
        folder: a folder whose files are all final.
        inputs: JSON-able description (or hashes) of the configuration and inputs that made them.
    """
    files = {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": hash_file(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (MANIFEST, LOG)
    }
    manifest = {"inputs": dict(inputs), "libraries": library_versions(), "files": files}
    write_atomic(folder / MANIFEST, to_json(manifest))


def check_folder(folder: Path, *, hashes: bool = False) -> dict[str, Any]:
    """Return a folder's manifest after checking that every file it lists is there and has its size.

    Args:
        hashes: also read every file and compare its SHA-256.

    Raises:
        InputError: no manifest (the folder is unfinished or foreign), or a file is missing, truncated or changed.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    if not (folder / MANIFEST).is_file():
        raise InputError(f"{folder}: no {MANIFEST}; the folder is unfinished or was not made by genrec")
    manifest: dict[str, Any] = read_json(folder / MANIFEST)
    if not _is_manifest(manifest):
        raise InputError(f"{folder / MANIFEST}: not a manifest of genrec")
    for name, facts in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise InputError(f"{path}: listed in the manifest but missing")
        if path.stat().st_size != facts["bytes"]:
            raise InputError(f"{path}: {path.stat().st_size} bytes, the manifest says {facts['bytes']}; truncated?")
        if hashes and hash_unchanged(path) != facts["sha256"]:
            raise InputError(f"{path}: contents differ from the manifest's hash")
    return manifest


def _is_manifest(value: Any) -> bool:
    """Whether a JSON value has the parts that `write_manifest` writes."""
    if not isinstance(value, dict) or not all(isinstance(value.get(part), dict) for part in ("inputs", "files")):
        return False
    for name, facts in value["files"].items():
        if (
            not isinstance(facts, dict)
            or type(facts.get("bytes")) is not int
            or not isinstance(facts.get("sha256"), str)
        ):
            return False
        if "\0" in name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            return False
    needs, added = value["inputs"].get("needs", {}), value["inputs"].get("items_added", [])
    return isinstance(needs, dict) and isinstance(added, list) and all(isinstance(name, str) for name in added)


def unlisted_files(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """What lies in a sealed folder beside the files of its manifest, but for hidden files."""
    found = {path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir()}
    listed = {Path(name) for name in [*manifest["files"], MANIFEST]}
    return sorted(str(path) for path in found - listed if not any(part.startswith(".") for part in path.parts))


def check_replaceable(target: Path, is_ours: Callable[[Mapping[str, Any]], bool], name: str) -> None:
    """Refuse to put a folder where something stands that its writer never made; a damaged one of its own may go.

    Args:
        is_ours: whether the writer makes folders of these inputs (in the manifest).
        name: what the message calls the target.

    Raises:
        InputError: the target is neither absent, nor an empty folder, nor one of the writer's.
    """
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    manifest: Any = read_json(target / MANIFEST) if (target / MANIFEST).is_file() else None
    if not _is_manifest(manifest) or not is_ours(manifest["inputs"]):
        raise InputError(f"{name}: holds something else already; name a new folder")


@contextlib.contextmanager
def hold_lock(path: Path, refusal: str) -> Iterator[None]:
    """Hold the lock file at `path`, which the system frees when its holder ends, however it ends; raises InputError,
    with the message `refusal`, where it is held already, also by another part of this process.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError as error:
        raise InputError(f"{path.parent}: cannot be written to ({error.strerror})") from None
    with open(path, "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(refusal) from None
        yield


@contextlib.contextmanager
def new_folder(target: Path, inputs: Mapping[str, Any], *, resume: bool = False) -> Iterator[Path]:
    """Give a scratch folder beside `target`; when the block ends well, seal it with a manifest and put it in place.

    A kill leaves either the old folder, or the new one, or a sealed scratch folder that `finish_rename` puts in place.
    See `sealed_scratch`.
    """
    with sealed_scratch(target, inputs, resume=resume) as scratch:
        yield scratch
    finish_rename(target)


def scratch_of(target: Path) -> Path:
    """Where a folder is made before it is put in the place of `target`."""
    return target.with_name(f".{target.name}.new")


@contextlib.contextmanager
def sealed_scratch(target: Path, inputs: Mapping[str, Any], *, resume: bool = False) -> Iterator[Path]:
    """Give a scratch folder beside `target`, and seal it with a manifest when the block ends well.

    Args:
        target: where the folder will stand; an older one there is replaced, whatever it holds (see
            `check_replaceable`).
        inputs: goes into the manifest.
        resume: keep the scratch folder that an interrupted attempt with the same inputs left (its checkpoints live in
            it).

    Raises:
        InputError: there can be no folder there.
    """
    finish_rename(target)
    scratch = scratch_of(target)
    key = hash_value(dict(inputs))
    owner = scratch / ".inputs"
    if not (resume and owner.is_file() and owner.read_text() == key):
        try:
            owner.unlink(missing_ok=True)  # first: a kill inside the removal must not leave what looks resumable
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
        except OSError as error:
            raise InputError(f"{target}: cannot be made ({error.strerror})") from None
        write_atomic(owner, key)
    yield scratch
    owner.unlink()
    write_manifest(scratch, inputs)


def link_folder(source: Path, target: Path) -> None:
    """Put a sealed folder in a second place, its files shared with the first where the file system can.

    Sealed files are replaced and never written into, so neither place can change the other.
    """
    scratch = scratch_of(target)
    shutil.rmtree(scratch, ignore_errors=True)
    link_files(source, scratch)
    write_atomic(scratch / MANIFEST, (source / MANIFEST).read_bytes())  # last: it says that the folder is whole
    finish_rename(target)


def link_files(source: Path, target: Path) -> None:
    """Put the files of a sealed folder, but for its manifest, in a new place (see `link_folder`)."""
    shutil.copytree(source, target, copy_function=_link, ignore=shutil.ignore_patterns(MANIFEST))


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(os.path.realpath(source), target)  # a hub keeps files behind links of its own
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)


def finish_rename(target: Path) -> None:
    """Put a sealed scratch folder in place of `target`; does nothing where there is none."""
    scratch = scratch_of(target)
    old = target.with_name(f".{target.name}.old")
    if (scratch / MANIFEST).is_file():
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            os.rename(target, old)
        os.rename(scratch, target)
    shutil.rmtree(old, ignore_errors=True)
