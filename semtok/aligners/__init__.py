"""Aligners: item vectors from the text and the collaborative modality, trained with a recommender.

A new aligner is one file here and one entry in `ALIGNERS`: its options are then a section of `genrec fit`'s
configuration, and it is built, saved and loaded like the others (`genrec.semtok.aligners.saved`). Importing this module
is light: an entry imports its aligner where it builds a table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
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
        options: those that an ablation changes.
    """

    config: type[Any]
    table: Callable[[AlignerInputs, int, Any], ItemTable]
    reads_users: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


def _text(inputs: AlignerInputs, width: int, config: TextTableConfig) -> ItemTable:
    from genrec.semtok.aligners.simple import TextTable

    return TextTable(inputs, width, config)


def _concatenation(inputs: AlignerInputs, width: int, config: ConcatenationConfig) -> ItemTable:
    from genrec.semtok.aligners.simple import ConcatenationTable

    return ConcatenationTable(inputs, width, config)


def _faerec(inputs: AlignerInputs, width: int, config: FaeRecConfig) -> ItemTable:
    from genrec.semtok.aligners.faerec import FaeRecTable

    return FaeRecTable(inputs, width, config)


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


def _ablation(name: str) -> Callable[[AlignerInputs, int, Any], ItemTable]:
    def table(inputs: AlignerInputs, width: int, config: Any) -> ItemTable:
        from genrec.semtok.aligners.ablations import TABLES

        return TABLES[name](inputs, width, config)

    return table


# What each part is worth: an aligner without it, or with another in its place; for `genrec compare`.
ABLATIONS: dict[str, Aligner] = {
    "faerec_no_gate": Aligner(FaeRecConfig, _ablation("faerec_no_gate")),
    "faerec_no_item_loss": Aligner(FaeRecConfig, _ablation("faerec_no_item_loss")),
    "faerec_no_feature_loss": Aligner(FaeRecConfig, _ablation("faerec_no_feature_loss")),
    "faerec_no_losses": Aligner(FaeRecConfig, _faerec, options={"weight": 0.0}),
    "faerec_no_curriculum": Aligner(FaeRecConfig, _ablation("faerec_no_curriculum")),
    "faerec_no_pca": Aligner(FaeRecConfig, _ablation("faerec_no_pca")),
    "faerec_id_targets": Aligner(FaeRecConfig, _ablation("faerec_id_targets")),
    "faerec_ungated_scores": Aligner(FaeRecConfig, _ablation("faerec_ungated_scores")),
    "faerec_as_released": Aligner(FaeRecConfig, _ablation("faerec_as_released")),
    "llmemb_no_alignment": Aligner(LlmEmbConfig, _llmemb, options={"weight": 0.0}),
    "llmemb_no_adapter": Aligner(LlmEmbConfig, _ablation("llmemb_no_adapter")),
    "llmemb_inner_products": Aligner(LlmEmbConfig, _ablation("llmemb_inner_products"), options={"temperature": 2.0}),
    "recgoat_no_contrast": Aligner(RecGoatConfig, _recgoat, reads_users=True, options={"contrast": 0.0}),
    "recgoat_no_transport": Aligner(RecGoatConfig, _ablation("recgoat_no_transport"), reads_users=True),
    "recgoat_divergence": Aligner(RecGoatConfig, _ablation("recgoat_divergence"), reads_users=True),
    "recgoat_no_item_graph": Aligner(RecGoatConfig, _ablation("recgoat_no_item_graph"), reads_users=True),
    "recgoat_no_user_item_graph": Aligner(RecGoatConfig, _ablation("recgoat_no_user_item_graph")),
    "recgoat_no_user_graph": Aligner(RecGoatConfig, _ablation("recgoat_no_user_graph"), reads_users=True),
    "recgoat_shuffled_item_graph": Aligner(RecGoatConfig, _ablation("recgoat_shuffled_item_graph"), reads_users=True),
    "recgoat_shuffled_user_item_graph": Aligner(
        RecGoatConfig, _ablation("recgoat_shuffled_user_item_graph"), reads_users=True
    ),
    "recgoat_shuffled_user_graph": Aligner(RecGoatConfig, _ablation("recgoat_shuffled_user_graph"), reads_users=True),
    "recgoat_no_user_text": Aligner(RecGoatConfig, _ablation("recgoat_no_user_text")),
}


def aligner_entry(name: str) -> Aligner:
    """An entry of `ALIGNERS` or `ABLATIONS`; raises InputError where there is none of that name."""
    entry = ALIGNERS.get(name) or ABLATIONS.get(name)
    if entry is None:
        names = [*ALIGNERS, *ABLATIONS]
        raise InputError(f"aligner {name!r}: choose one of {', '.join(names)}{did_you_mean(name, names)}")
    return entry


def aligner_config(name: str, **options: Any) -> Any:
    """The configuration of an aligner or ablation, with options set.

    Raises:
        InputError: the name or an option is unknown, or an option's value is bad.
    """
    entry = aligner_entry(name)
    known = [field.name for field in fields(entry.config)]
    for option in options:
        if option not in known:
            raise OptionError(option, f"is no option of the aligner {name}{did_you_mean(option, known)}")
    return entry.config(**{**entry.options, **options})
