"""What every sequential model is: a table of item vectors, and a backbone that reads them in order.

    model = SequentialModel(items, backbone)        # items: any `semtok.aligners` table, backbone: one of BACKBONES
    model.score(histories)                          # float32 [B, N]

The table says what an item is (an ID vector, fused vectors, both); the backbone knows no items, only their vectors. So
every backbone runs with every table, and one trainer fits them all.

Shapes: B sequences, T positions, D width, N items, M cold items, D_t width of the text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from genrec.data.sequences import Sequences
from genrec.semtok.aligners.base import ItemTable
from genrec.semtok.arrays import read_tensors, state_spec
from genrec.semtok.errors import InputError
from genrec.semtok.folders import to_json, write_atomic
from genrec.semtok.schema import parse_as, read_as

PADDING = -1  # stands after the end of a shorter sequence
MASK = -2  # stands for an item that is asked for (BERT4Rec)

_TOGETHER = 128  # histories that are read at once

Scores = NDArray[np.float32]
Scorer = Callable[[Sequences], Scores]


@dataclass(frozen=True)
class ColdItems:
    """Cold-start items: without training interactions, with their text vectors."""

    rows: NDArray[np.int64]  # [M], distinct catalogue rows
    text: NDArray[np.float32]  # [M, D_t]


class Backbone(nn.Module):
    """Item vectors of a history in, hidden states out; the hidden state is compared with item vectors.

    A causal backbone writes `forward` alone: state t has read the items up to t and is asked for item t + 1. One that
    reads in both directions says so, and writes how it is trained.

    Attributes:
        name: its key in BACKBONES, its section in a configuration and the stem of its files.
        config: a frozen dataclass with `width` (D) and `max_items` (the last items of a history that are read).
        causal: no state has read what stands behind it.
    """

    name: ClassVar[str]
    causal: ClassVar[bool] = True
    config: Any

    def forward(self, x: Tensor, rows: Tensor) -> Tensor:
        """Hidden states [B, T, D].

        Args:
            x: item vectors [B, T, D], zeros where there is no item.
            rows: int64 [B, T], catalogue rows, PADDING or MASK.
        """
        raise NotImplementedError

    def training_pairs(self, rows: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets of a batch.

        Args:
            rows: int64 [B, T + 1], histories, right-padded.
            wanted: bool [B, T + 1], events that are to be targets (each event is in one window of a long history).

        Returns:
            Rows to read and, of the same shape, rows to predict there, PADDING where nothing is. The first B sequences
            end as the histories do; a backbone whose last state alone may be asked has more of them.
        """
        return rows[:, :-1], torch.where(wanted, rows, PADDING)[:, 1:]

    def question(self, rows: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Rows to read for what comes after histories [B, T] of `lengths` [B], and whose state [B] answers."""
        return rows, (lengths - 1).clamp(min=0)


class SequentialModel(nn.Module):
    """A table and a backbone of one width; raises InputError where the widths differ."""

    def __init__(self, items: ItemTable, backbone: Backbone) -> None:
        super().__init__()
        if items.width != backbone.config.width:
            raise InputError(f"{backbone.name} width {backbone.config.width}: the item table has {items.width}")
        self.items, self.backbone = items, backbone

    @property
    def config(self) -> Any:
        """The backbone's configuration."""
        return self.backbone.config

    @property
    def n_items(self) -> int:
        """N."""
        return self.items.n_items

    @property
    def item_vectors(self) -> Tensor:
        """The vectors [N, D] that items are ranked with."""
        return self.items.scores()

    def forward(self, rows: Tensor, read: Tensor | None = None) -> Tensor:
        """Hidden states [B, T, D] for rows [B, T]; `read` [N, D] spares a pass through the table."""
        vectors = self.items() if read is None else read
        x = F.embedding(rows.clamp(min=0), vectors) * (rows >= 0)[..., None]
        return self.backbone(x, rows)

    @torch.inference_mode()
    def frozen_vectors(self, cold: ColdItems | None = None) -> tuple[Tensor, Tensor, NDArray[np.bool_]]:
        """What a trained model reads and ranks with, [N, D] each, and the items that it can rank, bool [N].

        Cold items have vectors from their words; where the table knows none, they cannot be ranked.
        """
        with evaluating(self):
            read, rank = self.items().detach(), self.items.scores().detach()
            known = np.ones(self.n_items, dtype=np.bool_)
            if cold is None or len(cold.rows) == 0:
                return read, rank, known
            if type(self.items).from_text is ItemTable.from_text:
                known[cold.rows] = False
                return read, rank, known
            rows = torch.from_numpy(cold.rows).to(read.device)
            said = self.items.from_text(torch.from_numpy(cold.text).to(read.device))
            return read.index_copy(0, rows, said), rank.index_copy(0, rows, said), known

    def ranking_vectors(self, cold: ColdItems | None = None) -> NDArray[np.float32]:
        """The vectors float32 [N, D] that a trained model ranks with, cold items by their words."""
        return self.frozen_vectors(cold)[1].cpu().numpy().copy()

    def scorer(self, cold: ColdItems | None = None) -> Scorer:
        """A function from histories to scores float32 [B, N] by the present weights; the table is read once.

        An empty history scores every item 0; an item that cannot be ranked has -inf.
        """
        read, rank, known = self.frozen_vectors(cold)

        @torch.inference_mode()
        def score(histories: Sequences) -> Scores:
            scores: Scores = (self._asked(histories, read) @ rank.T).cpu().numpy()
            scores[histories.lengths == 0] = 0.0
            scores[:, ~known] = -np.inf
            return scores

        return score

    @torch.inference_mode()
    def hidden(self, histories: Sequences) -> Tensor:
        """The hidden states [B, D] whose products with the items' vectors are the scores; zeros after no history."""
        hidden = self._asked(histories, self.frozen_vectors()[0])
        hidden[torch.from_numpy(histories.lengths == 0).to(hidden.device)] = 0.0
        return hidden

    def _asked(self, histories: Sequences, read: Tensor) -> Tensor:
        """States [B, D] after histories, read with vectors [N, D]; after an empty one, what a backbone begins with."""
        recent = histories.last(self.config.max_items)
        hidden = torch.zeros(len(recent), read.shape[1], device=read.device)
        by_length = np.argsort(recent.lengths, kind="stable")  # so that little of what is read is padding
        for start in range(0, len(recent), _TOGETHER):
            part = by_length[start : start + _TOGETHER]
            hidden[part] = self._answers(recent.take(part), read)
        return hidden

    def _answers(self, histories: Sequences, read: Tensor) -> Tensor:
        """The hidden states [B, D] that are compared with items."""
        rows, lengths = padded_rows(histories).to(read.device), torch.from_numpy(histories.lengths).to(read.device)
        inputs, places = self.backbone.question(rows, lengths)
        with evaluating(self):
            states: Tensor = self(inputs, read)[torch.arange(len(inputs), device=read.device), places]
        return states

    def answers_within(self, rows: Tensor, sequences: Tensor, lengths: Tensor) -> Tensor:
        """States [M, D] that answer what follows the first `lengths` items of `sequences`.

        Args:
            rows: int64 [B, T], right-padded.
            sequences: int64 [M], of the B.
            lengths: int64 [M], from 1 to T.
        """
        if self.backbone.causal:
            states: Tensor = self(rows)[sequences, lengths - 1]
            return states
        before = torch.arange(rows.shape[1], device=rows.device) < lengths[:, None]
        inputs, places = self.backbone.question(torch.where(before, rows[sequences], PADDING), lengths)
        states = self(inputs)[torch.arange(len(inputs), device=rows.device), places]
        return states

    def score(self, histories: Sequences) -> Scores:
        """Scores float32 [B, N] of the next item; an empty history scores every item 0."""
        return self.scorer()(histories)

    def save(self, folder: Path) -> None:
        """Write the weights to NAME.safetensors and the shape to NAME.json, NAME the backbone's."""
        save_file(self.state_dict(), folder / f"{self.backbone.name}.safetensors")
        write_atomic(
            folder / f"{self.backbone.name}.json", to_json({"n_items": self.n_items, **asdict(self.backbone.config)})
        )

    def load_weights(self, folder: Path) -> None:
        """Take the weights that `save` wrote of a model of the same parts; raises InputError for others."""
        name = self.backbone.name
        self.load_state_dict(read_tensors(folder / f"{name}.safetensors", state_spec(self), f"weights of this {name}"))
        self.eval()


def read_shape(folder: Path, name: str, shape: type[Any]) -> tuple[int, Any]:
    """How many items a saved model knows, and the shape of its backbone; nothing is allocated yet.

    Raises:
        InputError: NAME.json or the weights beside it are missing or foreign, or the weights are too few for it.
    """
    path, weights = folder / f"{name}.json", folder / f"{name}.safetensors"
    facts = read_as(path, dict[str, Any])
    n_items, config = facts.pop("n_items", None), parse_as(json.dumps(facts), shape, f"{path}: not the shape of {name}")
    if not weights.is_file():
        raise InputError(f"{weights}: no such file")
    size = weights.stat().st_size  # one vector an item is the least, and a layer has more than one number
    if (
        type(n_items) is not int
        or not 0 <= n_items * config.width * 4 <= size
        or getattr(config, "layers", 1) * config.width > size
    ):
        raise InputError(f"{path}: not the shape of the {size:,} bytes of weights beside it")
    return n_items, config


def padded_rows(sequences: Sequences) -> Tensor:
    """Right-padded rows int64 [B, T], T at least 1."""
    lengths = sequences.lengths
    rows = np.full((len(sequences), max(1, int(lengths.max(initial=0)))), PADDING, dtype=np.int64)
    rows[np.arange(rows.shape[1]) < lengths[:, None]] = sequences.values
    return torch.from_numpy(rows)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Puts a module into evaluation mode, and back."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)
