"""Exact search by a fused score: the best items of log p(codes) and of what other scorers say of every item.

    score(i) = w_i log p(codes of i) + s_i

s_i is known of all items, log p(codes) costs a pass of the language model for every prefix. What a prefix with the
probability p can still lead to is bounded, because no further code raises its probability:

    bound(prefix) = max over the items i below it of w_i log p + s_i

So a beam that is ordered by bounds comes first. The k-th best score that it finds is what an item has to reach; where
every prefix that it left has a bound below that, the k best items are found. For the other users a second walk keeps
every prefix whose bound reaches it, which is exact whatever the beam's width: branch and bound (Land and Doig 1960).

Shapes: B users, K prefixes kept, W most children of one of them, N items, n_l nodes of depth l, k items asked for.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from genrec.decoding.beam import batches
from genrec.decoding.scorer import NextCodeScorer, State
from genrec.decoding.trie import CodeTrie, TrieLevel

_ROWS = 4096  # prefixes that the second walk feeds at once


class _Bounds(NamedTuple):
    """What a prefix can still lead to, by the items that weigh its codes alike.

    Attributes:
        weights: of log p(codes), one a class of items.
        below: for each class and depth, the largest s_i below each node, [B, n_l]; -inf where there is no such item.
    """

    weights: list[float]
    below: list[list[Tensor]]

    def of(self, depth: int, totals: Tensor, children: Tensor) -> Tensor:
        """Bounds [B, K, W] of children with the log-probabilities `totals`; of items, their scores."""
        place = children.flatten(1)
        found = [
            weight * totals + below[depth].gather(1, place).view(totals.shape)
            for weight, below in zip(self.weights, self.below, strict=True)
        ]
        return torch.stack(found).amax(dim=0) if len(found) > 1 else found[0]

    def take(self, users: Tensor) -> _Bounds:
        """Those of some users."""
        return _Bounds(self.weights, [[of_depth[users] for of_depth in below] for below in self.below])


class _Found(NamedTuple):
    """The last level of a walk: trie positions [B, M], scores [B, M], and the best bound that was left out [B]."""

    positions: Tensor
    scores: Tensor
    left: Tensor


@torch.inference_mode()
def fused_search(
    scorer: NextCodeScorer,
    prompts: Sequence[Sequence[int]],
    state: State,
    trie: CodeTrie,
    weights: Tensor,
    others: Tensor,
    *,
    beams: int,
    k: int,
) -> Tensor:
    """Fused scores of the items that can be among a user's best k, float32 [B, N] on the CPU; -inf for all others.

    Args:
        prompts: LM token ids, one list a user.
        state: what `scorer.start(prompts)` gave, before any step.
        weights: [N], w_i of the catalogue's items, none negative.
        others: [B, N], s_i; -inf where a filter forbids.
        beams: prefixes kept on each level by the first walk; more of them find a second one unneeded more often.
        k: items wanted.
    """
    device = state.log_probs.device
    order = torch.from_numpy(trie.order).long()
    bounds = _bounds(trie, weights[order].to(device), others[:, order].to(device))
    found = _walk(scorer, copy.copy(state), trie, bounds, max(beams, k))
    scores = torch.full_like(others, -torch.inf)
    _put(scores, order, torch.arange(len(prompts)), found)
    reached = found.scores.topk(k, dim=1).values[:, -1] if found.scores.shape[1] >= k else found.left.new_tensor(-1e30)
    reached = reached.expand(len(prompts)).clamp(min=-1e30)
    again = ((found.left >= reached) & ~found.left.isneginf()).nonzero()[:, 0]
    firsts = _Children.of(trie, bounds, 0, *_Prefixes.root(state)).bounds  # by which a user's second walk is foreseen
    for part in batches((firsts[again] >= reached[again, None]).sum(1).tolist(), _ROWS):
        users = again[torch.from_numpy(part)]
        began = scorer.start([prompts[user] for user in users.tolist()])
        for found in _walk_all(scorer, began, trie, bounds.take(users), reached[users], _Prefixes.root(began)):
            _put(scores, order, users.cpu(), found)
    return scores


def _bounds(trie: CodeTrie, weights: Tensor, others: Tensor) -> _Bounds:
    """Of items in trie order."""
    levels, positions = trie.levels_on(others.device), torch.arange(trie.n_items, dtype=torch.int32)
    kinds, below = weights.unique().tolist(), []
    for kind in kinds:
        own = others.masked_fill(weights != kind, -torch.inf) if len(kinds) > 1 else others
        depths = []
        for level in levels[:-1]:
            node = level.child_of(positions.to(others.device)).expand(len(others), -1)
            nothing = own.new_full((len(own), len(level.codes)), -torch.inf)
            depths.append(nothing.scatter_reduce_(1, node, own, "amax"))
        below.append([*depths, own])
    return _Bounds(kinds, below)


class _Children(NamedTuple):
    """Children of prefixes, [B, K W] each: their trie nodes, log-probabilities and bounds; -inf where there is none.

    Those of prefix p begin at p * `width`.
    """

    nodes: Tensor
    totals: Tensor
    bounds: Tensor
    width: int

    @classmethod
    def of(
        cls, trie: CodeTrie, bounds: _Bounds, depth: int, nodes: Tensor, totals: Tensor, log_probs: Tensor
    ) -> _Children:
        """Of nodes [B, K] of a depth; `totals` [B, K] led there, and `log_probs` [B, K, V] lead on."""
        level = trie.levels_on(log_probs.device)[depth]
        first, count = level.children(nodes)
        slot = torch.arange(int(count.max()), dtype=torch.int32, device=nodes.device)
        children = (first[..., None] + torch.minimum(slot, count[..., None] - 1)).long()
        reached = totals[..., None] + log_probs.gather(2, level.code(children))
        found = bounds.of(depth, reached, children).masked_fill_(slot >= count[..., None], -torch.inf)
        return cls(children.flatten(1), reached.flatten(1), found.flatten(1), children.shape[2])

    def feed(self, scorer: NextCodeScorer, state: State, level: TrieLevel, picked: Tensor) -> _Prefixes:
        """Some of them, by their places [B, K'], as prefixes that the model has read."""
        nodes, totals = self.nodes.gather(1, picked), self.totals.gather(1, picked)
        return _Prefixes(nodes, totals, scorer.step(state, picked // self.width, level.code(nodes)))


class _Prefixes(NamedTuple):
    """What was fed: trie nodes and log-probabilities [B, K], and those of the codes that come next [B, K, V]."""

    nodes: Tensor
    totals: Tensor
    log_probs: Tensor

    @classmethod
    def root(cls, state: State) -> _Prefixes:
        """The empty prefix of each user."""
        log_probs = state.log_probs[:, None]
        nodes = torch.zeros(len(log_probs), 1, dtype=torch.long, device=log_probs.device)
        return cls(nodes, torch.zeros(nodes.shape, device=log_probs.device), log_probs)


def _walk(scorer: NextCodeScorer, state: State, trie: CodeTrie, bounds: _Bounds, width: int) -> _Found:
    """From the root to the items, keeping the prefixes with the `width` best bounds on each level."""
    prefixes = _Prefixes.root(state)
    left = prefixes.totals.new_full((len(prefixes.totals),), -torch.inf)
    for depth, level in enumerate(trie.levels_on(left.device)):
        children = _Children.of(trie, bounds, depth, *prefixes)
        if depth == trie.n_levels - 1:
            break
        best = children.bounds.topk(min(width + 1, children.bounds.shape[1]), dim=1)
        if best.values.shape[1] > width:
            left = torch.maximum(left, best.values[:, width])
        prefixes = children.feed(scorer, state, level, best.indices[:, :width])
    return _Found(children.nodes, children.bounds, left)


def _walk_all(
    scorer: NextCodeScorer,
    state: State,
    trie: CodeTrie,
    bounds: _Bounds,
    reached: Tensor,
    prefixes: _Prefixes,
    depth: int = 0,
) -> Iterator[_Found]:
    """All items below prefixes of a depth, as far as bounds reach what an item has to, [B].

    Depth first, so many prefixes at a time that `_ROWS` are fed: a user for whom nearly all of a large catalogue is
    possible costs time and no more memory than others.
    """
    children = _Children.of(trie, bounds, depth, *prefixes)
    if depth == trie.n_levels - 1:
        yield _Found(children.nodes, children.bounds, reached)
        return
    level = trie.levels_on(reached.device)[depth]
    many = max(1, int((children.bounds >= reached[:, None]).sum(1).max()))
    for picked in children.bounds.topk(many, dim=1).indices.split(max(1, _ROWS // len(reached)), dim=1):
        fed = copy.copy(state)
        read = children.feed(scorer, fed, level, picked)
        yield from _walk_all(scorer, fed, trie, bounds, reached, read, depth + 1)


def _put(scores: Tensor, order: Tensor, users: Tensor, found: _Found) -> None:
    """Write the scores of a walk's items into [B, N], catalogue order; a place beyond a node's children says -inf."""
    rows, values = order[found.positions.cpu()], found.scores.cpu()
    of_users = scores[users].scatter_reduce_(1, rows, values, "amax")
    scores[users] = of_users
