"""Sequential models: collaborative vectors for the tokenizer, the models that aligners train through, and baselines.

A new backbone is one file here and one entry in `BACKBONES`: its shape is then a section of the configurations of
`genrec fit` and `genrec compare`, and it is built, saved and loaded like the others. Importing this module is light: an
entry imports its backbone where it builds one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from genrec.sequential.config import Bert4RecConfig, FmlpRecConfig, Gru4RecConfig, LruRecConfig, SasRecConfig

if TYPE_CHECKING:
    from genrec.sequential.base import Backbone


@dataclass(frozen=True)
class BackboneEntry:
    """An entry of the registry.

    Attributes:
        config: frozen dataclass of its shape, with `width` and `max_items` among the rest; `config()` is the default.
        build: builds the untrained backbone of a shape. A saved one is built anew and given its weights.
    """

    config: type[Any]
    build: Callable[[Any], Backbone]


def _sasrec(config: SasRecConfig) -> Backbone:
    from genrec.sequential.sasrec import SasRecBackbone

    return SasRecBackbone(config)


def _gru4rec(config: Gru4RecConfig) -> Backbone:
    from genrec.sequential.gru4rec import Gru4RecBackbone

    return Gru4RecBackbone(config)


def _bert4rec(config: Bert4RecConfig) -> Backbone:
    from genrec.sequential.bert4rec import Bert4RecBackbone

    return Bert4RecBackbone(config)


def _lrurec(config: LruRecConfig) -> Backbone:
    from genrec.sequential.lrurec import LruRecBackbone

    return LruRecBackbone(config)


def _fmlprec(config: FmlpRecConfig) -> Backbone:
    from genrec.sequential.fmlprec import FmlpRecBackbone

    return FmlpRecBackbone(config)


BACKBONES: dict[str, BackboneEntry] = {
    "sasrec": BackboneEntry(SasRecConfig, _sasrec),
    "gru4rec": BackboneEntry(Gru4RecConfig, _gru4rec),
    "bert4rec": BackboneEntry(Bert4RecConfig, _bert4rec),
    "lrurec": BackboneEntry(LruRecConfig, _lrurec),
    "fmlprec": BackboneEntry(FmlpRecConfig, _fmlprec),
}
