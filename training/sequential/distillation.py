"""Self-distillation by similar users, for users with short histories (LLM-ESR, Liu et al., NeurIPS 2024, arXiv
2405.20646, section 3.4).

    loss = w mean_u | h_u - stop(mean of h_v over the users v whose histories say the most alike) |^2 / D

h is the hidden state that a model compares with items, before the last item of a training history; users are alike by
the cosine of their histories' mean text vectors. Any table and any backbone can be trained with it.

The authors run the backbone over the ten neighbours of every user of a batch, in each step. Here the states of all
users are read once, when an epoch begins: a pass without gradients, in place of ten a step, and teachers that are at
most an epoch old. So nobody teaches in the first epoch, before which the model has learned nothing. As published all
users are taught; those with short histories have the most to learn.

Shapes: U users, B users of a batch, K teachers of a user, D width, N items, D_t width of the text.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array
from torch import Tensor
from torch.nn import functional as F

from genrec.data.sequences import Sequences
from genrec.semtok.aligners.graphs import nearest_others
from genrec.sequential.base import SequentialModel

_COMPARED = 32_768  # users of whom each is compared with each; of more, so many drawn by seed at a time


class SelfDistillation:
    """Who teaches whom, and what they say in this epoch.

    Args:
        histories: U training histories.
        text: [N, D_t].
        weight: w.
        users: K.
        seed: draws the users that are compared with each other where there are many.
    """

    def __init__(self, histories: Sequences, text: NDArray[np.float32], weight: float, users: int, seed: int) -> None:
        self._weight, self._states = weight, torch.zeros(0)
        self._asked = Sequences.from_lists([row[:-1] for row in histories])
        self._teachers = teachers(histories, text, users, seed)
        self._taught = torch.from_numpy(np.diff(self._teachers.indptr) > 0)

    def begin(self, model: SequentialModel, epoch: int) -> None:
        """Read the states of all users, with the weights of this moment; after no epoch there is nothing to read."""
        if epoch:
            states = model.hidden(self._asked)
            self._states = torch.from_numpy(self._teachers @ states.cpu().numpy()).to(states.device)
            self._taught = self._taught.to(states.device)

    def loss(self, states: Tensor, users: Tensor) -> Tensor:
        """What is added to the objective.

        Args:
            states: [B, D], of users as the batch has them, with gradient.
            users: int64 [B], rows of the histories; -1 for none.

        Returns:
            A scalar.
        """
        known = users >= 0
        states, users = states[known], users[known]
        if not len(self._states) or not (taught := self._taught[users]).any():
            return states.new_zeros(())
        return self._weight * F.mse_loss(states[taught], self._states[users[taught]])


def teachers(histories: Sequences, text: NDArray[np.float32], k: int, seed: int) -> csr_array:
    """The at most k users whose histories have the nearest mean text vectors, as rows of means: float32 [U, U].

    A row has 1 / (its number of teachers) for each. Users with fewer than two items, of whom nothing is asked in
    training, neither teach nor are taught.

    Args:
        histories: U.
        text: [N, D_t].
        seed: draws the groups in which users are compared where there are many.
    """
    n_users, events = len(histories), histories.lengths
    people = np.repeat(np.arange(n_users), events)
    taken = csr_array((np.ones(len(people), dtype=np.float32), (people, histories.values)), (n_users, len(text)))
    means = np.asarray(taken @ text, dtype=np.float32)  # of unit length below, so that sums say what means do
    asked = np.random.default_rng(seed).permutation(np.flatnonzero(events > 1))
    rows, columns = [], []
    for group in np.array_split(asked, max(1, -(-len(asked) // _COMPARED))):
        group = np.sort(group)
        found = nearest_others(means[group], k).tocoo()
        rows.append(group[found.row])
        columns.append(group[found.col])
    pairs = np.concatenate(rows), np.concatenate(columns)
    chosen = csr_array((np.ones(len(pairs[0]), dtype=np.float32), pairs), (n_users, n_users))
    number = np.maximum(np.diff(chosen.indptr), 1).astype(np.float32)
    return csr_array(diags_array(1 / number) @ chosen, dtype=np.float32)
