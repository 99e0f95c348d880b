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
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias, get_args

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
from genrec.ranking.batch import Batch
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
_NO_HIDDEN = "no dense head, or an engine without hidden states for it; use --ranking beam"

_Lists: TypeAlias = tuple[NDArray[np.int64], tuple[Tensor, Tensor]]
"""Some users, and rows and scores [B, up to k] of their lists; what is -inf pads."""


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
        for name, value in (("k", k), ("beams", beams)):
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, not {value}")
        if ranking not in get_args(Ranking):
            raise InputError(f"ranking {ranking!r}: choose one of {', '.join(get_args(Ranking))}")
        if ranking != "beam" and self.head is None:
            raise InputError(f"ranking {ranking}: this run has no dense head; use beam")
        batch = self.batch(histories, k=k, beams=beams, filters=filters)
        rows = np.full((len(batch), batch.k), -1, dtype=np.int32)
        scores = np.full(rows.shape, -np.inf, dtype=np.float32)
        for users, found in self._lists(batch, ranking):
            width = found[0].shape[1]
            rows[users, :width], scores[users, :width] = _padded(*found), found[1]
            progress(len(users))
        return RankedRows.from_padded(rows, scores, self._reasons(rows, k, batch.filters))

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
        batch = self.batch(histories, k=k, filters=filters)
        lists = {weight: np.full((len(batch), k), -1, dtype=np.int32) for weight in weights}
        for group in self.groups(batch.prompts, "fused"):
            some = batch.take(group)
            parts = self.component_scores(some, weights, exact=exact)
            for weight in weights:
                found = self._fused(some, parts, weight) if exact else parts.best(weight, some.k)
                lists[weight][group, : found[0].shape[1]] = _padded(*found)
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
        batch, found = self.batch(histories, k=1), [np.empty(0, dtype=np.float32)]
        for users in self._that_fit([np.arange(len(batch))]):
            some = batch.take(users)
            parts = self.component_scores(some, [weights], exact=True)
            found.append(parts.entropy(weights, some.histories).numpy())
        return np.concatenate(found)

    def batch(
        self,
        histories: Sequences,
        *,
        k: int,
        beams: int | None = None,
        filters: Sequence[ItemFilter] | None = None,
    ) -> Batch:
        """Everybody of a request; `groups` says who of them go together."""
        recent, n = histories.last(self.config.max_items), self.trie.n_items
        prompts = [self.vocabulary.prompt(self.codes[history]) for history in recent]
        filters = [ItemFilter(self.trie)] * len(prompts) if filters is None else filters
        beams = self.config.beams if beams is None else beams
        return Batch(histories, recent, prompts, filters, min(k, n), min(beams, n))

    def groups(self, prompts: Sequence[Sequence[int]], ranking: Ranking) -> list[NDArray[np.int64]]:
        """Batches of prompts whose tokens, and whose scores of items where there are any, fit into memory."""
        groups = batches([len(prompt) for prompt in prompts], self.config.batch_tokens)
        return groups if ranking == "beam" and not isinstance(self.scorer, NodeScorer) else self._that_fit(groups)

    def _that_fit(self, groups: Sequence[NDArray[np.int64]]) -> list[NDArray[np.int64]]:
        """Groups of users, cut so that their scores of all items fit into memory."""
        most = max(1, _DENSE_CELLS // self.trie.n_items)
        return [group[i : i + most] for group in groups for i in range(0, len(group), most)]

    def _lists(self, batch: Batch, ranking: Ranking) -> Iterator[_Lists]:
        """Everybody's lists, a group at a time."""
        left = np.arange(len(batch))
        weights = FusionWeights(1.0) if ranking == "dense" else self.config.fusion_weights
        if self._candidates is not None and ranking in ("dense", "fused") and weights != FusionWeights(0.0):
            left = yield from self._candidate_lists(batch, weights)
        elif self._is_allocated(ranking):
            yield from self._allocated_lists(batch)
            return
        for part in self.groups([batch.prompts[i] for i in left], ranking):
            yield left[part], self._whole_lists(batch.take(left[part]), ranking)

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

    def _allocated_lists(self, batch: Batch) -> Iterator[_Lists]:
        """Fused lists that ask the language model for uncertain users only."""
        weights, certain = self.config.fusion_weights, self.config.certain_weights
        for group in self._that_fit([np.arange(len(batch))]):
            some = batch.take(group)
            parts = self.component_scores(some, [certain, FusionWeights(1.0, weights.cooccurrence, 1.0)], exact=True)
            known = self.certain(parts, some.histories)
            if known.any():
                yield group[known.numpy()], parts.take(known).best(certain, batch.k)
            left = (~known).nonzero()[:, 0].numpy()
            for part in batches([len(some.prompts[i]) for i in left], self.config.batch_tokens):
                users = left[part]
                asked = some.take(users)
                mine = self._with_model(parts.take(torch.from_numpy(users)), asked, [weights], exact=True)
                yield group[users], self._fused(asked, mine, weights)

    def _candidate_lists(self, batch: Batch, weights: FusionWeights) -> Generator[_Lists, None, NDArray[np.int64]]:
        """The lists that candidates fill; returns the other users."""
        alike: dict[int, list[int]] = {}
        for user, allowed in enumerate(batch.filters):
            alike.setdefault(id(allowed.shared), []).append(user)
        left = [np.empty(0, dtype=np.int64)]
        for users in map(np.array, alike.values()):
            for part in batches([len(batch.prompts[i]) for i in users], self.config.batch_tokens):
                for begin in range(0, len(part), TOGETHER):
                    group = users[part[begin : begin + TOGETHER]]
                    some = batch.take(group)
                    rows, scores = self._best_candidates(some, weights)
                    wanted = np.minimum(batch.k, [allowed.count for allowed in some.filters])
                    full = (~scores.isneginf()).sum(dim=1).numpy() >= wanted
                    yield group[full], (rows[full], scores[full])
                    left.append(group[~full])
        return np.sort(np.concatenate(left))

    def _best_candidates(self, batch: Batch, weights: FusionWeights) -> tuple[Tensor, Tensor]:
        """Rows and scores [B, up to k] of users whose filters have one shared set; -inf pads."""
        assert self._candidates is not None
        start = hidden = retrieved = None
        if weights.of_codes or weights.of_dense:
            state = self.scorer.start(batch.prompts)
            start, hidden = copy.copy(state), state.hidden if weights.of_dense else None
            if weights.of_dense and hidden is None:
                raise InputError(_NO_HIDDEN)
            if weights.of_codes and not reads_all(batch.filters[0]):
                retrieved, _ = self._search(state, batch, max(batch.k, batch.beams))
        among, parts = self._candidates.find(batch, weights, hidden, retrieved)
        if not len(among):
            return torch.empty(len(batch), 0, dtype=torch.long), torch.empty(len(batch), 0)
        places, scores = self._fused(batch, replace(parts, start=start), weights, among)
        return torch.from_numpy(among)[places], scores

    def _whole_lists(self, batch: Batch, ranking: Ranking) -> tuple[Tensor, Tensor]:
        """Rows and scores [B, up to k] by every item, or by every prefix that the beam keeps; -inf pads."""
        if ranking == "fused":
            weights = self.config.fusion_weights
            return self._fused(batch, self.component_scores(batch, [weights], exact=True), weights)
        state = self.scorer.start(batch.prompts)
        if ranking == "beam":
            return self._search(state, batch, batch.k)
        dense = self._dense(state)
        if ranking == "dense":
            return top(dense + self._forbidden(batch), batch.k)
        rows, _ = self._search(state, batch, max(batch.k, batch.beams))
        return take(rows, dense.gather(1, rows.clamp(min=0)).masked_fill(rows < 0, -torch.inf), batch.k)

    def _fused(
        self, batch: Batch, parts: ComponentScores, weights: FusionWeights, among: NDArray[np.int64] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Rows and scores [B, up to k] of the fused ranking, whatever a beam would retrieve.

        Args:
            among: ascending rows, of which `parts` are and places are given; None: of all items.
        """
        if not _is_searched(weights):
            return parts.best(weights, batch.k)
        trie = self.trie if among is None else CodeTrie(self.codes[among], self.trie.sizes)
        others, of_codes = parts.without_codes(weights)
        assert parts.start is not None
        found = fused_search(
            self.scorer, batch.prompts, parts.start, trie, of_codes, others, beams=batch.beams, k=batch.k
        )
        return top(found, batch.k)

    def component_scores(self, batch: Batch, weights: Sequence[FusionWeights], *, exact: bool) -> ComponentScores:
        """What the component scorers that some weights ask give after each prompt and the whole history behind it.

        Args:
            exact: leave out the log-probabilities of codes where weights search for them; False: search for items by
                codes, and say what those of all items are, as far as that search knows.

        Raises:
            InputError: the run has no such scorer.
        """
        cooccurrence = sequential = None
        if any(each.cooccurrence for each in weights):
            if self.cooccurrence is None:
                raise InputError("this run has no co-occurrence counts; use --ranking.cooccurrence_weight 0")
            cooccurrence = torch.from_numpy(self.cooccurrence.log_probability(batch.recent))
            cooccurrence[:, ~torch.from_numpy(self.cooccurrence.known)] = torch.nan
        if any(each.sequential for each in weights):
            if self.sequential is None:
                raise InputError("this run has no recommender of a trained aligner; use --ranking.sequential_weight 0")
            sequential = log_probability(self.sequential, batch.histories)
        parts = ComponentScores(self._forbidden(batch), cooccurrence=cooccurrence, sequential=sequential)
        return self._with_model(parts, batch, weights, exact=exact)

    def _with_model(
        self, parts: ComponentScores, batch: Batch, weights: Sequence[FusionWeights], *, exact: bool
    ) -> ComponentScores:
        """`parts` with what the language model says, as far as some weights ask it; see `component_scores`."""
        if not any(each.of_codes or each.of_dense for each in weights):
            return parts
        state = self.scorer.start(batch.prompts)
        parts = replace(parts, start=copy.copy(state))
        if any(each.of_dense for each in weights):
            parts = replace(parts, dense=self._dense(state))
        if any(each.of_codes and not (exact and _is_searched(each)) for each in weights):
            retrieved, found = self._search(state, batch, max(batch.k, batch.beams))
            parts = replace(parts, retrieved=retrieved, codes=self._codes(state, retrieved, found))
        return parts

    def _search(self, state: State, batch: Batch, k: int) -> tuple[Tensor, Tensor]:
        """Rows and log-probabilities [B, up to k] of what the beam retrieves; -1 and -inf pad."""
        positions, scores = search(self.scorer, state, self.trie, batch.beams, k, batch.filters)
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

    def _forbidden(self, batch: Batch) -> Tensor:
        """-inf where a filter forbids, else 0: [B, N]."""
        scores = torch.zeros(len(batch), self.trie.n_items)
        for row, allowed in zip(scores, batch.filters, strict=True):
            allowed.apply_to_scores(row)
        return scores

    def _dense(self, state: State) -> Tensor:
        """Log-probabilities of the dense head [B, N] over all items, before any code is fed."""
        if isinstance(self.scorer, NodeScorer):
            return self.scorer.dense_log_probs(state).cpu()
        if state.hidden is None or self.head is None:
            raise InputError(_NO_HIDDEN)
        with torch.inference_mode():
            if self._item_vectors is None:
                self._item_vectors = self.head.item_matrix().T.contiguous()
            scores: Tensor = (self.head.query(state.hidden.float()) @ self._item_vectors).log_softmax(dim=1).cpu()
        return scores

    def _reasons(self, rows: NDArray[np.int32], k: int, filters: Sequence[ItemFilter]) -> tuple[str | None, ...]:
        found, n = (rows >= 0).sum(axis=1).tolist(), self.trie.n_items
        return tuple(
            None
            if have == k
            else f"{allowed.count} of {n} items are allowed, {have} of them were found; {k} were asked for"
            for have, allowed in zip(found, filters, strict=True)
        )


def _is_searched(weights: FusionWeights) -> bool:
    """Whether the codes are one of several scorers, so that the best items are searched for by all of them."""
    return weights.of_codes > 0 and weights != FusionWeights(0.0)


def _padded(rows: Tensor, scores: Tensor) -> NDArray[np.int32]:
    """Rows with -1 where the score is -inf."""
    return rows.masked_fill(scores.isneginf(), -1).int().numpy()
