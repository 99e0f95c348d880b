"""`Recommender`: a run, opened; item ids in, ranked item ids out.

    recommender = Recommender.from_pretrained("runs/beauty")
    lists = recommender.recommend([["1", "2"]], k=10, exclude_seen=True, where={"categories": "Nails"})
    [recommender.catalog.item_ids[row] for row in lists.rows[0]]

Shapes: B histories, N items, k items asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from genrec.data.sequences import Sequences
from genrec.decoding.beam import beam_search
from genrec.decoding.filters import ItemFilter, WhereFilters
from genrec.decoding.item_input import ItemInput, SpelledItems
from genrec.decoding.node_scores import NodeScorer, NodeScores
from genrec.decoding.scorer import NextCodeScorer
from genrec.decoding.trie import CodeTrie
from genrec.decoding.vocabulary import SidVocabulary
from genrec.inference.engines import ENGINES, EngineModel
from genrec.inference.text_search import TextSearch, whole_characters
from genrec.ranking.config import Ranking
from genrec.ranking.cooccurrence import Cooccurrence
from genrec.ranking.dense_head import DenseHead
from genrec.ranking.ranker import Ranker
from genrec.recommendations import Recommendations
from genrec.run import Run
from genrec.semtok.catalog import Catalog
from genrec.semtok.device import default_device
from genrec.semtok.errors import InputError
from genrec.semtok.folders import hash_value
from genrec.semtok.pretrained import ModelFolder, open_folder
from genrec.semtok.semantic_ids import SemanticIds
from genrec.semtok.vectors import ItemVectors, unit_rows
from genrec.tasks.writer import search_prompt

TEMPERATURE = 0.01  # of cosines in `search`: a difference of 0.01 weighs as much as one of 1 in log-probability
PROPOSED = 50  # items that the cosines propose


class Recommender:
    """Recommends from one run.

    Args:
        catalog: N items.
        semantic_ids: their codes.
        vectors: [N, W], for `similar`.
        ranker: ranks histories of catalogue rows.
        engine: reads a text's prompt in `search`, by codes alone.
        tokenizer: of the LM, for `search`.
        run_id: hash of what decides the lists.
        open_text: opens the text vectors of the run, for `search`; called when it is first used.
    """

    def __init__(
        self,
        catalog: Catalog,
        semantic_ids: SemanticIds,
        vectors: ItemVectors,
        ranker: Ranker,
        engine: NextCodeScorer,
        tokenizer: PreTrainedTokenizerBase,
        run_id: str,
        open_text: Callable[[], TextSearch],
    ) -> None:
        self.catalog, self.semantic_ids, self.ranker, self.run_id = catalog, semantic_ids, ranker, run_id
        self.engine = engine
        self.trie, self.index_version = ranker.trie, ranker.trie.index_version
        self.filters = WhereFilters(self.trie, catalog)
        self._tokenizer, self._open_text = tokenizer, open_text
        self._unit_vectors = unit_rows(vectors.values)

    @classmethod
    def from_pretrained(
        cls,
        run: Path | str,
        *,
        engine: str = "torch",
        device: str | None = None,
        dtype: Literal["float32", "bfloat16"] | None = None,
        verify: bool = True,
    ) -> Recommender:
        """Open a run folder.

        Args:
            engine: torch, or vllm (installation: docs/how-to/gpu.md).
            device: of the torch engine; None takes the GPU where there is one, as vllm does.
            dtype: None takes float32 on a CPU and bfloat16 on a GPU.
            verify: compare every file with its hash, which reads it once more; False compares sizes and says so.

        Raises:
            InputError: a part of the run is missing, truncated, foreign or of another run; there is no such device.
        """
        with Run.open(run, hashes=verify) as opened:
            return cls.of(opened, engine=engine, device=device, dtype=dtype)

    @classmethod
    def of(
        cls,
        run: Run,
        *,
        engine: str = "torch",
        device: str | None = None,
        dtype: Literal["float32", "bfloat16"] | None = None,
    ) -> Recommender:
        """The same of a run that is open, or that this process works on."""
        device = _device(engine, device)
        run_id = hash_value(run.files(("catalog", "vectors/item", "semtok", "lm")))[:16]
        catalog, ids, vectors = run.catalog(), run.semantic_ids(), run.item_vectors()
        run.language_model()  # a run of an earlier version says so before its model is opened
        folder = open_folder(run.lm, str(run.lm))
        scorer = _scorer(run, folder, engine, device, dtype or ("bfloat16" if device.startswith("cuda") else "float32"))
        ranker, search = _ranker(run, scorer, device), partial(TextSearch.of, run)
        _check_width(ranker, scorer, run)
        tokenizer = folder.tokenizer()
        ranker.vocabulary.check_spelling(tokenizer, str(run.lm))
        return cls(catalog, ids, vectors, ranker, scorer, tokenizer, run_id, search)

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        *,
        k: int = 10,
        beams: int | None = None,
        ranking: Ranking | None = None,
        exclude_seen: bool = True,
        where: Mapping[str, Any] | None = None,
        allowed: NDArray[np.bool_] | None = None,
        deny: Sequence[Sequence[str]] | None = None,
    ) -> Recommendations:
        """The k best items after each history.

        Args:
            histories: B histories of item ids, oldest first; an empty one, of an anonymous user, gets first items.
            where: conditions on attributes (see `genrec.decoding.filters.WhereFilters`).
            allowed: bool [N], catalogue rows that may be shown.
            deny: item ids that one history's list must not hold, one sequence a history.

        Raises:
            InputError: an unknown item, attribute or ranking, or k below 1.
        """
        rows = Sequences.from_lists([self.catalog.rows(history) for history in histories])
        denied = None if deny is None else [self.catalog.rows(items) for items in deny]
        return self.recommend_rows(
            rows, k=k, beams=beams, ranking=ranking, exclude_seen=exclude_seen, where=where, allowed=allowed,
            denied=denied,
        )  # fmt: skip

    def recommend_rows(
        self,
        histories: Sequences,
        *,
        k: int,
        beams: int | None = None,
        ranking: Ranking | None = None,
        exclude_seen: bool = True,
        where: Mapping[str, Any] | None = None,
        allowed: NDArray[np.bool_] | None = None,
        denied: Sequence[NDArray[np.int32]] | None = None,
    ) -> Recommendations:
        """`recommend` for histories of catalogue rows."""
        shared = self._shared(where, allowed)
        filters = [shared.deny(h) if exclude_seen else shared for h in histories]
        if denied is not None:
            filters = [filter_of_user.deny(items) for filter_of_user, items in zip(filters, denied, strict=True)]
        return self.ranker.rank(histories, k=k, ranking=ranking, beams=beams, filters=filters)

    def search(
        self,
        query: str,
        k: int = 10,
        *,
        where: Mapping[str, Any] | None = None,
        allowed: NDArray[np.bool_] | None = None,
        deny: Sequence[str] = (),
        by_text_vectors: bool = True,
    ) -> list[tuple[str, float]]:
        """Items that a text describes, best first: (item id, score).

        Two scorers: the LM's text-to-codes task, and cosines of the run's text vectors. Either proposes items; one
        constrained search over all that were proposed gives each the log-probability of its codes after the query, and

            score = log p(codes | query) + cosine / TEMPERATURE

        so a language model that has read little leaves the order to the words.

        Args:
            by_text_vectors: let the text vectors propose and weigh; False leaves the LM alone.
        """
        query = whole_characters(query)
        prompt = search_prompt(self._tokenizer, query)
        item_filter = self._shared(where, allowed).deny(self.catalog.rows(deny))
        scores = self._read(prompt, item_filter, max(k, self.ranker.config.beams))
        if by_text_vectors:
            cosines = item_filter.apply_to_scores(self._text.cosines(query))
            near = np.argsort(-cosines, kind="stable")[: max(k, PROPOSED)]
            proposed = np.zeros(len(self.catalog), dtype=np.bool_)
            proposed[[*scores, *near[np.isfinite(cosines[near])]]] = True
            read = self._read(prompt, ItemFilter.from_mask(self.trie, proposed), int(proposed.sum()))
            scores = {row: score + float(cosines[row]) / TEMPERATURE for row, score in read.items()}
        best = sorted(scores.items(), key=lambda pair: (-pair[1], pair[0]))[:k]
        return [(self.catalog.item_ids[row], score) for row, score in best]

    def _read(self, prompt: list[int], item_filter: ItemFilter, beams: int) -> dict[int, float]:
        """Log-probabilities of the codes of items after a prompt, by catalogue row; of all that are allowed, where
        there are no more than `beams`."""
        beams = max(1, min(beams, self.trie.n_items))
        found = beam_search(self.engine, self.trie, [prompt], beams=beams, k=beams, filters=[item_filter])
        pairs = zip(found.rows[0].tolist(), found.scores[0].tolist(), strict=True)
        return {row: score for row, score in pairs if row >= 0}

    @cached_property
    def _text(self) -> TextSearch:
        return self._open_text()

    def similar(self, item_id: str, k: int) -> list[tuple[str, float]]:
        """The k nearest other items by cosine of the fused vectors, withdrawn ones left out: (item id, cosine)."""
        row = self.catalog.row(item_id)
        cosine = self._unit_vectors @ self._unit_vectors[row]
        cosine[self.catalog.withdrawn] = -np.inf
        cosine[row] = -np.inf
        best = np.lexsort((np.arange(len(cosine)), -cosine))[:k]
        return [(self.catalog.item_ids[i], float(cosine[i])) for i in best if np.isfinite(cosine[i])]

    def _shared(self, where: Mapping[str, Any] | None, allowed: NDArray[np.bool_] | None) -> ItemFilter:
        shared = self.filters(where)
        return shared if allowed is None else shared & ItemFilter.from_mask(self.trie, allowed)


def open_ranker(run: Run) -> Ranker:
    """The ranker of a run, by torch; in float32, so that a report says the same on every device."""
    return Recommender.of(run, dtype="float32").ranker


def _device(engine: str, device: str | None) -> str:
    """The device by its name; raises InputError where there is none."""
    if engine not in ENGINES:
        raise InputError(f"engine {engine!r}: choose one of {', '.join(ENGINES)}")
    if device is None or not ENGINES[engine].takes_device:
        device = default_device().type
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device {device!r} is unavailable here ({str(error).splitlines()[0]})") from None
    return device


def _scorer(
    run: Run, folder: ModelFolder, engine: str, device: str, dtype: Literal["float32", "bfloat16"]
) -> NextCodeScorer:
    """The language model, as an engine runs it."""
    ids, facts, lm = run.semantic_ids(), run.language_model(), run.lm
    vocabulary = SidVocabulary.load(lm)
    if vocabulary.sizes != ids.sizes:
        raise InputError(f"{lm}: trained for codes {vocabulary.sizes}, the semantic IDs have {ids.sizes}")
    content = torch.from_numpy(run.item_vectors().values).to(device)
    item_input = ItemInput.load(lm / "heads", SpelledItems(vocabulary, ids.codes), content)
    item_input = None if item_input is None else item_input.to(device)
    model = EngineModel(lm, folder, vocabulary, facts.score_space, dtype, device, item_input)
    return ENGINES[engine].build(model)


def _check_width(ranker: Ranker, scorer: NextCodeScorer, run: Run) -> None:
    """Raise InputError where the dense head was made for hidden states of another width than the model's."""
    hidden = scorer.start([[ranker.vocabulary.history_token]]).hidden
    if ranker.head is not None and hidden is not None and hidden.shape[-1] != ranker.head.query.in_features:
        width = ranker.head.query.in_features
        raise InputError(
            f"{run.lm}: dense.safetensors reads states of width {width}, the model's are {hidden.shape[-1]}"
        )


def _ranker(run: Run, scorer: NextCodeScorer, device: str) -> Ranker:
    """The language model beside the other component scorers."""
    ids, heads = run.semantic_ids(), run.lm / "heads"
    trie, content = CodeTrie(ids.codes, ids.sizes), torch.from_numpy(run.item_vectors().values).to(device)
    head = DenseHead.load(heads / "dense.safetensors", torch.from_numpy(ids.codes), ids.sizes, content).to(device)
    nodes = NodeScores.load(heads, trie)
    reader = scorer if nodes is None else NodeScorer(scorer, nodes.to(device), head)
    cooccurrence = Cooccurrence.load(heads / "cooccurrence.safetensors").extended(len(ids))
    ranking = run.language_model().ranking
    return Ranker(reader, trie, SidVocabulary.load(run.lm), ids.codes, head, ranking, cooccurrence, run.sequential())
