"""`genrec show`: what one user interacted with, and what the run recommends, with titles."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genrec.ranking.config import Ranking
from genrec.semtok import options as check
from genrec.semtok.errors import InputError

SHOWN = 10  # of the history


@dataclass(frozen=True)
class ShowConfig:
    """One user's history and list, with titles.

    Attributes:
        run: the run.
        user: of the run's log.
        history: in place of a user of the log, item ids with spaces between them, oldest first.
        k: items of the list.
        where: conditions on attributes, as JSON: '{"price": {"max": 20}}'.
        ranking: beam, rerank, dense or fused; null: the run's own.
        filter_viewed: leave out the items of the history; null: as in the run's evaluation.
        verify: compare the run's files with their hashes; --no-verify compares sizes alone, and says so.
    """

    run: Path
    user: str | None = None
    history: str | None = None
    k: int = 10
    where: str | None = None
    ranking: Ranking | None = None
    filter_viewed: bool | None = None
    verify: bool = True

    def __post_init__(self) -> None:
        if (self.user is None) == (self.history is None):
            raise InputError('say whose list: genrec show RUN USER, or genrec show RUN --history "ITEM ITEM"')
        check.path(self, "run")
        check.at_least_one(self, "k")
        self.conditions()

    def conditions(self) -> dict[str, Any] | None:
        """The conditions on attributes."""
        return check.json_object(self, "where")


def show(config: ShowConfig) -> str:
    """The text; raises InputError for an unknown user, item or attribute."""
    from genrec.inference.recommender import Recommender

    recommender = Recommender.from_pretrained(config.run, verify=config.verify)
    catalog = recommender.catalog
    users = None if config.user is None else [config.user]
    histories = None if config.history is None else [config.history.split()]
    lists = recommender.recommend(
        histories, users=users, k=config.k, where=config.conditions(), ranking=config.ranking,
        filter_viewed=config.filter_viewed,
    )  # fmt: skip
    rows = recommender.run.histories(users)[0] if users else catalog.rows((histories or [[]])[0])
    lines = [f"{len(rows):,} items in the history{f', the last {SHOWN}' if len(rows) > SHOWN else ''}:"]
    lines += [f"    {catalog.item_ids[row]}  {catalog.titles[row]}" for row in rows[-SHOWN:].tolist()]
    return "\n".join([*lines, "", repr(lists), ""])
