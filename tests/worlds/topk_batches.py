"""Folders as the batch job writes them, for the tests of the stores and the server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from genrec.semtok.folders import new_folder

Lists = Mapping[str, Sequence[tuple[str, float]]]


def write_batch(
    folder: Path, lists: Lists, *, run_id: str = "run-a", parts: int = 1, index_version: str = "ix"
) -> Path:
    """Write `user -> [(item, score), ...]` as a sealed top-K folder of `parts` files, users in the given order."""
    users = list(lists)
    with new_folder(folder, {"run_id": run_id}) as scratch:
        for part in range(parts):
            chosen = users[part::parts]
            frame = pl.DataFrame(
                {
                    "user_id": chosen,
                    "item_ids": [[item for item, _ in lists[user]] for user in chosen],
                    "scores": [[score for _, score in lists[user]] for user in chosen],
                },
                schema={"user_id": pl.String, "item_ids": pl.List(pl.String), "scores": pl.List(pl.Float32)},
            )
            metadata = {"run_id": run_id, "ranking": "fused", "index_version": index_version}
            frame.write_parquet(scratch / f"part-{part:05d}.parquet", metadata=metadata)
    return folder
