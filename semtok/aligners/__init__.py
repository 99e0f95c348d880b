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
    LlmEsrConfig,
    RecGoatConfig,
    TextTableConfig,
)
from genrec.semtok.errors import InputError, OptionError, did_you_mean

if TYPE_CHECKING:
    from genrec.semtok.aligners.base import AlignerInputs, ItemTable

PLAIN = "plain"  # beside the names of `ALIGNERS`: no aligner, one free vector an item


@dataclass(frozen=True)
class Aligner:
    """An entry of the registry."""

    config: type[Any]  # frozen dataclass of its options; `config()` are the defaults
    # builds the table: (inputs, width, config). A saved one is built anew and given its weights
    table: Callable[[AlignerInputs, int, Any], ItemTable]
    reads_users: bool = False  # it reads the vectors of the users' preference texts
    reads_collaborative: bool = False  # it reads the vectors of a recommender of item ids alone


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


def _llm_esr(inputs: AlignerInputs, width: int, config: LlmEsrConfig) -> ItemTable:
    from genrec.semtok.aligners.llm_esr import LlmEsrTable

    return LlmEsrTable(inputs, width, config)


def _recgoat(inputs: AlignerInputs, width: int, config: RecGoatConfig) -> ItemTable:
    from genrec.semtok.aligners.recgoat import RecGoatTable

    return RecGoatTable(inputs, width, config)


ALIGNERS: dict[str, Aligner] = {
    "text": Aligner(TextTableConfig, _text),
    "concatenation": Aligner(ConcatenationConfig, _concatenation),
    "faerec": Aligner(FaeRecConfig, _faerec),
    "llmemb": Aligner(LlmEmbConfig, _llmemb, reads_collaborative=True),
    "llm_esr": Aligner(LlmEsrConfig, _llm_esr),
    "recgoat": Aligner(RecGoatConfig, _recgoat, reads_users=True, reads_collaborative=True),
}


def aligner_entry(name: str) -> Aligner:
    """An entry of `ALIGNERS`; raises InputError where there is none of that name."""
    if name not in ALIGNERS:
        raise InputError(f"aligner {name!r}: choose one of {', '.join(ALIGNERS)}{did_you_mean(name, ALIGNERS)}")
    return ALIGNERS[name]


def aligner_config(name: str, **options: Any) -> Any:
    """The configuration of an aligner with options set; raises InputError for a bad name, option or value."""
    entry = aligner_entry(name)
    known = [field.name for field in fields(entry.config)]
    for option in options:
        if option not in known:
            raise OptionError(option, f"is no option of the aligner {name}{did_you_mean(option, known)}")
    return entry.config(**options)
