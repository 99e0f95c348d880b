"""Beam search over the code trie, written once for every scorer, and the exact scores that it approximates.

The score of an item is the model's own log-probability of its codes, the sum over levels. It is not renormalised over
the children of a node: that "the result is an item" is one constant for all items, while renormalising at every node
favours thin branches.

Shapes: B users, K beams, L levels, V_l codes on level l, W most children of a live node, N items, k items asked for.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genrec.decoding.filters import FilterBatch, ItemFilter
from genrec.decoding.scorer import NextCodeScorer
from genrec.decoding.trie import CodeTrie, TrieLevel
from genrec.semtok.errors import InputError


class BeamResult(NamedTuple):
    """Ranked lists.

    Attributes:
        rows: int32 [B, k], catalogue rows, best first; -1 pads a list at its end.
        scores: float32 [B, k], log-probabilities; -inf where `rows` is -1.
    """

    rows: NDArray[np.int32]
    scores: NDArray[np.float32]


def batches(lengths: Sequence[int], most: int) -> list[NDArray[np.int64]]:
    """Group what is of like length: index arrays whose padded size is at most `most` (or one index)."""
    order = np.argsort(np.array(lengths, dtype=np.int64), kind="stable")
    groups: list[NDArray[np.int64]] = []
    begin = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or (end + 1 - begin) * lengths[order[end]] > most:
            groups.append(order[begin:end])
            begin = end
    return groups


def beam_search(
    scorer: NextCodeScorer,
    trie: CodeTrie,
    prompts: Sequence[Sequence[int]],
    *,
    beams: int,
    k: int,
    filters: Sequence[ItemFilter] | None = None,
) -> BeamResult:
    """The k best allowed items of each user among those that a beam search meets.

    On every level the `beams` best prefixes that lead to an allowed item are kept. A list is as long as it can be:
    where the kept prefixes lead to fewer than k allowed items (only possible for k > beams), the next best prefixes
    are kept too until they do. Ties go to the lower trie position. A user's list does not depend on the batch
    but for rounding in the model.

    Args:
        scorer: gives log-probabilities of codes.
        trie: the items.
        prompts: LM token ids, one list a user; one user at least.
        beams: prefixes kept on each level.
        k: items wanted.
        filters: one a user, over the same trie; None allows all items.

    Raises:
        InputError: `beams` or `k` below 1, or a model whose scores are NaN.
    """
    for name, value in (("beams", beams), ("k", k)):
        if value < 1:
            raise InputError(f"{name} must be at least 1, not {value}")
    if trie.sizes != tuple(scorer.sizes):
        raise ValueError(f"the trie has codes {trie.sizes} but the scorer {tuple(scorer.sizes)}")
    if filters is not None and len(filters) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts but {len(filters)} filters")
    if filters is not None and any(each.trie is not trie for each in filters):
        raise ValueError("a filter was made over another trie")
    rows = np.full((len(prompts), k), -1, dtype=np.int32)
    scores = np.full((len(prompts), k), -np.inf, dtype=np.float32)
    items, best = search(scorer, scorer.start(prompts), trie, beams, k, filters)
    rows[:, : items.shape[1]] = np.where(best.isneginf(), -1, trie.order[items])
    scores[:, : items.shape[1]] = best
    return BeamResult(rows, scores)


@torch.no_grad()
def search(
    scorer: NextCodeScorer,
    state: Any,
    trie: CodeTrie,
    beams: int,
    k: int,
    filters: Sequence[ItemFilter] | None,
    kept: list[Tensor] | None = None,
) -> tuple[NDArray[np.int64], Tensor]:
    """`beam_search` of one batch, from the state that `scorer.start` gave.

    Args:
        kept: gets, for every level but the last, the nodes [B, K] that the beams stand on; -1 where there is none.

    Returns:
        Trie positions and scores [B, up to k] on the CPU, best first, -inf where there is none.
    """
    # The beams of a user stay in trie order, so of equal scores the one that comes first is at the lower position.
    log_probs: Tensor = state.log_probs[:, None]
    n_users, device = len(log_probs), log_probs.device
    allowed = None if filters is None else FilterBatch(filters, device)
    nodes = torch.zeros(n_users, 1, dtype=torch.long, device=device)
    totals = torch.zeros(n_users, 1, device=device)
    for depth, level in enumerate(trie.levels_on(device)):
        last = depth == trie.n_levels - 1
        scores, bounds = _extend(level, nodes, totals, log_probs)
        held = bounds.diff() if allowed is None else allowed.count(level, nodes, totals, bounds)
        scores.masked_fill_(held == 0, -torch.inf)
        picked, totals = best_columns(scores.flatten(1), k if last else max(beams, k))
        if bool(totals.isnan().any()):
            raise InputError(
                "the model's scores are not numbers: its training diverged; lower --lm.learning_rate or"
                " --lm.head_learning_rate"
            )
        if not last and k > beams:
            totals = _narrow(totals, held.flatten(1).gather(1, picked), beams, k)
        picked, totals = _live_first(picked, totals)
        parents = picked // scores.shape[2]
        # `bounds` has one column more than `scores`, so a beam's cells lie `parent` places further.
        nodes = level.child_of(bounds.flatten(1).gather(1, picked + parents)).clamp_(max=len(level.codes) - 1)
        if kept is not None and not last:
            kept.append(nodes.masked_fill(totals.isneginf(), -1).cpu())
        if not last:
            log_probs = scorer.step(state, parents, level.code(nodes))
    best = torch.sort(totals, dim=1, descending=True, stable=True)
    return nodes.gather(1, best.indices).cpu().numpy(), best.values.cpu()


def _extend(level: TrieLevel, nodes: Tensor, totals: Tensor, log_probs: Tensor) -> tuple[Tensor, Tensor]:
    """The children of each beam: scores [B, K, W], and [B, K, W + 1] trie positions between which their items lie.

    A place with no child has no items. W is V_l where the level has a table, else the children of the widest node.
    """
    if level.table is not None:
        return totals[..., None] + log_probs, level.table[nodes]
    first, count = level.children(nodes)
    slot = torch.arange(int(count.max()) + 1, dtype=torch.int32, device=nodes.device)
    children = first[..., None] + torch.minimum(slot, count[..., None])
    return totals[..., None] + log_probs.gather(2, level.code(children[..., :-1])), level.bounds(children)


def best_columns(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Indices (ascending) and values of the `k` best of each row of [B, M]; of equal scores the first count."""
    n = scores.shape[1]
    k = min(k, n)
    best = scores.topk(min(k + 1, n), dim=1)
    index = best.indices[:, :k]
    if k < n:
        least = best.values[:, k - 1]
        tied = (least == best.values[:, k]).nonzero()[:, 0]  # with one that is left out
        if len(tied):
            level, below = scores[tied] == least[tied, None], scores[tied] < least[tied, None]
            above = ~(level | below)
            kept = above | (level & (level.cumsum(1, dtype=torch.int32) <= k - above.sum(1, keepdim=True)))
            index[tied] = kept.nonzero()[:, 1].view(len(tied), k)
    index = index.sort(dim=1).values
    return index, scores.gather(1, index)


def _narrow(totals: Tensor, held: Tensor, beams: int, k: int) -> Tensor:
    """Totals without the beams after the best `beams`, unless those before them hold fewer than k items."""
    order = torch.sort(totals, dim=1, descending=True, stable=True).indices
    items_before = held.gather(1, order).cumsum(1) - held.gather(1, order)
    rank = torch.arange(order.shape[1], device=order.device)
    dropped = torch.zeros_like(order, dtype=torch.bool).scatter(1, order, (rank >= beams) & (items_before >= k))
    return totals.masked_fill(dropped, -torch.inf)


def _live_first(picked: Tensor, totals: Tensor) -> tuple[Tensor, Tensor]:
    """Cut the columns that no user needs, keeping the order of the beams that live."""
    dead = totals.isneginf()
    n_live = int((~dead).sum(1).max())
    if n_live == totals.shape[1]:
        return picked, totals
    order = torch.sort(dead, dim=1, stable=True).indices[:, : max(n_live, 1)]
    return picked.gather(1, order), totals.gather(1, order)


@torch.no_grad()
def score_all(
    scorer: NextCodeScorer, trie: CodeTrie, prompts: Sequence[Sequence[int]], *, max_nodes: int = 512
) -> NDArray[np.float32]:
    """The log-probability of every item for every user, exactly: float32 [B, N], catalogue order.

    Every node of the trie is fed once a user: subtrees of first codes are taken together as long as no level of them
    is wider than `max_nodes`. For small catalogues; the oracle of the beam search.
    """
    fresh = scorer.start(prompts)
    levels = trie.levels_on(fresh.log_probs.device)
    root, device = fresh.log_probs, fresh.log_probs.device
    result = torch.empty(len(prompts), trie.n_items, device=device)
    for begin, end in _subtrees(trie, max_nodes):
        state = copy.copy(fresh)
        nodes = torch.arange(begin, end, device=device)
        codes, parents = levels[0].code(nodes), torch.zeros_like(nodes)
        totals = root[:, codes]
        for level in levels[1:]:
            log_probs = scorer.step(state, parents.expand(len(prompts), -1), codes.expand(len(prompts), -1))
            first, n_children = level.children(nodes)
            parents = torch.repeat_interleave(torch.arange(len(nodes), device=device), n_children)
            nodes = torch.arange(int(first[0]), int(first[-1] + n_children[-1]), device=device)
            codes = level.code(nodes)
            totals = totals[:, parents] + log_probs[:, parents, codes]
        result[:, nodes] = totals
    return result.cpu().numpy()[:, trie.position]


def _subtrees(trie: CodeTrie, max_nodes: int) -> list[tuple[int, int]]:
    """Ranges of depth-1 nodes whose descendants above the items are at most `max_nodes` a level (or one node)."""
    ends = np.arange(len(trie.levels[0].codes) + 1)
    per_depth = [ends]
    for level in trie.levels[1:-1]:
        ends = level.first_child.numpy()[ends]
        per_depth.append(ends)
    ranges, begin = [], 0
    n_first = len(trie.levels[0].codes)
    for end in range(1, n_first + 1):
        if end == n_first or any(bounds[end + 1] - bounds[begin] > max_nodes for bounds in per_depth):
            ranges.append((begin, end))
            begin = end
    return ranges
