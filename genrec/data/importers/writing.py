"""From raw events and items to a folder with `items.jsonl` and `interactions.csv`: repeats, k-core, time order.

Shapes: E events.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from genrec.semtok.errors import InputError
from genrec.semtok.folders import check_replaceable, new_folder, write_atomic

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Imported:
    """What was written, and what became of the other raw rows."""

    users: int
    items: int
    events: int
    repeated: int  # events dropped because the same user, item and time stood there before
    outside_core: int  # events dropped by the k-core filter
    without_metadata: int  # items of the log that the metadata lack; they are written with an empty title


def k_core(users: NDArray[np.int64], items: NDArray[np.int64], k: int) -> NDArray[np.bool_]:
    """Which events stay when users and items with fewer than `k` events are dropped until none is left, bool [E]."""
    kept = np.ones(len(users), dtype=np.bool_)
    while True:
        by_user = np.bincount(users[kept], minlength=int(users.max(initial=-1)) + 1)
        by_item = np.bincount(items[kept], minlength=int(items.max(initial=-1)) + 1)
        staying = kept & (by_user[users] >= k) & (by_item[items] >= k)
        if staying.sum() == kept.sum():
            return kept
        kept = staying


def write_tables(
    events: pl.DataFrame, items: Mapping[str, Mapping[str, Any]], out: Path, *, k: int, source: Mapping[str, Any]
) -> Imported:
    """Filter, order and write the two tables into a new folder.

    Histories are written user by user in order of appearance, each by time; events of one time keep their order.

    Args:
        events: columns `user_id`, `item_id` (text), `timestamp` (a number), and maybe `rating`, in file order.
        items: `title` and attributes by item id; empty attributes are not written.
        out: the folder; one that holds other things is refused.
        k: of the k-core filter; 0 writes every item, also those without interactions.
        source: goes into the folder's manifest.

    Raises:
        InputError: `out` holds something that no import wrote, or no event is left.
    """
    check_out(out)
    total = events.height
    events = events.unique(("user_id", "item_id", "timestamp"), keep="first", maintain_order=True)
    repeated = total - events.height
    users, things = (events[name].rank("dense").to_numpy().astype(np.int64) - 1 for name in ("user_id", "item_id"))
    events = events.filter(pl.Series(k_core(users, things, k)))
    if events.is_empty():
        raise InputError(f"--k_core {k}: no event is left of {total:,}")
    events = events.with_row_index("row")
    events = events.sort(pl.col("row").min().over("user_id"), "timestamp", maintain_order=True).drop("row")

    wanted = events["item_id"].unique(maintain_order=True).to_list()
    present = set(wanted)
    written = [item_id for item_id in items if k == 0 or item_id in present]
    unknown = [item_id for item_id in wanted if item_id not in items]
    if unknown:
        _log.warning("%d items of the log have no metadata, first %r; their titles are empty", len(unknown), unknown[0])
    lines = [_item_line(item_id, items.get(item_id, {})) for item_id in written + unknown]
    with new_folder(out, {"import": dict(source), "k_core": k}) as folder:
        write_atomic(folder / "items.jsonl", "".join(lines))
        events.write_csv(folder / "interactions.csv")
    imported = Imported(
        users=events["user_id"].n_unique(),
        items=len(lines),
        events=events.height,
        repeated=repeated,
        outside_core=total - repeated - events.height,
        without_metadata=len(unknown),
    )
    _log.info("%s: %s", out, asdict(imported))
    return imported


def check_out(out: Path) -> None:
    """Raise InputError if writing the folder would replace something that no import wrote."""
    check_replaceable(out, lambda inputs: "import" in inputs, f"--out {out}")


def _item_line(item_id: str, facts: Mapping[str, Any]) -> str:
    filled = {name: value for name, value in facts.items() if name != "title" and value not in (None, "", [])}
    row = {"item_id": item_id, "title": facts.get("title") or "", **filled}
    return json.dumps(row, ensure_ascii=False) + "\n"
