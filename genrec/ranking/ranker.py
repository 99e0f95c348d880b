"""`Ranker`: histories in, ranked items out, by the codes' beam, the dense head, and what else a run can say of items.

    beam     the LM's own log-probability of an item's codes, for the items that beam search meets
    rerank   the same candidates, ordered by the dense head
    dense    the dense head over every allowed item
    fused    (1 - u) ((1 - s) ((1 - w) log p_codes + w log p_dense) + s log p_sequential) + u log p_cooccurrence, over
             every allowed item; for a cold-start item co-occurrence takes the others' score

The fused list is exact: its search goes on until no prefix that it left can lead to a better item
(`genrec.decoding.fused_search`). Only where many weights are compared by one search, to choose among them, an item that
the beam did not retrieve has an estimate: with node vectors what the nodes that were searched say of it
(`NodeScorer.item_log_probs`), without just below the last item that was retrieved.

Where a catalogue is large, `use_candidates` makes `dense` and `fused` approximate: their list is then the exact one of
candidates that the scorers propose (`genrec.ranking.candidates`), and may miss an item. What a filter forbids is in no
list, and where candidates do not fill one it is made exactly. `fused_lists`, by which runs are evaluated, is exact.

Each part is a component scorer; the weights w, s and u of their fusion are chosen on validation, and a scorer of
weight 0 isn't asked. The sequential one is the recommender that the run's aligner was trained with
(`genrec.sequential.frozen`); without a trained aligner there is none. Co-occurrence is counted
(`genrec.ranking.cooccurrence`).

Shapes: B users, K beams, k items asked for, N items, H hidden width, M items that the beam retrieved.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genrec.data.sequences import Sequences
from genrec.decoding.beam import batches, search
from genrec.decoding.filters import ItemFilter
from genrec.decoding.fused_search import fused_search
from genrec.decoding.node_scores import NodeScorer
from genrec.decoding.scorer import NextCodeScorer, State
from genrec.decoding.trie import CodeTrie
from genrec.decoding.vocabulary import SidVocabulary
from genrec.ranking.candidates import TOGETHER, CandidateSearch, reads_all
from genrec.ranking.config import FusionWeights, Ranking, RankingConfig
from genrec.ranking.cooccurrence import Cooccurrence
from genrec.ranking.dense_head import DenseHead
from genrec.recommendations import RankedRows
from genrec.semtok.errors import InputError
from genrec.sequential.base import SequentialModel
from genrec.sequential.frozen import log_probability

_DENSE_CELLS = 1 << 24  # items scored at once for all users of a batch: 64 MiB a scorer


@dataclass(frozen=True)
class ComponentScores:
    """What component scorers say of every item; None: not asked, or not there.

    Attributes:
        start: where the model stands after the prompts, before any code.
        retrieved: [B, M] rows of the items that the beam retrieved, best first; -1 after the last.
        codes: [B, N] log-probabilities of codes.
        dense: [B, N] log-probabilities of the dense head.
        cooccurrence: [B, N] log-probabilities of co-occurrence, NaN for items without counts.
        sequential: [B, N] log-probabilities of the aligner's recommender.
        forbidden: [B, N], -inf where a filter forbids, else 0.
    """

    start: State | None
    retrieved: Tensor | None
    codes: Tensor | None
    dense: Tensor | None
    cooccurrence: Tensor | None
    sequential: Tensor | None
    forbidden: Tensor

    def best(self, weights: FusionWeights, k: int) -> tuple[Tensor, Tensor]:
        """Rows and scores [B, up to k] of the fused ranking; of the codes alone, of what the beam retrieved."""
        if weights == FusionWeights(0.0) and self.retrieved is not None and self.codes is not None:
            scores = self.codes.gather(1, self.retrieved.clamp(min=0)).masked_fill_(self.retrieved < 0, -torch.inf)
            return _take(self.retrieved, scores, k)
        return _top(self.fused(weights), k)

    def fused(self, weights: FusionWeights) -> Tensor:
        """Scores [B, N] of the fused ranking, -inf where a filter forbids."""
        score, of_codes = self.without_codes(weights)
        if weights.of_codes:
            assert self.codes is not None
            score.addcmul_(self.codes, of_codes)
        return score

    def without_codes(self, weights: FusionWeights) -> tuple[Tensor, Tensor]:
        """What the other scorers give of the fused score, [B, N], -inf where a filter forbids; and the weight [N] that
        the codes have in it, which for an item without counts is larger."""
        score, of_codes = torch.zeros_like(self.forbidden), torch.full(self.forbidden.shape[1:], weights.of_codes)
        for weight, part in ((weights.of_dense, self.dense), (weights.sequential, self.sequential)):
            if weight:
                assert part is not None
                score.add_(part, alpha=weight)
        if weights.cooccurrence:
            cooccurrence, known = self._cooccurrence
            score.lerp_(cooccurrence, known * weights.cooccurrence)
            of_codes *= 1 - known[0] * weights.cooccurrence
        return score.add_(self.forbidden), of_codes

    @cached_property
    def _cooccurrence(self) -> tuple[Tensor, Tensor]:
        """The co-occurrence scores [B, N], and 1 for items that have counts, 0 for others [B, N]."""
        assert self.cooccurrence is not None
        return self.cooccurrence.nan_to_num(), (~self.cooccurrence.isnan()).float()


class Ranker:
    """Ranks items for histories of catalogue rows.

    Args:
        scorer: the engine that reads prompts.
        trie: the items.
        codes: int32 [N, L].
        head: the dense head, or None where only `beam` is wanted.
        config: defaults of every request.
        cooccurrence: co-occurrence counts for the fused ranking.
        sequential: the recommender of the run's aligner, for the same.
    """

    def __init__(
        self,
        scorer: NextCodeScorer,
        trie: CodeTrie,
        vocabulary: SidVocabulary,
        codes: NDArray[np.int32],
        head: DenseHead | None,
        config: RankingConfig,
        cooccurrence: Cooccurrence | None = None,
        sequential: SequentialModel | None = None,
    ) -> None:
        self.scorer, self.trie, self.vocabulary, self.codes, self.config = scorer, trie, vocabulary, codes, config
        self.head, self.cooccurrence, self.sequential = head, cooccurrence, sequential
        self._item_vectors: Tensor | None = None
        self._candidates: CandidateSearch | None = None

    def use_candidates(self) -> None:
        """Make `dense` and `fused` lists from candidates from now on; builds the indexes that the run's ranking asks.

        Without a dense head nothing changes, nor with node vectors, for which the model reads every item anyway.
        """
        if self.head is None or isinstance(self.scorer, NodeScorer):
            return
        self._candidates = CandidateSearch(self.head, self.cooccurrence, self.sequential)
        weights = FusionWeights(1.0) if self.config.ranking == "dense" else self.config.fusion_weights
        if self.config.ranking in ("dense", "fused"):
            self._candidates.build(weights)

    def rank(
        self,
        histories: Sequences,
        *,
        k: int,
        ranking: Ranking | None = None,
        beams: int | None = None,
        filters: Sequence[ItemFilter] | None = None,
        progress: Callable[[int], None] = lambda done: None,
    ) -> RankedRows:
        """The k best allowed items of each history.

        Args:
            histories: B histories; an empty one is answered by what people begin with.
            filters: one a history; None allows all items.
            progress: told how many histories were ranked since the last call.

        Raises:
            InputError: k or beams below 1, or a ranking that needs a dense head or hidden states that are not there.
        """
        ranking = ranking or self.config.ranking
        beams = self.config.beams if beams is None else beams
        for name, value in (("k", k), ("beams", beams)):
            if value < 1:
                raise InputError(f"{name} must be at least 1, not {value}")
        if ranking not in get_args(Ranking):
            raise InputError(f"ranking {ranking!r}: choose one of {', '.join(get_args(Ranking))}")
        if ranking != "beam" and self.head is None:
            raise InputError(f"ranking {ranking}: this run has no dense head; use beam")
        recent = histories.last(self.config.max_items)
        prompts = [self.vocabulary.prompt(self.codes[history]) for history in recent]
        asked, k, beams = k, min(k, self.trie.n_items), min(beams, self.trie.n_items)
        rows = np.full((len(prompts), k), -1, dtype=np.int32)
        scores = np.full((len(prompts), k), -np.inf, dtype=np.float32)
        left = np.arange(len(prompts))
        weights = FusionWeights(1.0) if ranking == "dense" else self.config.fusion_weights
        if self._candidates is not None and ranking in ("dense", "fused") and weights != FusionWeights(0.0):
            everyone = filters or [ItemFilter(self.trie)] * len(prompts)
            left = self._rank_candidates(prompts, histories, everyone, weights, beams, rows, scores)
            progress(len(prompts) - len(left))
        for part in self.groups([prompts[i] for i in left], ranking):
            group = left[part]
            chosen = None if filters is None else [filters[i] for i in group]
            batch = [prompts[i] for i in group]
            found, values = self._rank_batch(batch, histories.take(group), k, ranking, beams, chosen)
            rows[group, : found.shape[1]], scores[group, : found.shape[1]] = found, values
            progress(len(group))
        return RankedRows.from_padded(rows, scores, self._reasons(rows, asked, filters))

    def fused_lists(
        self,
        histories: Sequences,
        *,
        weights: Sequence[FusionWeights],
        k: int,
        filters: Sequence[ItemFilter] | None = None,
        exact: bool = True,
        progress: Callable[[int], None] = lambda done: None,
    ) -> dict[FusionWeights, NDArray[np.int32]]:
        """Fused lists, int32 [B, k], by several weights.

        FusionWeights(0) orders as the beam does, FusionWeights(1) as the dense head and FusionWeights(0, 0, 1) as the
        sequential scorer.

        Args:
            exact: a search for each of the weights; False: one beam search for all, with an estimate for what it
                did not retrieve, to choose weights by.
        """
        recent = histories.last(self.config.max_items)
        prompts = [self.vocabulary.prompt(self.codes[history]) for history in recent]
        lists = {weight: np.full((len(prompts), k), -1, dtype=np.int32) for weight in weights}
        for group in self.groups(prompts, "fused"):
            chosen = None if filters is None else [filters[i] for i in group]
            batch = [prompts[i] for i in group]
            estimated = [weight for weight in weights if not (exact and _is_searched(weight))]
            parts = self.component_scores(
                batch, histories.take(group), weights, k=k, filters=chosen,
                retrieve=any(weight.of_codes for weight in estimated),
            )  # fmt: skip
            for weight in weights:
                best = parts.best(weight, k) if weight in estimated else self._exact(batch, parts, weight, k)
                rows, _ = _numpy(*best)
                lists[weight][group, : rows.shape[1]] = rows
            progress(len(group))
        return lists

    def groups(self, prompts: Sequence[Sequence[int]], ranking: Ranking) -> list[NDArray[np.int64]]:
        """Batches of prompts whose tokens, and whose scores of items where there are any, fit into memory."""
        groups = batches(prompts, self.config.batch_tokens) if prompts else []
        if ranking == "beam" and not isinstance(self.scorer, NodeScorer):
            return groups
        most = max(1, _DENSE_CELLS // self.trie.n_items)
        return [group[i : i + most] for group in groups for i in range(0, len(group), most)]

    def _rank_candidates(
        self,
        prompts: list[list[int]],
        histories: Sequences,
        filters: Sequence[ItemFilter],
        weights: FusionWeights,
        beams: int,
        rows: NDArray[np.int32],
        scores: NDArray[np.float32],
    ) -> NDArray[np.int64]:
        """Write the best candidates into rows and scores [B, k]; returns the users whose lists they do not fill."""
        alike: dict[int, list[int]] = {}
        for user, allowed in enumerate(filters):
            alike.setdefault(id(allowed.shared), []).append(user)
        for users in map(np.array, alike.values()):
            for part in batches([prompts[i] for i in users], self.config.batch_tokens):
                for begin in range(0, len(part), TOGETHER):
                    group = users[part[begin : begin + TOGETHER]]
                    batch, chosen = [prompts[i] for i in group], [filters[i] for i in group]
                    found = self._best_candidates(batch, histories.take(group), chosen, weights, beams, rows.shape[1])
                    rows[group, : found[0].shape[1]], scores[group, : found[1].shape[1]] = found
        wanted = np.minimum(rows.shape[1], [allowed.count for allowed in filters])
        left = np.flatnonzero((rows >= 0).sum(axis=1) < wanted)
        rows[left], scores[left] = -1, -np.inf
        return left

    def _best_candidates(
        self,
        prompts: list[list[int]],
        histories: Sequences,
        filters: list[ItemFilter],
        weights: FusionWeights,
        beams: int,
        k: int,
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Rows and scores [B, up to k] of one batch whose filters have one shared set; -1 and -inf pad."""
        assert self._candidates is not None
        start = hidden = retrieved = None
        if weights.of_codes or weights.of_dense:
            state = self.scorer.start(prompts)
            start, hidden = copy.copy(state), state.hidden if weights.of_dense else None
            if weights.of_dense and hidden is None:
                raise InputError("no dense head, or an engine without hidden states for it; use --ranking beam")
            if weights.of_codes and not reads_all(filters[0]):
                retrieved, _ = self._search(state, max(k, beams), beams, filters)
        recent = histories.last(self.config.max_items)
        found = self._candidates.find(hidden, histories, recent, weights, filters, retrieved, k)
        if not len(found.rows):
            return np.empty((len(prompts), 0), dtype=np.int32), np.empty((len(prompts), 0), dtype=np.float32)
        parts = ComponentScores(start, None, None, found.dense, found.cooccurrence, found.sequential, found.forbidden)
        if weights.of_codes:
            trie, (others, of_codes) = CodeTrie(self.codes[found.rows], self.trie.sizes), parts.without_codes(weights)
            assert start is not None
            scores = fused_search(self.scorer, prompts, start, trie, of_codes, others, beams=beams, k=k)
        else:
            scores = parts.fused(weights)
        places, values = _numpy(*_top(scores, k))
        return np.where(places >= 0, found.rows[places], -1).astype(np.int32), values

    def _rank_batch(
        self,
        prompts: list[list[int]],
        histories: Sequences,
        k: int,
        ranking: Ranking,
        beams: int,
        filters: list[ItemFilter] | None,
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Rows and scores [B, up to k] of one batch; -1 and -inf pad."""
        if ranking == "fused":
            weights = self.config.fusion_weights
            searched = _is_searched(weights)
            parts = self.component_scores(
                prompts, histories, [weights], k=k, beams=beams, filters=filters, retrieve=not searched
            )
            return _numpy(*(self._exact(prompts, parts, weights, k, beams) if searched else parts.best(weights, k)))
        state = self.scorer.start(prompts)
        if ranking == "dense":
            return _numpy(*_top(self._dense(state) + self._forbidden(len(prompts), filters), k))
        dense = self._dense(state) if ranking == "rerank" else None
        rows, scores = self._search(state, max(k, beams) if ranking == "rerank" else k, beams, filters)
        if dense is None:
            return _numpy(rows, scores)
        return _numpy(*_take(rows, dense.gather(1, rows.clamp(min=0)).masked_fill(rows < 0, -torch.inf), k))

    def component_scores(
        self,
        prompts: list[list[int]],
        histories: Sequences,
        weights: Sequence[FusionWeights],
        *,
        k: int,
        beams: int | None = None,
        filters: list[ItemFilter] | None = None,
        retrieve: bool = True,
    ) -> ComponentScores:
        """What the component scorers that some weights ask give after each prompt and the whole history behind it.

        Args:
            retrieve: search for items by their codes, and say what their log-probabilities are.

        Raises:
            InputError: the run has no such scorer.
        """
        beams = self.config.beams if beams is None else beams
        start = retrieved = codes = dense = cooccurrence = sequential = None
        if any(each.of_codes or each.of_dense for each in weights):
            state = self.scorer.start(prompts)
            start = copy.copy(state)
            if any(each.of_dense for each in weights):
                dense = self._dense(state)
            if retrieve and any(each.of_codes for each in weights):
                retrieved, found = self._search(state, max(k, beams), beams, filters)
                codes = self._codes(state, retrieved, found)
        if any(each.cooccurrence for each in weights):
            if self.cooccurrence is None:
                raise InputError("this run has no co-occurrence counts; use --ranking.cooccurrence_weight 0")
            cooccurrence = torch.from_numpy(self.cooccurrence.log_probability(histories.last(self.config.max_items)))
            cooccurrence[:, ~torch.from_numpy(self.cooccurrence.known)] = torch.nan
        if any(each.sequential for each in weights):
            if self.sequential is None:
                raise InputError("this run has no recommender of a trained aligner; use --ranking.sequential_weight 0")
            sequential = log_probability(self.sequential, histories)
        forbidden = self._forbidden(len(prompts), filters)
        return ComponentScores(start, retrieved, codes, dense, cooccurrence, sequential, forbidden)

    def _exact(
        self, prompts: list[list[int]], parts: ComponentScores, weights: FusionWeights, k: int, beams: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Rows and scores [B, up to k] of the fused ranking, whatever a beam would retrieve."""
        others, of_codes = parts.without_codes(weights)
        beams = self.config.beams if beams is None else beams
        assert parts.start is not None
        return _top(fused_search(self.scorer, prompts, parts.start, self.trie, of_codes, others, beams=beams, k=k), k)

    def _search(self, state: State, k: int, beams: int, filters: list[ItemFilter] | None) -> tuple[Tensor, Tensor]:
        """Rows and log-probabilities [B, up to k] of what the beam retrieves; -1 and -inf pad."""
        positions, scores = search(self.scorer, state, self.trie, beams, k, filters)
        rows = torch.from_numpy(self.trie.order[positions]).long()
        return rows.masked_fill_(scores.isneginf(), -1), scores

    def _codes(self, state: State, retrieved: Tensor, found: Tensor) -> Tensor:
        """Log-probabilities of codes [B, N] after a search."""
        if isinstance(self.scorer, NodeScorer):
            return self.scorer.item_log_probs(state).cpu()
        alive, n = retrieved >= 0, self.trie.n_items
        last = found.masked_fill(~alive, torch.inf).amin(dim=1, keepdim=True)
        last = last.masked_fill(last.isinf(), 0.0)  # nothing was retrieved: a constant, which is no matter
        below = torch.nextafter(last, torch.tensor(-torch.inf))
        place = retrieved.masked_fill(~alive, n)  # a column for those that are nobody, cut off again
        return below.repeat(1, n + 1).scatter_(1, place, found)[:, :n].contiguous()

    def _forbidden(self, n_users: int, filters: list[ItemFilter] | None) -> Tensor:
        """-inf where a filter forbids, else 0: [B, N]."""
        scores = torch.zeros(n_users, self.trie.n_items)
        for row, allowed in zip(scores, filters or (), strict=False):
            allowed.apply_to_scores(row)
        return scores

    def _dense(self, state: State) -> Tensor:
        """Log-probabilities of the dense head [B, N] over all items, before any code is fed."""
        if isinstance(self.scorer, NodeScorer):
            return self.scorer.dense_log_probs(state).cpu()
        if state.hidden is None or self.head is None:
            raise InputError("no dense head, or an engine without hidden states for it; use --ranking beam")
        with torch.inference_mode():
            if self._item_vectors is None:
                self._item_vectors = self.head.item_matrix().T.contiguous()
            scores: Tensor = (self.head.query(state.hidden.float()) @ self._item_vectors).log_softmax(dim=1).cpu()
        return scores

    def _reasons(self, rows: NDArray[np.int32], k: int, filters: Sequence[ItemFilter] | None) -> tuple[str | None, ...]:
        found = (rows >= 0).sum(axis=1)
        n = self.trie.n_items
        counts = [n] * len(rows) if filters is None else [each.count for each in filters]
        return tuple(
            None if have == k else f"{allowed} of {n} items are allowed, {have} of them were found; {k} were asked for"
            for have, allowed in zip(found.tolist(), counts, strict=True)
        )


def _is_searched(weights: FusionWeights) -> bool:
    """Whether the codes are one of several scorers, so that the best items are searched for by all of them."""
    return weights.of_codes > 0 and weights != FusionWeights(0.0)


def _top(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Rows and values of the best k columns of [B, N]; of equal scores the lower row wins."""
    n = scores.shape[1]
    k = min(k, n)
    best = scores.topk(min(k + 1, n), dim=1)
    rows = best.indices[:, :k]
    if k < n:
        least = best.values[:, k - 1]
        tied = ((least == best.values[:, k]) & ~least.isneginf()).nonzero()[:, 0]  # with one that was left out
        if len(tied):
            above, level = scores[tied] > least[tied, None], scores[tied] == least[tied, None]
            kept = above | (level & (level.cumsum(1, dtype=torch.int32) <= k - above.sum(1, keepdim=True)))
            rows[tied] = kept.nonzero()[:, 1].view(len(tied), k)
    rows = rows.sort(dim=1).values
    return _take(rows, scores.gather(1, rows), k)


def _take(rows: Tensor, scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The best k of candidates [B, M]: by score, then in the order given."""
    best = torch.sort(scores, dim=1, descending=True, stable=True)
    return rows.gather(1, best.indices)[:, :k], best.values[:, :k]


def _numpy(rows: Tensor, scores: Tensor) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    dead = scores.isneginf()
    return rows.masked_fill(dead, -1).int().numpy(), scores.numpy()
