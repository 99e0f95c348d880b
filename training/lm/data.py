"""Token rows for the language model: every item of a history is a target, and text tasks teach what codes mean.

A history row is the canonical prompt (`<history> a b c a b c …`): the loss falls on every code, so one pass over a
history of n items trains n next-item predictions where prefix expansion would take n passes. Rows are batched by length
under a budget of tokens, so padding is a few percent; rows never share attention, because each is a row of its own.

Shapes: B rows of a batch, T tokens of the longest, L levels, n items of a history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genrec.data.sequences import Sequences
from genrec.decoding.vocabulary import SidVocabulary
from genrec.training.loop.batching import windows

IGNORE = -100


@dataclass(frozen=True)
class Example:
    """One row of tokens.

    Attributes:
        tokens: int64 [T+1].
        labels: int64 [T]: what position t should predict, or IGNORE.
        items: int32 [T]: the catalogue row of the item that begins at t+1, or -1.
    """

    tokens: NDArray[np.int64]
    labels: NDArray[np.int64]
    items: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Batch:
    """Right-padded examples: `input_ids`, `labels`, `items`, each int64 [B, T]."""

    input_ids: Tensor
    labels: Tensor
    items: Tensor

    def to(self, device: torch.device) -> Batch:
        """The batch on another device."""
        return Batch(self.input_ids.to(device), self.labels.to(device), self.items.to(device))


def history_examples(
    histories: Sequences, codes: NDArray[np.int32], vocabulary: SidVocabulary, max_items: int
) -> list[Example]:
    """One example a history; one longer than `max_items` becomes windows in which each item is a target once."""
    examples = []
    n_levels = codes.shape[1]
    for history in histories:
        for start, first_target, end in windows(len(history), max_items):
            rows = history[start:end]
            tokens = np.concatenate(([vocabulary.history_token], vocabulary.encode(codes[rows]).ravel()))
            labels, items = tokens[1:].copy(), np.full(len(tokens) - 1, -1, dtype=np.int32)
            items[::n_levels] = rows
            context = (first_target - start) * n_levels
            labels[:context], items[:context] = IGNORE, -1
            examples.append(Example(tokens, labels, items))
    return examples


def response_example(prompt: Sequence[int], response: Sequence[int]) -> Example:
    """A text task: the loss falls on the response only."""
    tokens = np.array([*prompt, *response], dtype=np.int64)
    labels = tokens[1:].copy()
    labels[: len(prompt) - 1] = IGNORE
    return Example(tokens, labels, np.full(len(labels), -1, dtype=np.int32))


def collate(examples: Sequence[Example]) -> Batch:
    """Pad on the right to the longest; never attended to under a causal mask and without a label, any id will do."""
    longest = max(len(example) for example in examples)
    input_ids = np.zeros((len(examples), longest), dtype=np.int64)
    labels = np.full((len(examples), longest), IGNORE, dtype=np.int64)
    items = np.full((len(examples), longest), -1, dtype=np.int64)
    for row, example in enumerate(examples):
        input_ids[row, : len(example)] = example.tokens[:-1]
        labels[row, : len(example)] = example.labels
        items[row, : len(example)] = example.items
    return Batch(torch.from_numpy(input_ids), torch.from_numpy(labels), torch.from_numpy(items))
