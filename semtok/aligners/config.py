"""The options of every aligner; checked where they are built, and light to import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from genrec.semtok import options as check
from genrec.semtok.errors import OptionError

FusionMethod = Literal["concatenation", "gate", "text", "collaborative"]
Init = Literal["pca", "normal"]
Graph = Literal["own", "shuffled", "none"]
Transport = Literal["map", "divergence", "none"]
IdStart = Literal["collaborative", "normal"]
UserStart = Literal["text", "free"]


@dataclass(frozen=True)
class FusionConfig:
    """How to fuse.

    Attributes:
        method: see the module.
        width: W; less where a side has fewer dimensions.
        text_weight: w, between 0 and 1.
        gate_count: c0, how often an item must be taken for its behaviour to be believed half.
    """

    method: FusionMethod = "concatenation"
    width: int = 128
    text_weight: float = 0.5
    gate_count: float = 5.0

    def __post_init__(self) -> None:
        check.choice(self, "method", get_args(FusionMethod))
        check.at_least_one(self, "width")
        if not 0 < self.text_weight < 1:
            raise OptionError("text_weight", f"{self.text_weight} must lie between 0 and 1")
        check.positive(self, "gate_count")


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
class ConcatenationConfig:
    """Words beside an ID vector.

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
class FaeRecConfig:
    """FAERec, with a switch for each part.

    Attributes:
        init: ID vectors start as the main components of the text, or at random.
        init_scale: root mean square of the ID vectors' entries at the start.
        gate: learn g; without it g is one half.
        item_loss: align each item's two vectors (`item_contrast`).
        feature_loss: align the dimensions (`feature_correlation_by_popularity`).
        curriculum: shift weight between the two losses; without it they have their means over a period.
        weight: lambda.
        minimum: least weight of the item-level loss (w_min; 0.3 to 0.9 in the authors' runs).
        period: epochs of the curriculum (T; 15 to 30 in the authors' runs).
        temperature: of the item-level loss.
        off_diagonal: weight of different dimensions' correlation.
        drawn_items: items drawn uniformly that are aligned beside those of the batch, for each of those: stands for the
            authors' sampled negatives, by which rare items are aligned as often as popular ones.
        mapper_dropout: on the mapper's hidden layer.
        gate_dropout: on the gate's.
        id_targets: train against the raw ID vectors (released code).
        ungated_scores: rank with LayerNorm(E_id + m(x)) (released code).
    """

    init: Init = "pca"
    init_scale: float = 0.05
    gate: bool = True
    item_loss: bool = True
    feature_loss: bool = True
    curriculum: bool = True
    weight: float = 0.2
    minimum: float = 0.7
    period: float = 20.0
    temperature: float = 0.05
    off_diagonal: float = 0.005
    drawn_items: float = 1.0
    mapper_dropout: float = 0.3
    gate_dropout: float = 0.1
    id_targets: bool = False
    ungated_scores: bool = False

    def __post_init__(self) -> None:
        check.choice(self, "init", get_args(Init))
        check.positive(self, "init_scale", "temperature", "period")
        check.not_negative(self, "weight", "off_diagonal", "drawn_items")
        check.below_one(self, "mapper_dropout", "gate_dropout")
        check.fraction(self, "minimum")


@dataclass(frozen=True)
class LlmEmbConfig:
    """Recommendation adaptation training.

    Attributes:
        text_width: D_p, main components of the text that the adapter reads (1,536 of 4,096 in the paper); all where the
            text has no more.
        hidden_width: width between the two layers of the adapter; null: half of D_p.
        adapter: train the adapter; without it the main components are the vectors (an ablation of the paper).
        weight: alpha; 0 leaves the alignment out.
        unit_length: compare vectors of unit length.
        temperature: of the alignment; null: 0.1 for unit length, 2 (the paper's) otherwise.
    """

    text_width: int = 1536
    hidden_width: int | None = None
    adapter: bool = True
    weight: float = 0.01
    unit_length: bool = True
    temperature: float | None = None

    def __post_init__(self) -> None:
        check.at_least_one(self, "text_width", "hidden_width")
        check.not_negative(self, "weight")
        check.positive(self, "temperature")


@dataclass(frozen=True)
class RecGoatConfig:
    """RecGOAT, with a switch for each part.

    Attributes:
        item_graph: the graph of items with like words: its own, shuffled (an ablation), or none.
        user_item_graph: the graph of who took what; without it users play no part.
        user_graph: the graph of users with like preferences.
        graph_seed: of the shuffling.
        item_neighbours: items that each item chooses as its neighbours (20 or 30 in the paper).
        user_neighbours: users that each user chooses.
        cold_neighbours: items of like words whose mean behaviour stands for that of an item nobody has taken; 0: none.
        heads: of both attentions, dividing the width.
        layers: L, of LightGCN (3 in the paper).
        id_start: ID vectors start as the main components of the collaborative vectors, or at random.
        id_scale: root mean square of the ID vectors' entries at the start.
        user_start: users start from the words of their preferences, or as free vectors.
        contrast: w_c; 0 leaves the contrast out.
        temperature: of the contrast.
        drawn_items: items drawn uniformly that are aligned beside those of the batch, for each of those: stands for the
            authors' sampled negatives.
        transport: a map of features, a distance between samples in the loss, or none.
        transport_weight: w_t, of the distance.
        transport_rows: the distance is between at most so many items of a batch.
        epsilon: of the transport: of the costs' spread for the map, of their median for the distance.
        iterations: Sinkhorn updates.
        text_share: b at the start; it is learned.
        dropout: in both attentions and on the result.
    """

    item_graph: Graph = "own"
    user_item_graph: Graph = "own"
    user_graph: Graph = "own"
    graph_seed: int = 0
    item_neighbours: int = 20
    user_neighbours: int = 10
    cold_neighbours: int = 5
    heads: int = 8
    layers: int = 2
    id_start: IdStart = "collaborative"
    id_scale: float = 0.1
    user_start: UserStart = "text"
    contrast: float = 0.1
    temperature: float = 0.2
    drawn_items: float = 1.0
    transport: Transport = "map"
    transport_weight: float = 0.1
    transport_rows: int = 512
    epsilon: float = 0.1
    iterations: int = 30
    text_share: float = 0.5
    dropout: float = 0.1

    def __post_init__(self) -> None:
        for name in ("item_graph", "user_item_graph", "user_graph"):
            check.choice(self, name, get_args(Graph))
        check.choice(self, "transport", get_args(Transport))
        check.choice(self, "id_start", get_args(IdStart))
        check.choice(self, "user_start", get_args(UserStart))
        check.at_least_one(self, "item_neighbours", "user_neighbours", "heads", "layers")
        check.at_least_one(self, "transport_rows", "iterations")
        check.positive(self, "id_scale", "temperature", "epsilon")
        check.not_negative(self, "contrast", "drawn_items", "transport_weight", "cold_neighbours")
        check.below_one(self, "text_share", "dropout")

    def check_width(self, width: int) -> None:
        """Raise OptionError, before any work, where there is attention whose heads do not divide the table's width."""
        users = self.user_item_graph != "none" and self.user_graph != "none"
        if (users or self.item_graph != "none") and width % self.heads:
            raise OptionError("heads", f"{self.heads} does not divide the backbone's width {width}")
