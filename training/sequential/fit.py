"""Fits a sequential model with a softmax over the catalogue, and with whatever its item table adds to that.

    loss = cross-entropy of the next items, a target + items.loss(rows of the batch, epoch) + distillation, if asked for

Every position of every history is a target. Batches hold sequences of like length, so padding is a few percent. The
epoch with the best validation recall wins; the loop stops when it has not improved for `patience` epochs.

Shapes: B sequences of a batch, T positions of the longest, M targets, N items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from genrec.data.sequences import Sequences
from genrec.data.splits import Cases, Split
from genrec.semtok.device import default_device
from genrec.semtok.errors import InputError
from genrec.sequential.base import PADDING, ColdItems, SequentialModel
from genrec.training.loop.batching import batches_by_length, windows
from genrec.training.loop.epochs import FitContext, Objective, Passes, Plan, Row, fit_epochs
from genrec.training.loop.losses import linear_cross_entropy
from genrec.training.loop.schedule import Warmup, adamw
from genrec.training.loop.weights import OneProcess
from genrec.training.sequential.config import (
    FULL_SOFTMAX,
    NEGATIVES,
    AlignerTrainingConfig,
    SequentialTrainingConfig,
)
from genrec.training.sequential.distillation import SelfDistillation
from genrec.training.sequential.sampled_softmax import Drawn, draw, inclusion, places_in, sampled_softmax

Model = TypeVar("Model", bound=SequentialModel)
_ALIGNED_ROWS = 2_048  # items of a batch, at most, that the table's own loss is of
_SCORES = 1 << 26  # of validation cases, held at once: 256 MiB
DIVERGED = (
    "the training of a recommender diverged: its {what} are not numbers; lower its learning_rate (fit:"
    " --collaborative.learning_rate or --aligner.training.learning_rate, compare: --training.learning_rate)"
)


class Softmax:
    """The loss of next items against a table: over the catalogue, over a sample, or without cold items.

    Args:
        counts: int64 [N], training events of each item.
        negatives: expected classes of a sample; None: all, or `NEGATIVES` of more than `FULL_SOFTMAX`.
        cold: items that are no classes: they come after training, and a softmax with them would teach the model to rank
            them last.
        device: of the model.
    """

    def __init__(
        self,
        counts: NDArray[np.int64],
        negatives: int | None,
        cold: ColdItems | None,
        device: torch.device = torch.device("cpu"),  # noqa: B008 (a constant)
    ) -> None:
        if negatives is not None and negatives < 1:
            raise InputError(f"--negatives {negatives} must be at least 1")
        keep = np.ones(len(counts), dtype=np.bool_)
        if cold is not None:
            keep[cold.rows] = False
        self.classes = None if keep.all() else torch.from_numpy(np.flatnonzero(keep)).to(device)
        self.class_of = torch.from_numpy(np.cumsum(keep) - 1).to(device)
        if negatives is None and keep.sum() > FULL_SOFTMAX:
            negatives = NEGATIVES
        self.probability = None if negatives is None else inclusion(counts[keep], negatives).to(device)

    def sample(self) -> Drawn | None:
        """Catalogue rows that one batch is trained against; None: all."""
        if self.probability is None:
            return None
        drawn = draw(self.probability)
        return drawn if self.classes is None else drawn._replace(rows=self.classes[drawn.rows])

    def __call__(self, hidden: Tensor, vectors: Tensor, targets: Tensor, drawn: Drawn | None = None) -> Tensor:
        """Sum over M.

        Args:
            hidden: [M, D].
            vectors: [N, D], or with a sample what its rows and those of the targets are rows of.
            targets: int64 [M].
            drawn: of `sample`; None: all items, or a sample of this call's own.
        """
        if drawn is None:
            drawn = self.sample()
        if drawn is not None:
            return sampled_softmax(hidden, vectors, targets, drawn)
        if self.classes is not None:
            vectors, targets = vectors[self.classes], self.class_of[targets]
        return linear_cross_entropy(hidden, vectors, targets)


def fit_sequential(
    make_model: Callable[[], Model],
    split: Split,
    config: SequentialTrainingConfig,
    context: FitContext,
    *,
    exclude_seen: bool = True,
    negatives: int | None = None,
    text: NDArray[np.float32] | None = None,
    stage: str = "collaborative",
) -> Model:
    """Train on `split.train`, choose the epoch on `split.valid`; on a GPU where one answers.

    Args:
        make_model: builds the untrained model; called under the seed.
        exclude_seen: rank without the items of the history when validating.
        negatives: classes that the softmax samples a batch (`sequential.sampled_softmax`); None: the whole catalogue.
        text: [N, D_t], by which items without training events are ranked, that are then no classes of the softmax, and
            by which users are alike (`sequential.distillation`); None: neither.
        stage: what the log's rows are about.

    Returns:
        The model with the weights of the best epoch, in evaluation mode, on the CPU.

    Raises:
        InputError: no history has two items, or the training diverged.
    """
    torch.manual_seed(config.seed)
    device = default_device()
    model = make_model().to(device)
    counts = np.bincount(split.train.values, minlength=model.n_items)
    unseen = np.flatnonzero(counts == 0)
    cold = None if text is None else ColdItems(unseen, text[unseen])
    softmax = Softmax(counts, negatives, cold, device)
    cases = split.valid.sample(config.valid_cases, config.seed)

    def validate() -> float:
        return validation_recall(model.scorer(cold), cases, exclude_seen=exclude_seen)

    distillation = None
    if text is not None and isinstance(config, AlignerTrainingConfig) and config.distillation:
        distillation = SelfDistillation(split.train, text, config.distillation, config.similar_users, config.seed)
    rows = training_windows(split.train, model.config.max_items)
    objective = _NextItems(model, softmax, validate, rows, config.batch_positions, distillation)
    fit_recommender(objective, model, config, context, stage)
    return model.cpu()


def fit_recommender(
    objective: Objective, model: nn.Module, config: SequentialTrainingConfig, context: FitContext, stage: str
) -> None:
    """Train a recommender in place."""
    plan = Plan(
        stage=stage,
        length=Passes(config.epochs),
        seed=config.seed,
        diverged=DIVERGED.format(what="weights"),
        selection="valid_recall@10",
        patience=config.patience,
        warmup=Warmup(one_in=10, longest=100),
    )
    optimizer = adamw((model.parameters(), config.peak_learning_rate), weight_decay=config.weight_decay)
    fit_epochs(objective, OneProcess(model, optimizer), plan, context)


class RecommenderObjective(Objective):
    """What all recommenders share: a mean loss of their targets, and the recall of validation cases.

    Args:
        model: has an item table `items`.
        softmax: over the items.
        recall: of the model as it stands.
    """

    def __init__(self, model: Any, softmax: Softmax, recall: Callable[[], float]) -> None:
        self.model, self.softmax, self.recall = model, softmax, recall

    def with_table(
        self, loss: Tensor, targets: int, items: Tensor, moment: float
    ) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        """A batch's mean loss, and what the table of its items adds; the log has the former alone."""
        rows = torch.unique(items)
        if len(rows) > _ALIGNED_ROWS:  # alignment compares all pairs of them
            rows = rows[torch.randperm(len(rows), device=rows.device)[:_ALIGNED_ROWS]]
        aligned = self.model.items.loss(rows, moment)
        return loss / targets + aligned, {"loss": loss, "targets": targets}

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        """The mean loss of a target, without what the table adds."""
        return {"loss": sums["loss"] / sums["targets"]}

    def validate(self, rows: Sequence[Row]) -> Mapping[str, float]:
        """Recall@10."""
        return {"valid_recall@10": self.recall()}


class Window(NamedTuple):
    """Events of a history that a model reads at once."""

    events: NDArray[np.int32]  # rows of the catalogue
    first_target: int  # the first of them that no earlier window asked for
    user: int  # the history that ends here; -1 where it goes on


class _NextItems(RecommenderObjective):
    """Every position of every window is a target."""

    def __init__(
        self,
        model: SequentialModel,
        softmax: Softmax,
        recall: Callable[[], float],
        windowed: Sequence[Window],
        batch_positions: int,
        distillation: SelfDistillation | None = None,
    ) -> None:
        super().__init__(model, softmax, recall)
        self._distillation = distillation
        self._windowed, self._batch_positions = windowed, batch_positions
        self._device = next(model.parameters()).device
        self._lengths = np.array([len(window.events) for window in windowed])
        self._users = torch.tensor([window.user for window in windowed], device=self._device)

    def batches(self, epoch: int, rng: np.random.Generator) -> Sequence[NDArray[np.int64]]:
        """Windows of like length."""
        if self._distillation is not None:
            self._distillation.begin(self.model, epoch)
        self.model.train()
        return batches_by_length(self._lengths - 1, self._batch_positions, rng)

    def loss(self, batch: NDArray[np.int64], moment: float) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        """Cross-entropy of the next items."""
        rows = torch.full((len(batch), int(self._lengths[batch].max())), PADDING)
        wanted = torch.zeros(rows.shape, dtype=torch.bool)
        for place, index in enumerate(batch):
            row, first_target, _ = self._windowed[index]
            rows[place, : len(row)] = torch.from_numpy(row)
            wanted[place, first_target : len(row)] = True
        rows, wanted = rows.to(self._device), wanted.to(self._device)
        inputs, targets = self.model.backbone.training_pairs(rows, wanted)
        events, drawn, used = rows[rows >= 0], self.softmax.sample(), None
        if drawn is not None:  # of a large catalogue no more is computed than the batch and its sample need
            used = torch.unique(torch.cat([events, drawn.rows]))
            inputs, targets = places_in(used, inputs), places_in(used, targets)
            drawn = drawn._replace(rows=places_in(used, drawn.rows))
        vectors = self.model.items() if used is None else self.model.items.at(used)
        states, asked = self.model(inputs, vectors), targets >= 0
        hidden = states[asked]
        loss = self.softmax(hidden, vectors, targets[asked], drawn)
        total, sums = self.with_table(loss, len(hidden), events, moment)
        if self._distillation is not None:
            at = torch.from_numpy(batch).to(self._device)
            ended = slice(len(batch))  # the histories as they end, before what a backbone reads beside them
            total = total + self._distillation.loss(*last_asked(states[ended], asked[ended], self._users[at]))
        return total, sums


def last_asked(states: Tensor, asked: Tensor, users: Tensor) -> tuple[Tensor, Tensor]:
    """The last state [B, D] of each sequence that is asked for an item, of states [B, T, D] and bool asked [B, T], and
    the users int64 [B], -1 where nothing is asked."""
    places = asked.shape[1] - 1 - asked.flip(1).int().argmax(dim=1)
    return states[torch.arange(len(states), device=states.device), places], torch.where(asked.any(dim=1), users, -1)


def validation_recall(
    score: Callable[[Sequences], NDArray[np.float32]],
    cases: Cases,
    *,
    k: int = 10,
    exclude_seen: bool,
) -> float:
    """Recall@k over the whole catalogue; an item that ties with the target counts as ranked before it.

    A target that no list can hold, because it is excluded or cannot be ranked, is a miss.

    Raises:
        InputError: a score is NaN: the training diverged.
    """
    hits, start, together = 0, 0, 64
    while start < len(cases):
        index = np.arange(start, min(start + together, len(cases)))
        histories, targets = cases.histories.take(index), cases.targets[index]
        scores = score(histories)
        if np.isnan(scores).any():  # nothing is as great as NaN, so every target would seem to be ranked first
            raise InputError(DIVERGED.format(what="scores"))
        if exclude_seen:
            scores[np.repeat(np.arange(len(index)), histories.lengths), histories.values] = -np.inf
        own = scores[np.arange(len(index)), targets].copy()
        scores[np.arange(len(index)), targets] = -np.inf
        before = (scores >= own[:, None]).sum(axis=1)
        hits += int(((before < k) & (own > -np.inf)).sum())
        start, together = start + len(index), max(1, min(1024, _SCORES // scores.shape[1]))
    return hits / max(1, len(cases))


def training_windows(train: Sequences, max_items: int) -> list[Window]:
    """Windows of at most `max_items` + 1 events; every event but a history's first is a target once."""
    rows = []
    for user, history in enumerate(train):
        for start, first_target, end in windows(len(history), max_items + 1):
            if end - start > 1:
                ends = end == len(history)
                rows.append(Window(history[start:end], max(1, first_target - start), user if ends else -1))
    if not rows:
        raise InputError("no training history has two items: nothing to learn a sequence from")
    return rows
