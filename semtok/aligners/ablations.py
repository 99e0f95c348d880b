"""What each part of an aligner is worth: its table with the part left out, or with another in its place.

`genrec compare` trains them beside the whole (`faerec_no_gate: {}` is a line of its table); `genrec fit` does not know
them. Each is the method of the table that it changes.

Shapes: N items, U users, D width of the table, M rows of a batch.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn import functional

from genrec.semtok.aligners.base import AlignerInputs, ItemTable
from genrec.semtok.aligners.config import FaeRecConfig
from genrec.semtok.aligners.faerec import ID_SCALE as FAEREC_ID_SCALE
from genrec.semtok.aligners.faerec import FaeRecTable
from genrec.semtok.aligners.graphs import shuffled
from genrec.semtok.aligners.llmemb import LlmEmbTable, scaled_axes
from genrec.semtok.aligners.losses import soft_target_contrast
from genrec.semtok.aligners.principal_axes import Floats, principal_axes
from genrec.semtok.aligners.recgoat import ID_SCALE as RECGOAT_ID_SCALE
from genrec.semtok.aligners.recgoat import SINKHORN_ITERATIONS, GraphKind, RecGoatTable
from genrec.semtok.aligners.transport import FeatureMap, relative_epsilon, sinkhorn_divergence

_DIVERGENCE_WEIGHT, _DIVERGENCE_ROWS = 0.1, 512


# --- FAERec -----------------------------------------------------------------------------------------------------------


class FaeRecNoGate(FaeRecTable):
    """Both modalities weigh the same."""

    def share(self, own: Tensor, mapped: Tensor) -> Tensor:
        return torch.full_like(own, 0.5)


class FaeRecNoItemLoss(FaeRecTable):
    def loss_weights(self, epoch: float) -> tuple[float, float]:
        return 0.0, super().loss_weights(epoch)[1]


class FaeRecNoFeatureLoss(FaeRecTable):
    def loss_weights(self, epoch: float) -> tuple[float, float]:
        return super().loss_weights(epoch)[0], 0.0


class FaeRecNoCurriculum(FaeRecTable):
    """The two losses have their mean weights over a period."""

    def loss_weights(self, epoch: float) -> tuple[float, float]:
        return (1 + self.config.minimum) / 2, (1 - self.config.minimum) / 2


class FaeRecNoPca(FaeRecTable):
    """ID vectors start at random."""

    def __init__(self, inputs: AlignerInputs, width: int, config: FaeRecConfig) -> None:
        super().__init__(inputs, width, config)
        nn.init.normal_(self.items.weight, std=FAEREC_ID_SCALE)


class FaeRecIdTargets(FaeRecTable):
    """Next items are compared with raw ID vectors in training, as the released code does."""

    def targets(self) -> Tensor:
        return self.items.weight

    def scores(self) -> Tensor:
        return self()


class FaeRecUngatedScores(FaeRecTable):
    """Items are ranked by LayerNorm(E_id + m(x)), as the released code does."""

    def scores(self) -> Tensor:
        own = self.items.weight * (self.counts > 0)[:, None]
        return self.norm(self.mapper(self.standard) + own)


class FaeRecAsReleased(FaeRecUngatedScores, FaeRecIdTargets):
    """Both deviations of the released code."""


# --- LLMEmb -----------------------------------------------------------------------------------------------------------


class LlmEmbNoAdapter(LlmEmbTable):
    """The main components of the text are the vectors (an ablation of the paper): only the sequential model learns."""

    def read_axes(self, inputs: AlignerInputs) -> tuple[Floats, Floats]:
        mean, axes = principal_axes(inputs.text, self.width)
        return mean, scaled_axes(inputs.text, mean, axes, 1.0)  # ranked with as they are: a length of about 1

    def make_adapter(self, text_width: int) -> nn.Module:
        return nn.ZeroPad1d((0, self.width - text_width))


class LlmEmbInnerProducts(LlmEmbTable):
    """The alignment as published: of vectors of any length, at the paper's temperature of 2."""

    def contrast(self, known: Tensor, own: Tensor) -> Tensor:
        return soft_target_contrast(known, own, self.config.temperature)


# --- RecGOAT ----------------------------------------------------------------------------------------------------------


class RecGoatWithoutGraphs(RecGoatTable):
    """Without some of its graphs."""

    absent: ClassVar[tuple[GraphKind, ...]]

    def graph(self, kind: GraphKind, graph: csr_array) -> csr_array | None:
        return None if kind in self.absent else graph


class RecGoatNoItemGraph(RecGoatWithoutGraphs):
    absent = ("item",)


class RecGoatNoUserItemGraph(RecGoatWithoutGraphs):
    """Users play no part."""

    absent = ("user_item",)


class RecGoatNoUserGraph(RecGoatWithoutGraphs):
    absent = ("user",)


class RecGoatShuffled(RecGoatTable):
    """With some of its graphs over the wrong nodes: what is lost without a graph's knowledge, not its size."""

    wrong: ClassVar[tuple[GraphKind, ...]]
    seed: ClassVar[int] = 0

    def graph(self, kind: GraphKind, graph: csr_array) -> csr_array | None:
        if kind not in self.wrong:
            return graph
        return shuffled(graph, self.seed, two_sided=kind in ("new_item", "user_item"))


class RecGoatShuffledItemGraph(RecGoatShuffled):
    wrong = ("item", "new_item")


class RecGoatShuffledUserItemGraph(RecGoatShuffled):
    wrong = ("user_item",)


class RecGoatShuffledUserGraph(RecGoatShuffled):
    wrong = ("user",)


class FreeUsers(nn.Module):
    """Free vectors of the users' layer 0, [U, D]."""

    def __init__(self, n_users: int, width: int) -> None:
        super().__init__()
        self.start = nn.Parameter(RECGOAT_ID_SCALE * torch.randn(n_users, width))

    def forward(self) -> Tensor:
        return self.start


class RecGoatNoUserText(RecGoatTable):
    """Users start from free vectors, and have no graph of their own."""

    def make_users(self, inputs: AlignerInputs) -> nn.Module:
        return FreeUsers(inputs.user_item.shape[0], self.width)


class RecGoatNoTransport(RecGoatTable):
    def make_map(self) -> FeatureMap | None:
        return None


class RecGoatDivergence(RecGoatNoTransport):
    """Transport read as a distance between samples of the two modalities, in the loss."""

    weight: float = _DIVERGENCE_WEIGHT

    def alignment(self, text: Tensor, collaborative: Tensor, rows: Tensor) -> Tensor:
        total = super().alignment(text, collaborative, rows)
        sample = torch.randperm(len(rows), device=rows.device)[:_DIVERGENCE_ROWS]
        x, y = (functional.normalize(vectors[sample], dim=-1) for vectors in (text, collaborative))
        epsilon = relative_epsilon(x, y, self.config.epsilon)
        return total + self.weight * sinkhorn_divergence(x, y, epsilon, SINKHORN_ITERATIONS)


TABLES: dict[str, type[ItemTable]] = {
    "faerec_no_gate": FaeRecNoGate,
    "faerec_no_item_loss": FaeRecNoItemLoss,
    "faerec_no_feature_loss": FaeRecNoFeatureLoss,
    "faerec_no_curriculum": FaeRecNoCurriculum,
    "faerec_no_pca": FaeRecNoPca,
    "faerec_id_targets": FaeRecIdTargets,
    "faerec_ungated_scores": FaeRecUngatedScores,
    "faerec_as_released": FaeRecAsReleased,
    "llmemb_no_adapter": LlmEmbNoAdapter,
    "llmemb_inner_products": LlmEmbInnerProducts,
    "recgoat_no_transport": RecGoatNoTransport,
    "recgoat_divergence": RecGoatDivergence,
    "recgoat_no_item_graph": RecGoatNoItemGraph,
    "recgoat_no_user_item_graph": RecGoatNoUserItemGraph,
    "recgoat_no_user_graph": RecGoatNoUserGraph,
    "recgoat_shuffled_item_graph": RecGoatShuffledItemGraph,
    "recgoat_shuffled_user_item_graph": RecGoatShuffledUserItemGraph,
    "recgoat_shuffled_user_graph": RecGoatShuffledUserGraph,
    "recgoat_no_user_text": RecGoatNoUserText,
}
