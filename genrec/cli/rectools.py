"""genrec in RecTools' model interface, and RecTools' data as genrec's tables.

    from genrec.cli.rectools import GenrecModel

    model = GenrecModel(titles, run="runs/shop", lm={"epochs": 10})       # titles: item_id, title, other attributes
    model.fit(dataset)                                                     # a rectools.dataset.Dataset
    model.recommend(users=[7, 12], dataset=dataset, k=10, filter_viewed=True)

A RecTools dataset has no titles, so they are given beside it; its item features become attributes. What is fitted is a
run like any other, and fitting it again on the same data only opens it. RecTools must be installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rectools import Columns
from rectools.dataset import Dataset, DenseFeatures
from rectools.dataset.features import DIRECT_FEATURE_VALUE
from rectools.models.base import FixedColdRecoModelMixin, ModelBase

from genrec.cli.python import fit
from genrec.data.frames import ArrowTable, as_frame
from genrec.recommendations import Recommendations

Triplet = tuple[NDArray[Any], NDArray[Any], NDArray[np.float32]]


def tables(dataset: Dataset, titles: ArrowTable) -> tuple[pl.DataFrame, Any]:
    """The items and the log of a dataset, as `genrec.fit(*tables(…), columns={"timestamp": "datetime"})` takes them.

    Args:
        titles: item_id, title and any attributes; items that the dataset does not know are cold-start items.
    """
    items, log = as_frame(titles, "titles"), dataset.get_raw_interactions()
    features = _features(dataset)
    if features is not None:
        features = features.with_columns(item_id=features["item_id"].cast(items["item_id"].dtype))
        items = items.join(features, on="item_id", how="left", maintain_order="left", suffix="_of_features")
    return items, log[[Columns.User, Columns.Item, Columns.Datetime]]


def _features(dataset: Dataset) -> pl.DataFrame | None:
    """Item features by item: categories with commas between them, other features as numbers."""
    features = dataset.item_features
    if features is None:
        return None
    columns: dict[str, list[Any]] = {}
    if isinstance(features, DenseFeatures):
        columns |= {name: features.values[:, place].tolist() for place, name in enumerate(features.names)}
    else:
        values = features.values.toarray()
        for place, (name, category) in enumerate(features.names):
            if category == DIRECT_FEATURE_VALUE:
                columns[name] = values[:, place].tolist()
                continue
            cells = columns.setdefault(name, [[] for _ in range(len(values))])
            for row in np.flatnonzero(values[:, place]).tolist():
                cells[row].append(str(category))
        columns = {
            name: [", ".join(cell) or None if isinstance(cell, list) else cell for cell in cells]
            for name, cells in columns.items()
        }
    ids = dataset.item_id_map.convert_to_external(np.arange(len(features))).tolist()
    return pl.DataFrame({"item_id": ids, **columns})


class GenrecModel(FixedColdRecoModelMixin, ModelBase[Any]):
    """A genrec run as a RecTools model: users of the dataset by their histories in it, others by an empty one.

    Args:
        titles: see `tables`.
        run: the folder that everything is written to.
        verbose: 0 says nothing, 1 what is done.
        settings: those of `genrec.fit`.
    """

    recommends_for_warm = False
    recommends_for_cold = True

    def __init__(self, titles: ArrowTable, run: str | Path, verbose: int = 0, **settings: Any) -> None:
        super().__init__(verbose=verbose)
        self.titles, self.run, self.settings = titles, run, settings

    def _fit(self, dataset: Dataset, *args: Any, **kwargs: Any) -> None:
        self.recommender = fit(
            *tables(dataset, self.titles), run=self.run, columns={"timestamp": Columns.Datetime},
            verbose=self.verbose > 0, **self.settings,
        )  # fmt: skip

    def _recommend_u2i(
        self, user_ids: Any, dataset: Dataset, k: int, filter_viewed: bool, sorted_item_ids_to_recommend: Any
    ) -> Triplet:
        lists = self.recommender.recommend(
            _histories(dataset, user_ids), k=k, filter_viewed=filter_viewed,
            items_to_recommend=_known(dataset, sorted_item_ids_to_recommend),
        )  # fmt: skip
        return self._triplet(lists, np.asarray(user_ids), dataset)

    def _recommend_i2i(self, target_ids: Any, dataset: Dataset, k: int, sorted_item_ids_to_recommend: Any) -> Triplet:
        targets = dataset.item_id_map.convert_to_external(target_ids).tolist()
        allowed = _known(dataset, sorted_item_ids_to_recommend)
        return self._triplet(self.recommender.similar(targets, k, items_to_recommend=allowed), target_ids, dataset)

    def _get_cold_reco(self, dataset: Dataset, k: int, sorted_item_ids_to_recommend: Any) -> tuple[Any, Any]:
        allowed = _known(dataset, sorted_item_ids_to_recommend)
        lists = self.recommender.recommend([[]], k=k, items_to_recommend=allowed)
        _, items, scores = self._triplet(lists, np.zeros(1, dtype=np.int64), dataset)
        return items, scores

    def _triplet(self, lists: Recommendations, targets: NDArray[Any], dataset: Dataset) -> Triplet:
        """What RecTools asks for: targets, internal item ids and scores, an item each."""
        external = lists.catalog.public_ids(lists.rows.values).to_list()
        items = dataset.item_id_map.convert_to_internal(external)
        return np.repeat(targets, lists.rows.lengths), items, lists.scores


def _known(dataset: Dataset, internal: Any) -> list[Any]:
    """External ids of the items that may be listed: RecTools has no names for others than the dataset's."""
    ids = np.arange(dataset.item_id_map.size) if internal is None else internal
    return dataset.item_id_map.convert_to_external(ids).tolist()


def _histories(dataset: Dataset, user_ids: Sequence[int]) -> list[list[Any]]:
    """The item ids of some users, oldest first."""
    log = dataset.interactions.df.sort_values(Columns.Datetime, kind="stable")
    items = dataset.item_id_map.convert_to_external(log[Columns.Item].to_numpy())
    of_user: dict[int, list[Any]] = {}
    for user, item in zip(log[Columns.User].tolist(), items.tolist(), strict=True):
        of_user.setdefault(user, []).append(item)
    return [of_user[user] for user in np.asarray(user_ids).tolist()]
