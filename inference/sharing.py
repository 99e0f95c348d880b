"""A run as others get it: a folder that recommends without the log, and its way to a hub and back.

    recommender.save_pretrained("shared")                       # catalogue, vectors, semantic IDs, model, a model card
    recommender.push_to_hub("user/shop", license="apache-2.0")  # the same, uploaded
    Recommender.from_pretrained("user/shop")                    # copied from there, and checked as any run

Histories are personal data: the log, its split, users' lists and the report with its sample lists stay behind unless
they are asked for. Sealed folders go as they are, so every hash holds.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from genrec.evaluation.card import CardFacts, model_card
from genrec.run import Run
from genrec.run_folder import OF_THE_LOG, STAGES
from genrec.semtok.errors import InputError, first_line
from genrec.semtok.folders import link_folder, scratch_of, write_atomic

CARD, CONFIG = "README.md", "config.yaml"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_PATHS = {"": ("run", "refit", "reuse"), "data": ("items", "interactions", "splits")}  # settings that are paths


def is_hub_id(run: Path | str) -> bool:
    """Whether a run is looked for on a hub: USER/NAME as text, where neither that folder nor one called USER is."""
    return isinstance(run, str) and _HUB_ID.fullmatch(run) is not None and not Path(run).parent.exists()


def save_shared(run: Run, folder: Path, facts: CardFacts) -> None:
    """Write the run without its log, or with it, into a new folder, with a model card; raises InputError where the
    folder holds something, or the run is unfinished or damaged.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"{folder}: holds something already; name a new folder")
    scratch = scratch_of(folder)
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir(parents=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror})") from None
    try:
        with Run.open(run.path, hashes=run.hashes) as opened:
            for name in STAGES:
                if (opened.path / name).is_dir() and (facts.with_log or name not in OF_THE_LOG):
                    link_folder(opened.verified(name), scratch / name)
            write_atomic(scratch / CONFIG, yaml.safe_dump(_settings(opened), sort_keys=False, allow_unicode=True))
            write_atomic(scratch / CARD, model_card(opened, facts))
        os.rename(scratch, folder)  # an empty folder gives way
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def push(run: Run, facts: CardFacts, *, private: bool, token: str | None) -> str:
    """Make a repository of the run on the hub, or replace what is in it.

    Args:
        facts: its name is the repository's, USER/NAME.
        private: of a new repository; one that is there stays as it is.
        token: None: the one that `hf auth login` has kept, or HF_TOKEN.

    Returns:
        Where it is.

    Raises:
        InputError: the run cannot be shared, or the hub does not take it.
    """
    from huggingface_hub import HfApi

    if _HUB_ID.fullmatch(facts.name) is None:
        raise InputError(f"{facts.name}: not the name of a repository, which is USER/NAME")
    with tempfile.TemporaryDirectory(prefix="genrec-") as place:
        folder = Path(place) / "shared"
        save_shared(run, folder, facts)
        api = HfApi(token=token, library_name="genrec")
        try:
            url = api.create_repo(facts.name, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=facts.name, folder_path=folder, delete_patterns="*", commit_message=f"A run of {run.path.name}"
            )
        except Exception as error:  # whatever a hub client raises: no network, no rights, no such user
            raise InputError(f"{facts.name}: the hub does not take it ({first_line(error)})") from None
    return str(url)


def fetch(repo_id: str, *, revision: str | None, token: str | None) -> Path:
    """A run's folder in the hub's cache, copied where it is not there yet, and of it nothing but a run's own files;
    raises InputError where there is neither a copy nor a way to it, or it is no run.
    """
    from genrec.semtok.pretrained import copied_from_hub

    wanted = [CARD, CONFIG, *(f"{name}/*" for name in STAGES)]
    try:
        folder = copied_from_hub(repo_id, wanted, revision=revision, token=token)
    except Exception as error:
        told = "no such folder, and unavailable as a repository of the hub"
        raise InputError(f"{repo_id}: {told} ({first_line(error)})") from None
    if not (folder / CONFIG).is_file():
        raise InputError(f"{repo_id}: is a repository of the hub, but no run of genrec (no {CONFIG})")
    return folder


def _settings(run: Run) -> Mapping[str, Any]:
    """The run's settings without the places of a person's machine, and with what its split found out."""
    settings = run.settings()
    for section, names in _PATHS.items():
        values = settings[section] if section else settings
        values |= {name: Path(values[name]).name for name in names if isinstance(values.get(name), str)}
    settings["data"]["exclude_seen"] = run.exclude_seen
    return settings
