"""Aligners: item vectors from the text and the collaborative modality, trained with a recommender.

A new aligner is one file here and one entry in `ALIGNERS`: its options are then a section of `genrec fit`'s
configuration, and it is built, saved and loaded like the others (`genrec.semtok.aligners.saved`). Importing this module
is light: an entry imports its aligner where it builds a table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from genrec.semtok.aligners.config import (
    ConcatenationConfig,
    FaeRecConfig,
    LlmEmbConfig,
    RecGoatConfig,
    TextTableConfig,
)
from genrec.semtok.errors import InputError, OptionError, did_you_mean

if TYPE_CHECKING:
    from genrec.semtok.aligners.base import AlignerInputs, ItemTable

PLAIN = "plain"  # beside the names of `ALIGNERS`: no aligner, one free vector an item


@dataclass(frozen=True)
class Aligner:
    """An entry of the registry.

    Attributes:
        config: frozen dataclass of its options; `config()` are the defaults.
        table: builds the table: (inputs, width, config). A saved one is built anew and given its weights.
        reads_users: it reads the vectors of the users' preference texts.
    """

    config: type[Any]
    table: Callable[[AlignerInputs, int, Any], ItemTable]
    reads_users: bool = False


def _text(inputs: AlignerInputs, width: int, config: TextTableConfig) -> ItemTable:
    from genrec.semtok.aligners.simple import TextTable

    return TextTable(inputs, width, config)


def _concatenation(inputs: AlignerInputs, width: int, config: ConcatenationConfig) -> ItemTable:
    from genrec.semtok.aligners.simple import ConcatenationTable

    return ConcatenationTable(inputs, width, config)


def _faerec(inputs: AlignerInputs, width: int, config: FaeRecConfig) -> ItemTable:
    from genrec.semtok.aligners.faerec import faerec_table

    return faerec_table(inputs, width, config)


def _llmemb(inputs: AlignerInputs, width: int, config: LlmEmbConfig) -> ItemTable:
    from genrec.semtok.aligners.llmemb import LlmEmbTable

    return LlmEmbTable(inputs, width, config)


def _recgoat(inputs: AlignerInputs, width: int, config: RecGoatConfig) -> ItemTable:
    from genrec.semtok.aligners.recgoat import RecGoatTable

    return RecGoatTable(inputs, width, config)


ALIGNERS: dict[str, Aligner] = {
    "text": Aligner(TextTableConfig, _text),
    "concatenation": Aligner(ConcatenationConfig, _concatenation),
    "faerec": Aligner(FaeRecConfig, _faerec),
    "llmemb": Aligner(LlmEmbConfig, _llmemb),
    "recgoat": Aligner(RecGoatConfig, _recgoat, reads_users=True),
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


def aligner_entry(name: str) -> Aligner:
    """An entry of `ALIGNERS`; raises InputError where there is none of that name."""
    if name not in ALIGNERS:
        raise InputError(f"aligner {name!r}: choose one of {', '.join([*ALIGNERS, *ABLATIONS])}")
    return ALIGNERS[name]


def aligner_config(name: str, **options: Any) -> tuple[str, Any]:
    """The aligner and its configuration for a name of `ALIGNERS` or `ABLATIONS`, with further options set.

    Raises:
        InputError: the name or an option is unknown, or an option's value is bad.
    """
    aligner, changes = ABLATIONS.get(name, (name, {}))
    entry = aligner_entry(aligner)
    known = [one.name for one in fields(entry.config)]
    for option in options:
        if option not in known:
            raise OptionError(option, f"is no option of the aligner {name}{did_you_mean(option, known)}")
    return aligner, entry.config(**(changes | options))
