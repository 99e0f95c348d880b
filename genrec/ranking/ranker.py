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

With `language_model_share` below 1 a fused list asks the language model only where the sequential scorer and
co-occurrence are uncertain (`genrec.ranking.allocation`); the others are made of these two alone. Scores are comparable
within one list.

Shapes: B users, K beams, k items asked for, N items, H hidden width, M items that the beam retrieved.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple, get_args

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
from genrec.ranking.component_scores import ComponentScores, take, top
from genrec.ranking.config import FusionWeights, Ranking, RankingConfig
from genrec.ranking.cooccurrence import Cooccurrence
from genrec.ranking.dense_head import DenseHead
from genrec.recommendations import RankedRows
from genrec.semtok.errors import InputError
from genrec.sequential.base import SequentialModel
from genrec.sequential.frozen import log_probability

_DENSE_CELLS = 1 << 24  # items scored at once for all users of a batch: 64 MiB a scorer


class _Read(NamedTuple):
    """What the language model says after prompts: fields of `ComponentScores`."""

    start: State | None = None
    retrieved: Tensor | None = None
    codes: Tensor | None = None
    dense: Tensor | None = None


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
        if self.config.language_model_share < 1:
            raise InputError(
                f"ranking.language_model_share {self.config.language_model_share} reads whole distributions: open the "
                "run with --retrieval exact"
            )
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
        elif self._is_allocated(ranking):
            left = left[:0]
            self._rank_allocated(prompts, histories, beams, filters, (rows, scores), progress)
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

    def certain(self, parts: ComponentScores, histories: Sequences) -> Tensor:
        """The users [B, bool] for whom the language model is not asked; see `genrec.ranking.allocation`."""
        share, most = self.config.language_model_share, self.config.language_model_entropy
        if share == 0:
            return torch.ones(len(parts.forbidden), dtype=torch.bool)
        if most is None:
            raise InputError(f"ranking.language_model_share {share}: no language_model_entropy was chosen")
        return parts.entropy(self.config.certain_weights, histories) <= most

    def entropies(self, histories: Sequences, weights: FusionWeights) -> NDArray[np.float32]:
        """`ComponentScores.entropy` [B] by weights that don't ask the language model."""
        found = [np.empty(0, dtype=np.float32)]
        for users in self._together(len(histories)):
            some = histories.take(users)
            parts = self.component_scores([[]] * len(users), some, [weights], k=1)
            found.append(parts.entropy(weights, some).numpy())
        return np.concatenate(found)

    def groups(self, prompts: Sequence[Sequence[int]], ranking: Ranking) -> list[NDArray[np.int64]]:
        """Batches of prompts whose tokens, and whose scores of items where there are any, fit into memory."""
        groups = batches([len(prompt) for prompt in prompts], self.config.batch_tokens)
        if ranking == "beam" and not isinstance(self.scorer, NodeScorer):
            return groups
        most = max(1, _DENSE_CELLS // self.trie.n_items)
        return [group[i : i + most] for group in groups for i in range(0, len(group), most)]

    def _is_allocated(self, ranking: Ranking) -> bool:
        """Whether some lists are made without asking the language model, which others ask."""
        weights, share = self.config.fusion_weights, self.config.language_model_share
        if ranking != "fused" or share == 1 or not (weights.of_codes or weights.of_dense):
            return False
        if self.sequential is None or self.cooccurrence is None:
            raise InputError(
                f"ranking.language_model_share {share}: this run has no recommender of a trained aligner, or no "
                "co-occurrence counts; use --ranking.language_model_share 1"
            )
        return True

    def _rank_allocated(
        self,
        prompts: list[list[int]],
        histories: Sequences,
        beams: int,
        filters: Sequence[ItemFilter] | None,
        lists: tuple[NDArray[np.int32], NDArray[np.float32]],
        progress: Callable[[int], None],
    ) -> None:
        """Write rows and scores [B, k] of fused lists that ask the language model for uncertain users only."""
        weights, certain = self.config.fusion_weights, self.config.certain_weights
        others, k = [certain, FusionWeights(1.0, weights.cooccurrence, 1.0)], lists[0].shape[1]

        def write(users: NDArray[np.int64], found: tuple[Tensor, Tensor]) -> None:
            for whole, part in zip(lists, _numpy(*found), strict=True):
                whole[users, : part.shape[1]] = part
            progress(len(users))

        for group in self._together(len(prompts)):
            batch = [prompts[i] for i in group]
            chosen = None if filters is None else [filters[i] for i in group]
            parts = self.component_scores(batch, histories.take(group), others, k=k, filters=chosen)
            known = self.certain(parts, histories.take(group))
            if known.any():
                write(group[known.numpy()], parts.take(known).best(certain, k))
            left = (~known).nonzero()[:, 0].numpy()
            for part in batches([len(batch[i]) for i in left], self.config.batch_tokens):
                users = left[part]
                asked, allowed = [batch[i] for i in users], None if chosen is None else [chosen[i] for i in users]
                read = self._read(asked, [weights], k, beams, allowed, retrieve=not _is_searched(weights))
                mine = replace(parts.take(torch.from_numpy(users)), **read._asdict())
                write(group[users], self._fused(asked, mine, weights, k, beams))

    def _together(self, n_users: int) -> list[NDArray[np.int64]]:
        """Users whose scores of all items fit into memory."""
        most = max(1, _DENSE_CELLS // self.trie.n_items)
        return [np.arange(begin, min(begin + most, n_users)) for begin in range(0, n_users, most)]

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
            for part in batches([len(prompts[i]) for i in users], self.config.batch_tokens):
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
        places, values = _numpy(*top(scores, k))
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
            retrieve = not _is_searched(weights)
            parts = self.component_scores(
                prompts, histories, [weights], k=k, beams=beams, filters=filters, retrieve=retrieve
            )
            return _numpy(*self._fused(prompts, parts, weights, k, beams))
        state = self.scorer.start(prompts)
        if ranking == "dense":
            return _numpy(*top(self._dense(state) + self._forbidden(len(prompts), filters), k))
        dense = self._dense(state) if ranking == "rerank" else None
        rows, scores = self._search(state, max(k, beams) if ranking == "rerank" else k, beams, filters)
        if dense is None:
            return _numpy(rows, scores)
        return _numpy(*take(rows, dense.gather(1, rows.clamp(min=0)).masked_fill(rows < 0, -torch.inf), k))

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
        read = self._read(prompts, weights, k, beams, filters, retrieve=retrieve)
        cooccurrence = sequential = None
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
        return ComponentScores(*read, cooccurrence, sequential, forbidden)

    def _read(
        self,
        prompts: list[list[int]],
        weights: Sequence[FusionWeights],
        k: int,
        beams: int,
        filters: list[ItemFilter] | None,
        *,
        retrieve: bool,
    ) -> _Read:
        """What the language model says after each prompt, as far as some weights ask it."""
        if not any(each.of_codes or each.of_dense for each in weights):
            return _Read()
        state = self.scorer.start(prompts)
        start, retrieved, codes, dense = copy.copy(state), None, None, None
        if any(each.of_dense for each in weights):
            dense = self._dense(state)
        if retrieve and any(each.of_codes for each in weights):
            retrieved, found = self._search(state, max(k, beams), beams, filters)
            codes = self._codes(state, retrieved, found)
        return _Read(start, retrieved, codes, dense)

    def _fused(
        self, prompts: list[list[int]], parts: ComponentScores, weights: FusionWeights, k: int, beams: int
    ) -> tuple[Tensor, Tensor]:
        """Rows and scores [B, up to k] of the fused ranking."""
        return self._exact(prompts, parts, weights, k, beams) if _is_searched(weights) else parts.best(weights, k)

    def _exact(
        self, prompts: list[list[int]], parts: ComponentScores, weights: FusionWeights, k: int, beams: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Rows and scores [B, up to k] of the fused ranking, whatever a beam would retrieve."""
        others, of_codes = parts.without_codes(weights)
        beams = self.config.beams if beams is None else beams
        assert parts.start is not None
        return top(fused_search(self.scorer, prompts, parts.start, self.trie, of_codes, others, beams=beams, k=k), k)

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


def _numpy(rows: Tensor, scores: Tensor) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    dead = scores.isneginf()
    return rows.masked_fill(dead, -1).int().numpy(), scores.numpy()
