"""`Teacher`: next-item probabilities of the recommender of the run's aligner, as soft targets of the LM.

A history says which item came next; a trained recommender says which others could have. Distillation (Hinton et al.
2015, arXiv 1503.02531) mixes both, here for the dense head and, through the trie, for the codes of every level:

    t(i)           = (1 - s) [i = y] + s p(i | h)                                   of items
    t(c_l | c_<l)  = (1 - s) [c_l = c_l(y)] + s p(items below c_<l c_l) / p(items below c_<l)      of codes

with y the item that came, c_<l its first codes, and p the teacher's softmax over the catalogue. Items below a node of
the trie stand side by side in its order, so all these sums are differences of one running sum.

Shapes: M targets of a batch, N items, C items seen in training, V_l codes on level l, D width of the teacher.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from genrec.decoding.item_input import SpelledItems
from genrec.decoding.trie import CodeTrie, TrieLevel
from genrec.sequential.base import SequentialModel
from genrec.training.lm.data import Batch
from genrec.training.loop.losses import SoftTargets, chunk_rows

LEAST_MASS = 1e-4  # of the items below a prefix; what is left of a running sum of less is rounding


@dataclass(frozen=True)
class TeacherTargets:
    """Soft targets for the M targets of a batch, in the order of `batch.items`.

    Attributes:
        items: over the items seen in training; the share is 0 where the teacher has no history to read.
        positions: the same over all items, in the order of the trie.
        codes: for each level [M, V_l], s times (teacher probability less the one-hot target): what a one-hot target
            lacks.
    """

    items: SoftTargets
    positions: SoftTargets
    codes: tuple[Tensor, ...]


class Teacher(nn.Module):
    """A frozen recommender that is asked about histories spelled in codes.

    Args:
        model: of any backbone; one that is not causal reads a history once for each of its items.
        spelled: finds items among tokens.
        trie: of the catalogue.
        codes: int [N, L] semantic IDs by catalogue row.
        seen: int64 [C], rows of the items seen in training.
        share: s.
    """

    vectors: Tensor
    sorted_vectors: Tensor
    position: Tensor
    codes: Tensor

    def __init__(
        self, model: SequentialModel, spelled: SpelledItems, trie: CodeTrie, codes: Tensor, seen: Tensor, share: float
    ) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)  # the caller's stays where it is, on its device
        self.spelled, self.trie, self.share = spelled, trie, share
        vectors = model.item_vectors.detach()
        for name, value in {
            "vectors": vectors[seen],
            "sorted_vectors": vectors[torch.from_numpy(trie.order).long()],
            "position": torch.from_numpy(trie.position).long(),
            "codes": codes.long(),
        }.items():
            self.register_buffer(name, value, persistent=False)
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, batch: Batch) -> TeacherTargets | None:
        """The targets of a batch, or None where it holds no histories."""
        n_levels = len(self.trie.sizes)
        rows, places = (batch.items >= 0).nonzero(as_tuple=True)
        longest = min(int(self.model.config.max_items), (batch.input_ids.shape[1] - 1) // n_levels)
        if len(rows) == 0 or longest == 0:
            return None
        is_history = (batch.items >= 0).any(dim=1)
        histories = self.spelled.rows(batch.input_ids[is_history])[:, n_levels::n_levels][:, :longest]
        before = places // n_levels  # items that stand before the target
        known = (before >= 1) & (before <= longest)
        states = self.model.answers_within(histories, is_history.cumsum(0)[rows] - 1, before.clamp(1, longest))
        shares = self.share * known.to(states.dtype)
        return TeacherTargets(
            items=SoftTargets(states, self.vectors, shares),
            positions=SoftTargets(states, self.sorted_vectors, shares),
            codes=self._codes(states, batch.items[rows, places], shares),
        )

    def _codes(self, states: Tensor, targets: Tensor, shares: Tensor) -> tuple[Tensor, ...]:
        chunk = chunk_rows(states.device, self.trie.n_items)
        parts = [
            self._codes_of(states[i : i + chunk], targets[i : i + chunk], shares[i : i + chunk])
            for i in range(0, len(states), chunk)
        ]
        return tuple(torch.cat(levels) for levels in zip(*parts, strict=True))

    def _codes_of(self, states: Tensor, targets: Tensor, shares: Tensor) -> list[Tensor]:
        probabilities = (states @ self.sorted_vectors.T).softmax(dim=1)
        below = nn.functional.pad(probabilities.cumsum(dim=1), (1, 0))  # [M, N + 1]: mass before a position
        position = self.position[targets].int()
        node = torch.zeros_like(position)
        found = []
        for number, level in enumerate(self.trie.levels_on(states.device)):
            mass = _mass_of_codes(below, node, level, self.trie.sizes[number])
            whole = mass.sum(dim=1, keepdim=True)
            own = nn.functional.one_hot(self.codes[targets, number], self.trie.sizes[number])
            share = torch.where(whole > LEAST_MASS, shares[:, None], 0.0)
            found.append(share * (mass / whole.clamp(min=LEAST_MASS) - own))
            node = level.child_of(position)
        return found


def _mass_of_codes(below: Tensor, node: Tensor, level: TrieLevel, size: int) -> Tensor:
    """Mass of the items below each child of the nodes [M], by the child's code: [M, V_l]."""
    first, count = level.children(node)
    child = first[:, None] + torch.arange(int(count.max()) + 1, device=node.device)
    child = torch.minimum(child, (first + count)[:, None])  # of nodes with fewer children, the end once more: no mass
    mass = below.gather(1, level.bounds(child).long()).diff(dim=1)
    return mass.new_zeros(len(node), size).scatter_add_(1, level.code(child[:, :-1]), mass)
