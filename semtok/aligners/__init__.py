"""Aligners: item vectors from words and behaviour, trained with a recommender.

A new aligner is one file here and one line in `ALIGNERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from genrec.semtok.aligners.base import AlignerInputs, IdTable, ItemTable
from genrec.semtok.aligners.faerec import FaeRecConfig, FaeRecTable, faerec_table
from genrec.semtok.aligners.llmemb import LlmEmbConfig, LlmEmbTable
from genrec.semtok.aligners.recgoat import RecGoatConfig, RecGoatTable
from genrec.semtok.aligners.simple import ConcatenationConfig, ConcatenationTable, TextTable, TextTableConfig
from genrec.semtok.errors import InputError
from genrec.semtok.folders import read_json, to_json, write_atomic

__all__ = [
    "ABLATIONS",
    "ALIGNERS",
    "Aligner",
    "AlignerInputs",
    "ConcatenationConfig",
    "ConcatenationTable",
    "FaeRecConfig",
    "FaeRecTable",
    "IdTable",
    "ItemTable",
    "LlmEmbConfig",
    "LlmEmbTable",
    "RecGoatConfig",
    "RecGoatTable",
    "TextTable",
    "TextTableConfig",
    "aligner_config",
    "load_table",
    "make_table",
    "save_table",
]

_TENSORS = "aligner.safetensors"
_FACTS = "aligner.json"


class Aligner(NamedTuple):
    """An entry of the registry.

    Attributes:
        config: frozen dataclass of its options; `config()` are the defaults.
        table: builds the table: (inputs, width, config).
        reads_users: it looks at the vectors of the users' preference texts.
    """

    config: type[Any]
    table: Callable[[AlignerInputs, int, Any], ItemTable]
    reads_users: bool = False


ALIGNERS: dict[str, Aligner] = {
    "text": Aligner(TextTableConfig, TextTable),
    "concatenation": Aligner(ConcatenationConfig, ConcatenationTable),
    "faerec": Aligner(FaeRecConfig, faerec_table),
    "llmemb": Aligner(LlmEmbConfig, LlmEmbTable),
    "recgoat": Aligner(RecGoatConfig, RecGoatTable, reads_users=True),
}

# What each part is worth: an aligner without it, by a name of its own.
ABLATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "faerec_no_gate": ("faerec", {"gate": False}),
    "faerec_no_item_loss": ("faerec", {"item_loss": False}),
    "faerec_no_feature_loss": ("faerec", {"feature_loss": False}),
    "faerec_no_losses": ("faerec", {"item_loss": False, "feature_loss": False}),
    "faerec_no_curriculum": ("faerec", {"curriculum": False}),
    "faerec_no_pca": ("faerec", {"init": "normal"}),
    "faerec_id_targets": ("faerec", {"id_targets": True}),
    "faerec_ungated_scores": ("faerec", {"ungated_scores": True}),
    "faerec_as_released": ("faerec", {"id_targets": True, "ungated_scores": True}),
    "llmemb_no_alignment": ("llmemb", {"weight": 0.0}),
    "llmemb_no_adapter": ("llmemb", {"adapter": False}),
    "llmemb_inner_products": ("llmemb", {"unit_length": False}),
    "recgoat_no_contrast": ("recgoat", {"contrast": 0.0}),
    "recgoat_no_transport": ("recgoat", {"transport": "none"}),
    "recgoat_divergence": ("recgoat", {"transport": "divergence"}),
    "recgoat_no_item_graph": ("recgoat", {"item_graph": "none"}),
    "recgoat_no_user_item_graph": ("recgoat", {"user_item_graph": "none"}),
    "recgoat_no_user_graph": ("recgoat", {"user_graph": "none"}),
    "recgoat_shuffled_item_graph": ("recgoat", {"item_graph": "shuffled"}),
    "recgoat_shuffled_user_item_graph": ("recgoat", {"user_item_graph": "shuffled"}),
    "recgoat_shuffled_user_graph": ("recgoat", {"user_graph": "shuffled"}),
    "recgoat_no_user_words": ("recgoat", {"user_start": "free", "user_graph": "none"}),
}


def aligner_config(name: str, **options: Any) -> tuple[str, Any]:
    """The aligner and its configuration for a name of `ALIGNERS` or `ABLATIONS`, with further options set.

    Raises:
        InputError: the name or an option is unknown, or an option's value is bad.
    """
    aligner, changes = ABLATIONS.get(name, (name, {}))
    if aligner not in ALIGNERS:
        raise InputError(f"aligner {name!r}: choose one of {', '.join([*ALIGNERS, *ABLATIONS])}")
    try:
        return aligner, ALIGNERS[aligner].config(**(changes | options))
    except TypeError as error:
        raise InputError(f"aligner {name}: {error}") from None


def make_table(name: str, inputs: AlignerInputs, width: int, config: Any = None) -> ItemTable:
    """An untrained table; its weights come from torch's global generator.

    Args:
        name: of `ALIGNERS`, or of `ABLATIONS` where no config is given.
        width: D.
        config: of the aligner's own class; None: the defaults.
    """
    if config is None:
        name, config = aligner_config(name)
    table = ALIGNERS[name].table(inputs, width, config)
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
    facts = read_json(folder / _FACTS)
    try:
        name, aligner = facts["name"], ALIGNERS[facts["name"]]
        config, width, n_items = aligner.config(**facts["config"]), facts["width"], facts["n_items"]
        tensors = load_file(folder / _TENSORS)
    except FileNotFoundError:
        raise InputError(f"{folder / _TENSORS}: no such file") from None
    except (InputError, SafetensorError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: not a saved aligner ({error})") from None
    if not isinstance(width, int) or width < 1:
        raise InputError(f"{folder}: not a saved aligner (width {width!r})")
    if n_items != len(inputs.text):
        raise InputError(f"{folder}: an aligner of {n_items} items, not of {len(inputs.text)}")
    try:
        with torch.random.fork_rng(devices=()):
            table = make_table(name, inputs, width, config)
        table.load_state_dict(tensors)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"{folder}: not the aligner of these vectors ({' '.join(str(error).split())})") from None
    return table.eval()
