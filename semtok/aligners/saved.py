"""Aligners' tables: built by name, written into a run's folder and read again."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from genrec.semtok.aligners import aligner_config, aligner_entry
from genrec.semtok.aligners.base import AlignerInputs, ItemTable
from genrec.semtok.arrays import read_tensors, state_spec
from genrec.semtok.errors import InputError
from genrec.semtok.folders import to_json, write_atomic
from genrec.semtok.schema import parse_as, read_as

_TENSORS = "aligner.safetensors"
_FACTS = "aligner.json"


def make_table(name: str, inputs: AlignerInputs, width: int, config: Any = None) -> ItemTable:
    """An untrained table; its weights come from torch's global generator.

    Args:
        name: of `ALIGNERS`.
        width: D.
        config: of the aligner's own class; None: the defaults.
    """
    if config is None:
        config = aligner_config(name)
    table = aligner_entry(name).table(inputs, width, config)
    table.aligner = (name, config)
    return table


def save_table(table: ItemTable, folder: Path) -> None:
    """Write `aligner.safetensors` (what training made) and `aligner.json` into an existing folder.

    Args:
        table: one of `make_table`.
    """
    name, config = table.aligner
    facts = {"name": name, "config": asdict(config), "width": table.width, "n_items": table.n_items}
    tensors = {key: value.detach().cpu().contiguous() for key, value in table.state_dict().items()}
    write_atomic(folder / _TENSORS, save(tensors))
    write_atomic(folder / _FACTS, to_json(facts))


def load_table(folder: Path, inputs: AlignerInputs) -> ItemTable:
    """Read what `save_table` wrote, in evaluation mode.

    Args:
        inputs: those that the table was trained on.

    Raises:
        InputError: a file is missing, truncated or foreign, or the inputs are of other items.
    """
    facts = read_as(folder / _FACTS, dict[str, Any])
    try:
        name, aligner = facts["name"], aligner_entry(facts["name"])
        config = parse_as(json.dumps(facts["config"]), aligner.config, "config")
        width, n_items = facts["width"], facts["n_items"]
    except (InputError, KeyError, TypeError, AttributeError) as error:  # a name that is no text among them
        raise InputError(f"{folder}: not a saved aligner ({error})") from None
    if not isinstance(width, int) or width < 1:
        raise InputError(f"{folder}: not a saved aligner (width {width!r})")
    if n_items != len(inputs.text):
        raise InputError(f"{folder}: an aligner of {n_items} items, not of {len(inputs.text)}")
    try:
        with torch.random.fork_rng(devices=()):
            table = make_table(name, inputs, width, config)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"{folder}: not the aligner of these vectors ({' '.join(str(error).split())})") from None
    table.load_state_dict(read_tensors(folder / _TENSORS, state_spec(table), "the aligner of these vectors"))
    return table.eval()
