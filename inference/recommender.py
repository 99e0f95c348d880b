"""`Recommender`: a run, opened: recommendations, search by text, similar items, its evaluation, and new items.

    recommender = Recommender.from_pretrained("runs/beauty")
    recommender.recommend(users=["ann"], k=10, where={"categories": "Nails"})     # what the log knows of ann
    recommender.recommend(histories=[["1", "2"]], k=10, filter_viewed=False)      # anybody
    recommender.similar("1").to_pandas()

torch, transformers and the engine are loaded when a run is opened, and not with this module.

Shapes: B histories, N items, k items asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from genrec.data.frames import Table, as_file
from genrec.data.sequences import Sequences
from genrec.recommendations import RankedRows, Recommendations
from genrec.semtok.errors import InputError

if TYPE_CHECKING:
    from genrec.decoding.filters import ItemFilter
    from genrec.evaluation.evaluation import Evaluation
    from genrec.inference.opening import Opened
    from genrec.inference.similar import Best, SimilarItems
    from genrec.inference.text_search import SearchWeights, TextSearch
    from genrec.ranking.config import Ranking
    from genrec.run import Run
    from genrec.semtok.nearest import Retrieval

Id: TypeAlias = str | int
Items: TypeAlias = Iterable[Id] | NDArray[np.bool_]


class Recommender:
    """Recommends from one run.

    Args:
        run: the run, open or worked on by this process.
        engine, device, dtype, retrieval: see `from_pretrained`.
    """

    def __init__(
        self,
        run: Run,
        *,
        engine: str = "torch",
        device: str | None = None,
        dtype: Literal["float32", "bfloat16"] | None = None,
        retrieval: Retrieval = "auto",
    ) -> None:
        from genrec.inference.opening import open_parts

        self.run, self._open = run, partial(open_parts, run, engine, device, dtype, retrieval)
        self._take(self._open())

    @classmethod
    def from_pretrained(
        cls,
        run: Path | str,
        *,
        engine: str = "torch",
        device: str | None = None,
        dtype: Literal["float32", "bfloat16"] | None = None,
        retrieval: Retrieval = "auto",
        verify: bool = True,
        revision: str | None = None,
        token: str | None = None,
    ) -> Recommender:
        """Open a run folder, or the run that somebody has shared on the Hugging Face hub.

        Args:
            run: the folder; or USER/NAME of the hub, where neither that folder nor one called USER is here.
            engine: torch, or vllm (installation: docs/how-to/gpu.md).
            device: of the torch engine; None takes the GPU where there is one, as vllm does.
            dtype: None takes float32 on a CPU and bfloat16 on a GPU.
            retrieval: exact; approximate, by the extra `faiss`, which the rankings `dense` and `fused`, and `similar`,
                then read; or auto, which is approximate from 200,000 items on where that extra is installed.
            verify: compare every file with its hash, which reads it once more; False compares sizes and says so.
            revision: of the hub: a branch, a tag or a commit; a commit never changes.
            token: of the hub, for a private repository; None: the one that `hf auth login` has kept, or HF_TOKEN.

        Raises:
            InputError: a part of the run is missing, truncated, foreign or of another run; there is no such device;
                approximate retrieval without its extra.
        """
        from genrec.inference.sharing import fetch, is_hub_id
        from genrec.run import Run

        if is_hub_id(run):
            run = fetch(str(run), revision=revision, token=token)
        with Run.open(run, hashes=verify) as opened:
            return cls(opened, engine=engine, device=device, dtype=dtype, retrieval=retrieval)

    def _take(self, parts: Opened) -> None:
        self._parts, self.filters = parts, parts.filters
        self.catalog, self.semantic_ids, self.ranker, self.run_id = (
            parts.catalog, parts.semantic_ids, parts.ranker, parts.run_id,
        )  # fmt: skip
        self.engine, self.tokenizer, self.filter_viewed = parts.engine, parts.tokenizer, parts.filter_viewed
        self.trie, self.index_version = parts.ranker.trie, parts.ranker.trie.index_version
        self.retrieval: Retrieval = "approximate" if parts.approximate else "exact"
        for made in ("_text", "_similar"):
            self.__dict__.pop(made, None)

    def __repr__(self) -> str:
        return f"Recommender({str(self.run)!r}: {len(self.catalog):,} items, ranking {self.ranker.config.ranking})"

    def recommend(
        self,
        histories: Sequence[Sequence[Id]] | None = None,
        *,
        users: Sequence[Id] | None = None,
        k: int = 10,
        filter_viewed: bool | None = None,
        items_to_recommend: Items | None = None,
        where: Mapping[str, Any] | None = None,
        deny: Sequence[Sequence[Id]] | None = None,
        ranking: Ranking | None = None,
    ) -> Recommendations:
        """The k best items after each history.

        Args:
            histories: B histories of item ids, oldest first; an empty one, of an anonymous user, gets first items.
            users: in place of histories, B users of the run's log, whose whole histories are read.
            filter_viewed: leave out the items of the history; None: as in the run's evaluation.
            items_to_recommend: item ids that may be shown, or bool [N] by catalogue row.
            where: conditions on attributes (see `genrec.decoding.filters.WhereFilters`).
            deny: item ids that one history's list must not hold, one sequence a history.
            ranking: beam, rerank, dense or fused; None: the run's own.

        Raises:
            InputError: an unknown user, item, attribute or ranking, or k below 1; users and histories, or neither.
        """
        if (users is None) == (histories is None):
            raise InputError("recommend takes users=[...] of the run's log, or histories=[[...]] of item ids")
        if users is not None:
            rows = self.run.histories([str(user) for user in users])
            ids, asked = list(users), "user_id"
        else:
            rows = Sequences.from_lists([self.catalog.rows(history) for history in histories or ()])
            ids, asked = list(range(len(rows))), "history"
        denied = None if deny is None else [self.catalog.rows(items) for items in deny]
        lists = self.recommend_rows(
            rows, k=k, filter_viewed=filter_viewed, items_to_recommend=items_to_recommend, where=where, denied=denied,
            ranking=ranking,
        )  # fmt: skip
        return Recommendations.of(lists, self.catalog, ids, "user_id" if asked == "user_id" else "history")

    def recommend_rows(
        self,
        histories: Sequences,
        *,
        k: int,
        filter_viewed: bool | None = None,
        items_to_recommend: Items | None = None,
        where: Mapping[str, Any] | None = None,
        denied: Sequence[NDArray[np.int32]] | None = None,
        ranking: Ranking | None = None,
        beams: int | None = None,
    ) -> RankedRows:
        """`recommend` for histories of catalogue rows, and with so many beams."""
        shared = self._allowed(where, items_to_recommend)
        viewed = self.filter_viewed if filter_viewed is None else filter_viewed
        filters = [shared.deny(history) if viewed else shared for history in histories]
        if denied is not None:
            filters = [filter_of_user.deny(items) for filter_of_user, items in zip(filters, denied, strict=True)]
        return self.ranker.rank(histories, k=k, ranking=ranking, beams=beams, filters=filters)

    def search(
        self,
        queries: str | Sequence[str],
        k: int = 10,
        *,
        items_to_recommend: Items | None = None,
        where: Mapping[str, Any] | None = None,
        deny: Sequence[Id] = (),
        weights: SearchWeights | None = None,
    ) -> Recommendations:
        """Items that a text describes, best first; see `genrec.inference.text_search`.

        The list of a query without a known word is empty where the run's encoder knows only the words of its catalogue.

        Args:
            queries: a text or several, a list each.
            weights: of BM25, text vectors and the language model; None: those found on validation queries.
        """
        from genrec.inference.similar import best
        from genrec.inference.text_search import SearchWeights, scores_of

        allowed = self._allowed(where, items_to_recommend).deny(self.catalog.rows(deny))
        weights = SearchWeights() if weights is None else weights
        asked = [queries] if isinstance(queries, str) else list(queries)
        if k < 1:
            raise InputError(f"k must be at least 1, not {k}")
        found = [best(scores_of(self._parts, self._text, query, k, allowed, weights), k) for query in asked]
        return Recommendations.of(_lists(found, k, "no item has a word of the query"), self.catalog, asked, "query")

    @property
    def can_search(self) -> bool:
        """Whether the run has the text vectors that `search` reads; a run may be copied without."""
        return (self.run.path / "vectors/text").is_dir()

    @cached_property
    def _text(self) -> TextSearch:
        from genrec.inference.text_search import TextSearch

        return TextSearch.of(self.run)

    def similar(
        self,
        items: Id | Sequence[Id],
        k: int = 10,
        *,
        items_to_recommend: Items | None = None,
        where: Mapping[str, Any] | None = None,
    ) -> Recommendations:
        """The k nearest other items by cosine of the fused vectors, withdrawn ones left out.

        With approximate retrieval an index is built at the first call, and a list may miss an item; where it finds
        fewer than k, or a condition leaves few items, the list is exact.

        Args:
            items: an item or several, a list each.
        """
        asked: list[Id] = [items] if isinstance(items, str | int | np.integer) else list(items)
        rows, allowed = self.catalog.rows(asked), self._allowed(where, items_to_recommend)
        if k < 1:
            raise InputError(f"k must be at least 1, not {k}")
        found = [self._similar.best(int(row), k, allowed) for row in rows]
        return Recommendations.of(_lists(found, k), self.catalog, asked, "target_item_id")

    @cached_property
    def _similar(self) -> SimilarItems:
        from genrec.inference.similar import SimilarItems

        return SimilarItems(self._parts.unit_vectors, approximate=self._parts.approximate)

    def evaluate(self) -> Evaluation:
        """The run's rankings beside baselines on its test split; the report is made again where it is out of date.

        Raises:
            InputError: a stage of the run is unfinished, or another process works on the run.
        """
        from genrec.evaluation.evaluation import Evaluation
        from genrec.evaluation.report_stage import update_report
        from genrec.inference.opening import open_ranker

        update_report(self.run, open_ranker)
        return Evaluation(self.run.metrics())

    def add_items(self, items: Table) -> int:
        """Give new items semantic IDs, without training, in the run's folder and in this object; returns how many.

        Args:
            items: a data frame or the path of a table, with the columns of the item table that the run was fitted on.

        Raises:
            InputError: the table is bad, an item is in the catalogue already, or another process works on the run.
        """
        from genrec.add_items import add

        with as_file(items, "items") as path:
            count = add(self.run, path)
        self._take(self._open())
        return count

    def save_pretrained(self, folder: Path | str, *, with_log: bool = False, license: str | None = None) -> None:
        """Write what recommends, with a model card, into a new folder, which `from_pretrained` opens like any run.

        Args:
            with_log: also what is of the log: users and their histories, by which the run knows `users`, can be
                evaluated and takes new items. Personal data.
            license: as a hub calls it (`apache-2.0`); None: the card says that it is to be said.

        Raises:
            InputError: the folder holds something, or the run has no report.
        """
        from genrec.evaluation.card import CardFacts
        from genrec.inference.sharing import save_shared

        save_shared(self.run, Path(folder), CardFacts(Path(folder).name, with_log, license))

    def export_onnx(self, file: Path | str, *, k: int = 20, filter_viewed: bool | None = None) -> None:
        """Write the run's aligned recommender, which ranks without a language model, as one ONNX file.

        Args:
            k: items of a list.
            filter_viewed: leave the items of the history out; None: as in the run's evaluation.

        Raises:
            InputError: the run has no aligned recommender, or the extra `onnx` is not installed.
        """
        from genrec.inference.onnx_export import export

        export(self.run, Path(file), k=k, filter_viewed=filter_viewed)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = True,
        with_log: bool = False,
        license: str | None = None,
        token: str | None = None,
    ) -> str:
        """Upload what `save_pretrained` writes to the Hugging Face hub; returns the address.

        Args:
            repo_id: USER/NAME; what is in such a repository is replaced.
            private: of a repository that is new.
            with_log, license: see `save_pretrained`.
            token: None: the one that `hf auth login` has kept, or HF_TOKEN.

        Raises:
            InputError: the run cannot be shared, or the hub does not take it.
        """
        from genrec.evaluation.card import CardFacts
        from genrec.inference.sharing import push

        return push(self.run, CardFacts(repo_id, with_log, license), private=private, token=token)

    def _allowed(self, where: Mapping[str, Any] | None, items: Items | None) -> ItemFilter:
        from genrec.decoding.filters import ItemFilter

        shared = self.filters(where)
        if items is None:
            return shared
        if isinstance(items, np.ndarray) and items.dtype == np.bool_:
            return shared & ItemFilter.from_mask(self.trie, items)
        mask = np.zeros(len(self.catalog), dtype=np.bool_)
        mask[self.catalog.rows(items)] = True
        return shared & ItemFilter.from_mask(self.trie, mask)


def _lists(found: Sequence[Best], k: int, none: str = "no item was found") -> RankedRows:
    """Ragged lists, with the reason where one is short; `none` where one is empty."""
    reasons = tuple(
        None if len(rows) == k else f"{len(rows)} items were found; {k} were asked for" if len(rows) else none
        for rows, _ in found
    )
    rows = Sequences.from_lists([rows for rows, _ in found])
    return RankedRows(rows, np.concatenate([np.empty(0, np.float32), *(scores for _, scores in found)]), reasons)
