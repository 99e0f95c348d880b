"""The shapes of every sequential model; checked where they are built, and light to import.

Shapes: D width of item vectors and hidden states, H width of a recurrent state.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from genrec.semtok import options as check
from genrec.semtok.errors import OptionError


@dataclass(frozen=True)
class SasRecConfig:
    """Shape of the network.

    Attributes:
        width: D, also the width of the item vectors.
        layers: transformer blocks.
        heads: attention heads.
        dropout: on embeddings, attention outputs and feed-forward outputs.
        max_items: the last items of a history that are read.
    """

    width: int = 128
    layers: int = 2
    heads: int = 2
    dropout: float = 0.5
    max_items: int = 50

    def __post_init__(self) -> None:
        check_shape(self)
        check.divides(self, "heads", "width")


@dataclass(frozen=True)
class Gru4RecConfig:
    """Shape of the network.

    Attributes:
        width: D, also the width of the item vectors.
        hidden: H.
        layers: recurrent layers.
        dropout: on item vectors and on recurrent states.
        max_items: the last items of a history that are read.
    """

    width: int = 128
    hidden: int = 128
    layers: int = 1
    dropout: float = 0.3
    max_items: int = 50

    def __post_init__(self) -> None:
        check_shape(self)
        check.at_least_one(self, "hidden")


@dataclass(frozen=True)
class Bert4RecConfig:
    """Shape of the network and of its gaps.

    Attributes:
        width: D, also the width of the item vectors.
        layers: transformer blocks.
        heads: attention heads.
        dropout: on embeddings, attention outputs and feed-forward outputs.
        max_items: the last items of a history that are read.
        mask_share: rho; the paper took 0.6 for short histories (Beauty) and 0.2 for long ones (MovieLens).
        last_share: share of the histories that hide their last item alone.
    """

    width: int = 128
    layers: int = 2
    heads: int = 2
    dropout: float = 0.3
    max_items: int = 50
    mask_share: float = 0.6
    last_share: float = 0.1

    def __post_init__(self) -> None:
        check_shape(self)
        check.divides(self, "heads", "width")
        if not 0 < self.mask_share < 1:
            raise OptionError("mask_share", f"{self.mask_share} must lie between 0 and 1")
        check.fraction(self, "last_share")


@dataclass(frozen=True)
class LruRecConfig:
    """Shape of the network.

    Attributes:
        width: D, also the width of the item vectors.
        layers: blocks of a recurrent and a feed-forward layer.
        dropout: on item vectors, recurrent and feed-forward outputs; null: 0.4, in `genrec fit` 0.2 for dense data.
        max_items: the last items of a history that are read; 0: 50, in `genrec fit` 200 for long histories.
    """

    width: int = 128
    layers: int = 2
    dropout: float | None = None
    max_items: int = 0

    def __post_init__(self) -> None:
        check.at_least_one(self, "width", "layers")
        check.not_negative(self, "max_items")
        check.below_one(self, "dropout")

    def settled(self, *, dense: bool = False, long: bool = False) -> LruRecConfig:
        """The same with a number for what was left open.

        Args:
            dense: the items have many interactions each, which need less dropout.
            long: the histories are long.
        """
        dropout = (0.2 if dense else 0.4) if self.dropout is None else self.dropout
        return replace(self, dropout=dropout, max_items=self.max_items or (200 if long else 50))


@dataclass(frozen=True)
class FmlpRecConfig:
    """Shape of the network.

    Attributes:
        width: D, also the width of the item vectors.
        layers: blocks of a filter and a feed-forward layer.
        dropout: on item vectors, filter and feed-forward outputs.
        max_items: the last items of a history that are read, and the places that a filter goes round.
    """

    width: int = 128
    layers: int = 2
    dropout: float = 0.5
    max_items: int = 50

    def __post_init__(self) -> None:
        check_shape(self)


def check_shape(config: Any) -> None:
    """Refuse a width, a number of layers or items below 1, and a dropout outside [0, 1)."""
    check.at_least_one(config, "width", "layers", "max_items")
    check.below_one(config, "dropout")
