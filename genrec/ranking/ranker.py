"""`Ranker`: histories in, ranked items out, by the codes' beam, the dense head, and what else a run can say of items.

    beam     the LM's own log-probability of an item's codes, for the items that beam search meets
    rerank   the same candidates, ordered by the dense head
    dense    the dense head over every allowed item; with `views`, the mean of what it says after the whole history and
             after its last few items (an ensemble over prompts)
    joined   (1 - u) ((1 - s) ((1 - w) log p_codes + w log p_dense) + s log p_sequence) + u log p_neighbours over every
             allowed item; the codes of an item that the beam did not meet count just below those of the beam's last
             one, which few of them exceed, and of an item that nobody has taken the neighbours say what the others say

The sequence voice is the recommender that the run's aligner was trained with (`genrec.sequential.frozen`); without a
trained aligner there is none. Neighbours are counts (`genrec.ranking.cooccurrence`).

Shapes: B users, K beams, k items asked for, N items, H hidden width, M items that the beam met.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genrec.data.sequences import Sequences
from genrec.decoding.beam import batches, beam_search
from genrec.decoding.filters import ItemFilter
from genrec.decoding.scorer import NextCodeScorer
from genrec.decoding.trie import CodeTrie
from genrec.decoding.vocabulary import SidVocabulary
from genrec.ranking.cooccurrence import Neighbours
from genrec.ranking.dense_head import DenseHead
from genrec.recommendations import Recommendations
from genrec.semtok.errors import InputError
from genrec.sequential import SequentialModel
from genrec.sequential.frozen import log_probability

Ranking = Literal["beam", "rerank", "dense", "joined"]
_DENSE_CELLS = 1 << 24  # items scored at once for all users of a batch: 64 MiB a voice


@dataclass(frozen=True)
class RankingConfig:
    """How lists are made where a request does not say.

    Attributes:
        ranking: see the module.
        beams: prefixes kept on each level.
        dense_share: w of the joined ranking, in [0, 1]; None: `genrec fit` takes what wins on validation, others 0.5.
        near_share: u of the joined ranking, in [0, 1]; None: what wins on validation, others 0.
        sequence_share: s of the joined ranking, in [0, 1]; None: what wins on validation, others 0.
        max_items: the last items of a history that are read.
        views: lengths of endings of the history that the dense head is asked about beside the whole, each one more
            (short) prompt for every list.
        batch_tokens: padded prompt tokens of one batch.
    """

    ranking: Ranking = "joined"
    beams: int = 20
    dense_share: float | None = None
    near_share: float | None = None
    sequence_share: float | None = None
    max_items: int = 20
    views: tuple[int, ...] = ()
    batch_tokens: int = 8192

    def __post_init__(self) -> None:
        if self.ranking not in get_args(Ranking):
            raise InputError(f"--ranking {self.ranking}: choose one of {', '.join(get_args(Ranking))}")
        for name in ("dense_share", "near_share", "sequence_share"):
            share = getattr(self, name)
            if share is not None and not 0 <= share <= 1:
                raise InputError(f"--{name} {share} is not in [0, 1]")
        for name in ("beams", "max_items", "batch_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name} {getattr(self, name)} must be at least 1")
        if any(not 1 <= view < self.max_items for view in self.views):
            raise InputError(f"--views {list(self.views)}: lengths from 1 to below --max_items {self.max_items}")

    @property
    def shares(self) -> Shares:
        """Of the joined ranking, with what stands for those that nobody chose."""
        dense = 0.5 if self.dense_share is None else self.dense_share
        return Shares(dense, self.near_share or 0.0, self.sequence_share or 0.0)


class Shares(NamedTuple):
    """Of the joined ranking: w, u and s."""

    dense: float
    near: float = 0.0
    sequence: float = 0.0


@dataclass(frozen=True)
class Voices:
    """What each part of the model says of every item.

    Attributes:
        met: [B, M] rows of the items that the beam met, best first; -1 after the last.
        codes: [B, M] log-probabilities of their codes.
        dense: [B, N] log-probabilities of the dense head; -inf where a filter forbids.
        near: [B, N] log-probabilities of the neighbours, NaN for items without counts; None where nothing was counted.
        sequence: [B, N] log-probabilities of the aligner's recommender; None where there is none.
    """

    met: Tensor
    codes: Tensor
    dense: Tensor
    near: Tensor | None
    sequence: Tensor | None = None

    def joined(self, shares: Shares) -> Tensor:
        """Scores [B, N] of the joined ranking, -inf where a filter forbids."""
        if self.near is None and shares.near:
            raise InputError("this run has no counts of neighbours; use --ranking.near_share 0")
        if self.sequence is None and shares.sequence:
            raise InputError("this run has no recommender of a trained aligner; use --ranking.sequence_share 0")
        of_model = 1 - shares.sequence
        weighted = [
            (of_model * (1 - shares.dense), self._codes),
            (of_model * shares.dense, self._dense),
            (shares.sequence, self.sequence),
        ]
        (first, voice), *others = [(weight, voice) for weight, voice in weighted if weight and voice is not None]
        score = voice * first
        for weight, voice in others:
            score.add_(voice, alpha=weight)
        if shares.near:
            near, known = self._near
            score.lerp_(near, known * shares.near)
        return score.add_(self._forbidden)

    @cached_property
    def _codes(self) -> Tensor:
        """Log-probabilities of codes [B, N]; of items that the beam did not meet, just below the least that it met."""
        alive, n = self.met >= 0, self.dense.shape[1]
        last = self.codes.masked_fill(~alive, torch.inf).amin(dim=1, keepdim=True)
        last = last.masked_fill(last.isinf(), 0.0)  # nothing was met: a constant, which is no matter
        below = torch.nextafter(last, torch.tensor(-torch.inf))  # so that beam alone ranks what it met first
        place = self.met.masked_fill(~alive, n)  # a column for those that are nobody, cut off again
        return below.repeat(1, n + 1).scatter_(1, place, self.codes)[:, :n].contiguous()

    @cached_property
    def _dense(self) -> Tensor:
        """What the dense head says, 0 where a filter forbids, so that any share of it is a number."""
        return self.dense.masked_fill(self.dense.isneginf(), 0.0)

    @cached_property
    def _near(self) -> tuple[Tensor, Tensor]:
        """What the neighbours say [B, N], and 1 for items that they know, 0 for others [B, N]."""
        assert self.near is not None
        return self.near.nan_to_num(), (~self.near.isnan()).float()

    @cached_property
    def _forbidden(self) -> Tensor:
        """-inf where a filter forbids, else 0: [B, N]."""
        return torch.zeros_like(self.dense).masked_fill_(self.dense.isneginf(), -torch.inf)


class Ranker:
    """Ranks items for histories of catalogue rows.

    Args:
        scorer: the engine that reads prompts.
        trie: the items.
        codes: int32 [N, L].
        head: the dense head, or None where only `beam` is wanted.
        config: defaults of every request.
        neighbours: counts for the joined ranking.
        sequence: the recommender of the run's aligner, for the same.
    """

    def __init__(
        self,
        scorer: NextCodeScorer,
        trie: CodeTrie,
        vocabulary: SidVocabulary,
        codes: NDArray[np.int32],
        head: DenseHead | None,
        config: RankingConfig,
        neighbours: Neighbours | None = None,
        sequence: SequentialModel | None = None,
    ) -> None:
        self.scorer, self.trie, self.vocabulary, self.codes, self.config = scorer, trie, vocabulary, codes, config
        self.head, self.neighbours, self.sequence = head, neighbours, sequence
        self._item_vectors: Tensor | None = None

    def rank(
        self,
        histories: Sequences,
        *,
        k: int,
        ids: Sequence[str] | None = None,
        ranking: Ranking | None = None,
        beams: int | None = None,
        filters: Sequence[ItemFilter] | None = None,
        progress: Callable[[int], None] = lambda done: None,
    ) -> Recommendations:
        """The k best allowed items of each history.

        Args:
            histories: B histories; an empty one is answered by what people begin with.
            ids: names of the lists; row numbers where None.
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
        names = tuple(ids) if ids is not None else tuple(str(i) for i in range(len(prompts)))
        rows = np.full((len(prompts), k), -1, dtype=np.int32)
        scores = np.full((len(prompts), k), -np.inf, dtype=np.float32)
        for group in self._groups(prompts, ranking):
            chosen = None if filters is None else [filters[i] for i in group]
            batch = [prompts[i] for i in group]
            found, values = self._rank_batch(batch, histories.take(group), k, ranking, beams, chosen)
            rows[group, : found.shape[1]], scores[group, : found.shape[1]] = found, values
            progress(len(group))
        return Recommendations.from_padded(names, rows, scores, self._reasons(rows, k, filters))

    def joined_lists(
        self,
        histories: Sequences,
        *,
        shares: Sequence[Shares],
        k: int,
        filters: Sequence[ItemFilter] | None = None,
        progress: Callable[[int], None] = lambda done: None,
    ) -> dict[Shares, NDArray[np.int32]]:
        """Joined lists, int32 [B, k], for several shares from one search.

        Shares(0) orders as the beam does, Shares(1) as the dense head and Shares(0, 0, 1) as the sequence voice.
        """
        recent = histories.last(self.config.max_items)
        prompts = [self.vocabulary.prompt(self.codes[history]) for history in recent]
        lists = {share: np.full((len(prompts), k), -1, dtype=np.int32) for share in shares}
        for group in self._groups(prompts, "joined"):
            chosen = None if filters is None else [filters[i] for i in group]
            voices = self.voices([prompts[i] for i in group], histories.take(group), k=k, filters=chosen)
            for share in shares:
                rows, _ = _numpy(*_top(voices.joined(share), k))
                lists[share][group, : rows.shape[1]] = rows
            progress(len(group))
        return lists

    def _groups(self, prompts: Sequence[Sequence[int]], ranking: Ranking) -> list[NDArray[np.int64]]:
        groups = batches(prompts, self.config.batch_tokens) if prompts else []
        if ranking == "beam":
            return groups
        most = max(1, _DENSE_CELLS // self.trie.n_items)
        return [group[i : i + most] for group in groups for i in range(0, len(group), most)]

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
        if ranking == "dense":
            return _numpy(*_top(self._dense(self.scorer.start(prompts).hidden, histories, filters), k))
        if ranking == "joined":
            voices = self.voices(prompts, histories, k=k, beams=beams, filters=filters)
            return _numpy(*_top(voices.joined(self.config.shares), k))
        if ranking == "beam":
            result = beam_search(self.scorer, self.trie, prompts, beams=beams, k=k, filters=filters)
            return result.rows, result.scores
        result = beam_search(self.scorer, self.trie, prompts, beams=beams, k=max(k, beams), filters=filters)
        met, dense = torch.from_numpy(result.rows).long(), self._dense(result.hidden, histories, filters)
        of_met = dense.gather(1, met.clamp(min=0)).masked_fill(met < 0, -torch.inf)
        return _numpy(*_take(met, of_met, k))

    def voices(
        self,
        prompts: list[list[int]],
        histories: Sequences,
        *,
        k: int,
        beams: int | None = None,
        filters: list[ItemFilter] | None = None,
    ) -> Voices:
        """What every voice says after each prompt and the whole history behind it."""
        beams = self.config.beams if beams is None else beams
        result = beam_search(self.scorer, self.trie, prompts, beams=beams, k=max(k, beams), filters=filters)
        near = None
        if self.neighbours is not None:
            near = torch.from_numpy(self.neighbours.log_probability(histories.last(self.config.max_items)))
            near[:, ~torch.from_numpy(self.neighbours.known)] = torch.nan
        sequence = None if self.sequence is None else log_probability(self.sequence, histories)
        dense = self._dense(result.hidden, histories, filters)
        return Voices(torch.from_numpy(result.rows).long(), torch.from_numpy(result.scores), dense, near, sequence)

    def _dense(self, hidden: Tensor | None, histories: Sequences, filters: list[ItemFilter] | None) -> Tensor:
        """Log-probabilities of the dense head [B, N] over all items, mean over the views; -inf where a filter forbids.

        Args:
            hidden: [B, H] after the whole of what is read of the histories.
        """
        views = [self._log_probability(hidden)]
        for view in self.config.views:
            prompts = [self.vocabulary.prompt(self.codes[history]) for history in histories.last(view)]
            views.append(self._log_probability(self.scorer.start(prompts).hidden))
        scores = torch.stack(views).mean(dim=0) if len(views) > 1 else views[0]
        if filters is not None:
            for row, one in zip(scores, filters, strict=True):
                one.apply_to_scores(row)
        return scores

    def _log_probability(self, hidden: Tensor | None) -> Tensor:
        if hidden is None or self.head is None:
            raise InputError("no dense head, or an engine without hidden states for it; use --ranking beam")
        with torch.inference_mode():
            if self._item_vectors is None:
                self._item_vectors = self.head.item_matrix().T.contiguous()
            scores: Tensor = (self.head.query(hidden.float()) @ self._item_vectors).log_softmax(dim=1).cpu()
        return scores

    def _reasons(self, rows: NDArray[np.int32], k: int, filters: Sequence[ItemFilter] | None) -> tuple[str | None, ...]:
        found = (rows >= 0).sum(axis=1)
        n = self.trie.n_items
        counts = [n] * len(rows) if filters is None else [one.count for one in filters]
        return tuple(
            None if have == k else f"{allowed} of {n} items are allowed, {have} of them were found; {k} were asked for"
            for have, allowed in zip(found.tolist(), counts, strict=True)
        )


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
