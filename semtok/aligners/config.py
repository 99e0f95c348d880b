"""The options of every aligner; checked where they are built, and light to import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from genrec.semtok import options as check
from genrec.semtok.errors import OptionError

FusionMethod = Literal["concatenation", "text", "collaborative"]


@dataclass(frozen=True)
class FusionConfig:
    """How to fuse.

    Attributes:
        method: see the module.
        width: W; less where a side has fewer dimensions.
        text_weight: w, between 0 and 1.
    """

    method: FusionMethod = "concatenation"
    width: int = 128
    text_weight: float = 0.5

    def __post_init__(self) -> None:
        check.choice(self, "method", get_args(FusionMethod))
        check.at_least_one(self, "width")
        if not 0 < self.text_weight < 1:
            raise OptionError("text_weight", f"{self.text_weight} must lie between 0 and 1")


@dataclass(frozen=True)
class TextTableConfig:
    """Words alone.

    Attributes:
        hidden: H; 0: one linear map.
        dropout: on the adapter's hidden layer.
    """

    hidden: int = 256
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.hidden < 0:
            raise OptionError("hidden", f"{self.hidden} must not be negative")
        check.below_one(self, "dropout")


@dataclass(frozen=True)
class ConcatenationConfig(TextTableConfig):
    """Words beside an ID vector.

    Attributes:
        hidden: H; 0: one linear map.
        dropout: on the adapter's hidden layer.
    """


@dataclass(frozen=True)
class FaeRecConfig:
    """FAERec.

    Attributes:
        weight: lambda.
        minimum: least weight of the item-level loss (w_min; 0.3 to 0.9 in the authors' runs).
        period: epochs of the curriculum (T; 15 to 30 in the authors' runs).
        temperature: of the item-level loss.
        drawn_items: items drawn uniformly that are aligned beside those of the batch, for each of those: stands for the
            authors' sampled negatives, by which rare items are aligned as often as popular ones.
        mapper_dropout: on the mapper's hidden layer.
    """

    weight: float = 0.2
    minimum: float = 0.7
    period: float = 20.0
    temperature: float = 0.05
    drawn_items: float = 1.0
    mapper_dropout: float = 0.3

    def __post_init__(self) -> None:
        check.positive(self, "temperature", "period")
        check.not_negative(self, "weight", "drawn_items")
        check.below_one(self, "mapper_dropout")
        check.fraction(self, "minimum")


@dataclass(frozen=True)
class LlmEmbConfig:
    """Recommendation adaptation training.

    Attributes:
        text_width: D_p, main components of the text that the adapter reads (1,536 of 4,096 in the paper); all where the
            text has no more.
        hidden_width: width between the two layers of the adapter; null: half of D_p.
        weight: alpha; 0 leaves the alignment out.
        temperature: of the alignment.
    """

    text_width: int = 1536
    hidden_width: int | None = None
    weight: float = 0.01
    temperature: float = 0.1

    def __post_init__(self) -> None:
        check.at_least_one(self, "text_width", "hidden_width")
        check.not_negative(self, "weight")
        check.positive(self, "temperature")


@dataclass(frozen=True)
class RecGoatConfig:
    """RecGOAT.

    Attributes:
        item_neighbours: items that each item chooses as its neighbours (20 or 30 in the paper).
        user_neighbours: users that each user chooses.
        cold_neighbours: items of like text whose mean collaborative vector a cold-start item takes; 0: none.
        heads: of both attentions, dividing the width.
        layers: L, of LightGCN (3 in the paper).
        contrast: w_c; 0 leaves the contrast out.
        temperature: of the contrast.
        drawn_items: items drawn uniformly that are aligned beside those of the batch, for each of those: stands for the
            authors' sampled negatives.
        epsilon: entropy of the transport, in units of the costs' spread.
        text_share: b at the start; it is learned.
        dropout: in both attentions and on the result.
        writer: of the users' preference texts: template, smollm2, a causal language model by folder or id, or the
            address of an OpenAI-compatible server (vLLM), whose model puts the template's facts into sentences.
    """

    item_neighbours: int = 20
    user_neighbours: int = 10
    cold_neighbours: int = 5
    heads: int = 8
    layers: int = 2
    contrast: float = 0.1
    temperature: float = 0.2
    drawn_items: float = 1.0
    epsilon: float = 0.1
    text_share: float = 0.5
    dropout: float = 0.1
    writer: str = "template"

    def __post_init__(self) -> None:
        check.path(self, "writer")
        check.at_least_one(self, "item_neighbours", "user_neighbours", "heads", "layers")
        check.positive(self, "temperature", "epsilon")
        check.not_negative(self, "contrast", "drawn_items", "cold_neighbours")
        check.below_one(self, "text_share", "dropout")

    def check_width(self, width: int) -> None:
        """Raise OptionError, before any work, where the heads do not divide the table's width."""
        if width % self.heads:
            raise OptionError("heads", f"{self.heads} does not divide the backbone's width {width}")


@dataclass(frozen=True)
class LlmEsrConfig:
    """LLM-ESR's dual view.

    Attributes:
        heads: of both cross-attentions, dividing half of the backbone's width (2 in the authors' code).
        dropout: on what each view takes from the other.
        weight: of the contrast between the two views of an item; 0 leaves it out, as the paper does.
        temperature: of that contrast.
    """

    heads: int = 2
    dropout: float = 0.1
    weight: float = 0.0
    temperature: float = 0.1

    def __post_init__(self) -> None:
        check.at_least_one(self, "heads")
        check.positive(self, "temperature")
        check.not_negative(self, "weight")
        check.below_one(self, "dropout")

    def check_width(self, width: int) -> None:
        """Raise OptionError, before any work, where the table's width has no two halves that the heads divide."""
        if width % (2 * self.heads):
            raise OptionError("heads", f"{self.heads} does not divide half of the backbone's width {width}")
