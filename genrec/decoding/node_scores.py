"""`NodeScores`: constrained decoding in which every node of the code trie is scored by the items below it.

A softmax over the rows of a few hundred codes has no parameter and no feature of an item's own. So the children of the
node at hand are scored by the dense head's item vectors, and the softmax runs over the children that exist:

    q_l = Q h_0 + S_l h_l, S_0 = 0
    z(c | h_l) = log sum over the items i below c of exp(q_l . v_i)
    p(c | h_l) = exp z(c | h_l) / sum over the children c' of the node at hand of exp z(c' | h_l)

h_l is the hidden state after the history and the first l codes, v_i the dense head's vector of item i, and Q h_0 the
dense head's query, so that one product with all items serves both. The product over levels is a distribution over the
catalogue. Training begins with S_l = 0, where that is the dense head's softmax, and learns what the codes that were
generated add to it. v_i holds a vector of each of the item's codes, hence a code's own score too. Items added later
have vectors, so they can be generated without training.

Items below a node are a range of trie positions. On the first level that is the whole catalogue; further down only what
lies below the nodes that are asked about is read: nodes with many items by a product each, all others pair by pair.

Shapes: R rows (a hidden state and a node each), B users, K beams, N items, L levels, V_l codes on level l, H hidden
width of the LM, D width of the dense head.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from genrec.decoding.scorer import NextCodeScorer, State
from genrec.decoding.trie import CodeTrie
from genrec.ranking.dense_head import DenseHead
from genrec.semtok.arrays import Spec, read_tensors
from genrec.semtok.errors import InputError

FILE = "nodes.safetensors"
NO_CHILD = -1e4  # score of a code that leads nowhere, before the softmax: finite, and its probability is 0
# Scores of items held at once, and pairs of a row and an item from which a product of their own pays; below for a GPU,
# where a launch costs as much as many thousand pairs.
_CELLS, _PRODUCT = 2 << 20, 256
_CELLS_GPU, _PRODUCT_GPU = 128 << 20, 1 << 20
_LEAST = 1e-30  # a sum of exponentials that float32 still holds to all its digits


class _Below(NamedTuple):
    """What lies below the nodes of R rows.

    Attributes:
        codes: int64 [N], the code of the level that leads to each trie position.
        size: V_l.
        products: for nodes with many items, the rows [r] that ask about one and the range of its positions.
        pairs: rows and positions [P] of all other rows and the items below their nodes.
    """

    codes: Tensor
    size: int
    products: list[tuple[Tensor, slice]]
    pairs: tuple[Tensor, Tensor]


def _below(codes: Tensor, size: int, begin: Tensor, end: Tensor) -> _Below:
    """Plan for rows whose nodes hold the positions `begin` to `end` [R]."""
    order = begin.argsort()
    firsts, counts = begin[order].unique_consecutive(return_counts=True)
    stops = counts.cumsum(0)
    lasts = end[order[stops - 1]]
    on_cpu = begin.device.type == "cpu"
    large = counts * (lasts - firsts) >= (_PRODUCT if on_cpu else _PRODUCT_GPU)
    products = []
    for first, last, stop, count in torch.stack([firsts, lasts, stops, counts], dim=1)[large].tolist():
        rows = order[stop - count : stop].split(max(16, (_CELLS if on_cpu else _CELLS_GPU) // (last - first)))
        products += [(part, slice(first, last)) for part in rows]
    few = order[~large.repeat_interleave(counts)]
    widths = (end - begin)[few]
    owner = few.repeat_interleave(widths)
    place = torch.arange(len(owner), device=owner.device) - (widths.cumsum(0) - widths).repeat_interleave(widths)
    return _Below(codes, size, products, (owner, begin[owner] + place))


def _pair_chunks(pairs: tuple[Tensor, Tensor], width: int) -> Iterator[tuple[slice, Tensor, Tensor]]:
    most = max(1, (_CELLS if pairs[0].device.type == "cpu" else _CELLS_GPU) // width)
    for start in range(0, len(pairs[0]), most):
        chunk = slice(start, start + most)
        yield chunk, pairs[0][chunk], pairs[1][chunk]


def sums_below(x: Tensor, codes: Tensor, size: int, e: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of exponentials over the items of each code, of scores x [n, r], by a scale that keeps their digits.

    Items come first, so that the sums run along whole rows of memory.

    Args:
        e: [n, r], becomes exp(x - tops of the item's code).

    Returns:
        The sums [size, r], 0 where a code has no item, and tops [size, r].
    """
    top = x.amax(dim=0)
    torch.sub(x, top, out=e).exp_()
    total = x.new_zeros(size, x.shape[1]).index_add_(0, codes, e)
    there = torch.zeros(size, dtype=torch.bool, device=x.device).index_fill_(0, codes, True)
    if bool((total[there] < _LEAST).any()):  # far below the best of the others: each code by its own best
        top = x.new_full(total.shape, -torch.inf).scatter_reduce_(0, codes[:, None].expand_as(x), x, "amax")
        torch.sub(x, top[codes], out=e).exp_()
        total.zero_().index_add_(0, codes, e)
    return total, top.expand_as(total)


def _by_code(x: Tensor, codes: Tensor, size: int) -> Tensor:
    """log sum exp over the items of each code, [r, size], of scores [n, r]; -inf where a code has none."""
    total, top = sums_below(x, codes, size, torch.empty_like(x))
    return (total.log_() + top).T


class _LogSumExpBelow(torch.autograd.Function):
    """log sum exp of (query . item) over the items below each child: [R, V_l], `NO_CHILD` where no item is.

    Scores of items are made a block at a time, and again in the backward pass, so no more than a block is ever held.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, vectors: Tensor, below: _Below) -> Tensor:
        codes, size, products, pairs = below
        result = query.new_full((len(query), size), NO_CHILD)
        for rows, items in products:
            found = _by_code(vectors[items] @ query[rows].T, codes[items], size)
            result[rows] = found.masked_fill(found.isneginf(), NO_CHILD)
        if len(pairs[0]):
            x = torch.cat([(query[r] * vectors[i]).sum(1) for _, r, i in _pair_chunks(pairs, query.shape[1])])
            # items of one child lie together, so the sums are over runs of pairs and not over the cells of a table
            cells, run = (pairs[0] * size + codes[pairs[1]]).unique_consecutive(return_inverse=True)
            top = x.new_full((len(cells),), -torch.inf).scatter_reduce_(0, run, x, "amax")
            total = torch.zeros_like(top).scatter_add_(0, run, (x - top[run]).exp_())
            result.view(-1)[cells] = top + total.log_()
        ctx.save_for_backward(query, vectors, result)
        ctx.below = below
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, vectors, result = ctx.saved_tensors
        codes, size, products, pairs = ctx.below
        of_query, of_vectors = torch.zeros_like(query), torch.zeros_like(vectors)
        for rows, items in products:
            share = vectors[items] @ query[rows].T
            share = share.sub_(result[rows].T[codes[items]]).exp_().mul_(grads[0][rows].T[codes[items]])
            of_query.index_add_(0, rows, share.T @ vectors[items])
            of_vectors[items].addmm_(share, query[rows])
        for _, r, i in _pair_chunks(pairs, query.shape[1]):
            cell = r * size + codes[i]
            share = ((query[r] * vectors[i]).sum(1) - result.flatten()[cell]).exp_() * grads[0].flatten()[cell]
            of_query.index_add_(0, r, share[:, None] * vectors[i])
            of_vectors.index_add_(0, i, share[:, None] * query[r])
        return of_query, of_vectors, None


class NodeScores(nn.Module):
    """Scores of the children of trie nodes.

    Args:
        trie: of the catalogue.
        hidden_width: H.
        width: D.
    """

    order: Tensor
    position: Tensor
    codes: Tensor

    def __init__(self, trie: CodeTrie, hidden_width: int, width: int) -> None:
        super().__init__()
        self.sizes = trie.sizes
        self.steps = nn.ParameterList(nn.Parameter(torch.zeros(width, hidden_width)) for _ in self.sizes[1:])
        for name, value in _flat(trie).items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, query: Tensor, vectors: Tensor, level: int, nodes: Tensor) -> Tensor:
        """Log-probabilities [R, V_l] of the codes of `level`; about `NO_CHILD` where a code leads nowhere.

        Args:
            query: [R, D], q_l.
            vectors: [N, D], of items in trie order.
            nodes: int64 [R], nodes of depth `level`.
        """
        with torch.autocast(query.device.type, enabled=False):
            z: Tensor = _LogSumExpBelow.apply(query.float(), vectors.float(), self.below(level, nodes))
        return z.log_softmax(dim=1)

    def below(self, level: int, nodes: Tensor) -> _Below:
        """How to read the items below nodes [R] of depth `level`."""
        bounds = getattr(self, f"bounds_{level}")
        return _below(self.codes[level], self.sizes[level], bounds[nodes], bounds[nodes + 1])

    def query(self, level: int, first: Tensor, hidden: Tensor) -> Tensor:
        """q_l [..., D] of any level but the first, from the dense head's query [..., D] and h_l [..., H]."""
        step = self.steps[level - 1]
        return first + nn.functional.linear(hidden.to(step.dtype), step)

    def nodes(self, level: int, items: Tensor) -> Tensor:
        """The node of depth `level` above each item (catalogue rows), int64."""
        return torch.searchsorted(getattr(self, f"bounds_{level}"), self.position[items], right=True) - 1

    def child(self, level: int, nodes: Tensor, codes: Tensor) -> Tensor:
        """The nodes of depth `level` + 1 that codes of `level` lead to; any, where a code leads nowhere."""
        keys = getattr(self, f"keys_{level + 1}")
        return torch.searchsorted(keys, nodes * self.sizes[level] + codes).clamp_(max=len(keys) - 1)

    def save(self, folder: Path) -> None:
        """Write S_1, S_2, … (codes and item vectors live in their own files of the run)."""
        state = {name: value.contiguous() for name, value in self.state_dict().items()}
        save_file(state, folder / FILE)

    @classmethod
    def load(cls, folder: Path, trie: CodeTrie) -> NodeScores | None:
        """Read S_1, S_2, … for a catalogue that may have grown since; None where the model was trained without.

        Raises:
            InputError: made for other levels, or truncated.
        """
        file = folder / FILE
        if not file.is_file():
            return None
        spec: Spec = {f"steps.{level}": ("float", ("D", "H")) for level in range(len(trie.sizes) - 1)}
        state = read_tensors(file, spec, "node scores of these codes")
        width, hidden_width = next(iter(state.values())).shape if state else (1, 1)
        made = cls(trie, hidden_width, width)
        made.load_state_dict(state)
        return made.eval()


def _flat(trie: CodeTrie) -> dict[str, Tensor]:
    """The trie as int64 arrays.

    Returns:
        order and position: [N], as the trie's.
        codes: [L, N], of each trie position.
        bounds_l: [n_l + 1], where the nodes of depth l begin, for l below L.
        keys_l: [n_l], parent and code of each node of depth 0 < l < L in one number; they ascend.
    """
    flat = {"order": torch.from_numpy(trie.order).long(), "position": torch.from_numpy(trie.position).long()}
    begins, codes = torch.tensor([0, trie.n_items]), []
    for depth, level in enumerate(trie.levels):
        flat[f"bounds_{depth}"] = begins
        parents = torch.arange(len(begins) - 1).repeat_interleave(level.first_child.long().diff())
        begins = torch.arange(trie.n_items + 1) if level.first_item is None else level.first_item.long()
        codes.append(level.codes.long().repeat_interleave(begins.diff()))
        if level.first_item is not None:
            flat[f"keys_{depth + 1}"] = parents * trie.sizes[depth] + level.codes
    return {**flat, "codes": torch.stack(codes)}


@dataclass
class NodeState:
    """Where a search of B users stands.

    Attributes:
        log_probs: float32 [B, V_0], log-probabilities of the first code.
        hidden: float32 [B, H], the last hidden state of each prompt.
        query: [B, D], the dense head's.
        item_scores: float32 [N, B], the dense head's scores of all items, in trie order.
        inner: where the engine stands.
        nodes: int64 [B, K], the beams' nodes.
        level: their depth.
        below: float32 [B, K, V_l], log-probabilities of the nodes' next codes, with those of the nodes' own.
        fed: for each level but the first, nodes, their log-probabilities and their queries: [B, K], [B, K], [B, K, D].
    """

    log_probs: Tensor
    hidden: Tensor
    query: Tensor
    item_scores: Tensor
    inner: State
    nodes: Tensor
    below: Tensor
    level: int = 0
    beam_hidden: Tensor | None = None
    fed: tuple[tuple[Tensor, Tensor, Tensor], ...] = ()


class NodeScorer:
    """`NextCodeScorer` that reads an engine's hidden states with `NodeScores`.

    Args:
        scorer: the engine; its states have `hidden` and `beam_hidden`.
        nodes: on the device of the engine's hidden states, as is the head.
        head: the dense head, in evaluation mode.
    """

    def __init__(self, scorer: NextCodeScorer, nodes: NodeScores, head: DenseHead) -> None:
        self.scorer, self.nodes, self.head = scorer, nodes, head
        self.sizes = scorer.sizes
        with torch.inference_mode():
            self._vectors = head.item_matrix(nodes.order).float()

    @torch.inference_mode()
    def start(self, prompts: Sequence[Sequence[int]]) -> NodeState:
        """Read the prompts and score all items."""
        inner = self.scorer.start(prompts)
        if inner.hidden is None:
            raise InputError("node vectors need an engine that gives hidden states")
        query = self.head.query(inner.hidden)
        scores = self._vectors @ query.T
        log_probs = _by_code(scores, self.nodes.codes[0], self.sizes[0]).clamp_(min=NO_CHILD).log_softmax(dim=1)
        root = torch.zeros(len(prompts), 1, dtype=torch.long, device=scores.device)
        return NodeState(log_probs, inner.hidden, query, scores, inner, root, log_probs[:, None])

    @torch.inference_mode()
    def step(self, state: NodeState, parents: Tensor, codes: Tensor) -> Tensor:
        """Feed one code a beam; log-probabilities of the next level's codes, float32 [B, K, V_l]."""
        state.inner = copy.copy(state.inner)
        self.scorer.step(state.inner, parents, codes)
        state.nodes = self.nodes.child(state.level, state.nodes.gather(1, parents), codes)
        state.level += 1
        assert state.inner.beam_hidden is not None
        query = self.nodes.query(state.level, state.query[:, None], state.inner.beam_hidden)
        found: Tensor = self.nodes(query.flatten(0, 1), self._vectors, state.level, state.nodes.flatten())
        found = found.view(*codes.shape, -1)
        totals = state.below.flatten(1).gather(1, parents * state.below.shape[2] + codes)
        state.fed = (*state.fed, (state.nodes, totals, query))
        state.below = totals[..., None] + found
        return found

    @torch.inference_mode()
    def dense_log_probs(self, state: Any) -> Tensor:
        """Log-probabilities of the dense head over all items, [B, N] in catalogue order."""
        scores: Tensor = state.item_scores.log_softmax(dim=0)
        return scores[self.nodes.position].T.contiguous()

    @torch.inference_mode()
    def item_log_probs(self, state: Any) -> Tensor:
        """Log-probabilities of all items after a search, [B, N] in catalogue order; they add up to one.

        Of an item whose every prefix was fed, its codes'. Of any other, that of the codes c_1 .. c_m that were fed,
        and of the item below them by the last query:

            log p(c_1 .. c_m) + q_m . v_i - log sum over the items j below c_1 .. c_m of exp(q_m . v_j)
        """
        scores: Tensor = state.item_scores.log_softmax(dim=0)
        users = torch.arange(scores.shape[1], device=scores.device)
        for level, (nodes, totals, queries) in enumerate(state.fed, start=1):
            alive = totals.flatten() > NO_CHILD / 2  # a beam that is no longer followed may stand anywhere
            query, total = queries.flatten(0, 1)[alive], totals.flatten()[alive]
            user = users[:, None].expand_as(nodes).flatten()[alive]
            below = self.nodes.below(level, nodes.flatten()[alive])
            for rows, items in below.products:
                x = self._vectors[items] @ query[rows].T
                scores[items].index_copy_(1, user[rows], x.log_softmax(dim=0).add_(total[rows]))
            pairs = list(_pair_chunks(below.pairs, query.shape[1]))
            if pairs:
                x = torch.cat([(query[r] * self._vectors[i]).sum(1) for _, r, i in pairs])
                owner, position = below.pairs
                top = x.new_full((len(query),), -torch.inf).scatter_reduce_(0, owner, x, "amax")
                mass = torch.zeros_like(top).scatter_add_(0, owner, (x - top[owner]).exp())
                scores[position, user[owner]] = x - (top + mass.log_() - total)[owner]
        return scores[self.nodes.position].T.contiguous()
