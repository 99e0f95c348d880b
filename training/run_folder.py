"""What every command that works on a run's folder shares: its settings, its lock, and whether a stage of it stands.

`genrec add-items` puts items behind those of a sealed stage. The manifest then says so, and keeps the hash of the files
as the stage made them: stages that read it were made of these, and stay up to date.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from genrec.semtok.errors import InputError
from genrec.semtok.folders import (
    MANIFEST,
    check_folder,
    check_replaceable,
    finish_rename,
    hash_value,
    hold_lock,
    read_json,
    write_atomic,
)

EXTENDED = ("vectors/text", "vectors/item", "semtok", "catalog")  # what items are added to, in this order
ADDED, BEFORE = "items_added", "files_before"  # in the inputs of such a folder's manifest
_SETTINGS = {  # by which the resolved configuration of a command is known
    "fit": {"run", "data", "lm", "ranking", "seed", "refit"},
    "compare": {"run", "data", "aligners", "backbones", "seeds"},
}

_log = logging.getLogger(__name__)


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Only one process at a time works on a run; makes its folder where there is none.

    Raises:
        InputError: another process works on it, or there can be no such folder.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{run}: cannot be the folder of a run ({error.strerror})") from None
    with hold_lock(run / ".lock", f"{run}: another genrec process is working on this run"):
        yield


def read_settings(path: Path, command: str = "fit") -> dict[str, Any]:
    """The resolved configuration that `genrec fit` or `genrec compare` wrote into a run.

    Raises:
        InputError: no such file, or another one.
    """
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not a YAML file ({' '.join(str(error).split())})") from None
    if not isinstance(value, dict) or not _SETTINGS[command] <= value.keys():
        raise InputError(f"{path}: not the resolved configuration of a run of genrec {command}")
    return value


def write_settings(run: Path, text: str, command: str = "fit") -> None:
    """Write the resolved configuration of a run, where it is another than before.

    Raises:
        InputError: a `config.yaml` of somebody's own, or of the other command, would be lost.
    """
    path = run / "config.yaml"
    if path.is_file():
        read_settings(path, command)
        if path.read_text(encoding="utf-8") == text:
            return
    write_atomic(path, text)


def files_hash(folder: Path) -> str:
    """Hash of a sealed folder's files as its stage made them; raises InputError for an unfinished one."""
    manifest = check_folder(folder)
    return str(manifest["inputs"].get(BEFORE) or hash_value(manifest["files"]))


def is_current(folder: Path, inputs: Mapping[str, Any]) -> bool:
    """Whether a sealed folder, put in place where a kill left it aside, was made from these inputs and is whole."""
    finish_rename(folder)
    return is_made_of(folder, inputs)


def is_made_of(folder: Path, inputs: Mapping[str, Any]) -> bool:
    """Whether a sealed folder was made from these inputs and is whole; a damaged one is made again, and said so."""
    if not (folder / MANIFEST).is_file():
        return False
    try:
        made_of = check_folder(folder)["inputs"]
    except InputError as error:
        _log.warning("%s; not used", error)
        return False
    made_of = {name: one for name, one in made_of.items() if name not in (ADDED, BEFORE)}
    return bool(made_of == json.loads(json.dumps(inputs)))


def is_extended(folder: Path) -> bool:
    """Whether items were added to a sealed folder."""
    return (folder / MANIFEST).is_file() and ADDED in read_json(folder / MANIFEST).get("inputs", {})


def check_stage_folder(run: Path, name: str) -> None:
    """Raise InputError where a stage would replace what is no folder of that stage."""
    check_replaceable(run / name, lambda inputs: inputs.get("stage") == name, str(run / name))


def has_added_items(run: Path) -> bool:
    """Whether items were added to a run: made again, its stages would forget them and their published IDs."""
    for name in EXTENDED:
        finish_rename(run / name)
    return any(is_extended(run / name) for name in EXTENDED)
