"""The offline batch job: top-K lists for any number of users, in shards that a killed job resumes.

    out/part-00000.parquet   user_id, item_ids, scores (best first), reason (why a list is short, else null)
    out/job.json             what decides the lists: another job refuses to continue here
    out/manifest.json        written last: the job, counts, and every file with its hash

Shards follow the order of the users and batches are formed inside a shard, so a shard's bytes don't depend on what ran
before it or where. A shard is done when its file is there: files appear whole, by renaming. The file `.out.lock`
beside the folder keeps a second job out of it. Until the folder is sealed, `.parts.jsonl` has the hash of each finished
file: one that is damaged, or that nobody noted, is made anew. Where shards are worked on is the business of an
`Executor`: in this process, or on many machines (`genrec.inference.batch.ray_executor`).

    job = BatchJob(run_id=..., ranking="beam", index_version=trie.index_version, k=10)
    options = {"job": job, "item_ids": catalog.item_ids, "log": RUN / "topk/log.jsonl"}
    write_shards(in_process(recommend), FileUsers(RUN / "split/users.parquet", catalog), RUN / "topk", **options)
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from tqdm import tqdm

from genrec.data.sequences import Sequences
from genrec.inference.batch.users import Users
from genrec.recommendations import RankedRows
from genrec.semtok.errors import InputError
from genrec.semtok.folders import (
    LOG,
    MANIFEST,
    check_folder,
    hash_file,
    hold_lock,
    read_json,
    to_json,
    write_atomic,
    write_manifest,
)  # fmt: skip

JOB = "job.json"
PARTS = ".parts.jsonl"
ATTEMPTS = 3
_log = logging.getLogger(__name__)

Recommend = Callable[[Sequences], RankedRows]
"""Histories (catalogue rows, oldest first) to ranked lists, one each, in their order. Must give the same lists whenever
it is given the same histories."""


@dataclass(frozen=True)
class BatchJob:
    """What, beside the users, decides a job's lists."""

    run_id: str  # this and the next two are what stores and servers quote; written into every file
    ranking: str
    index_version: str
    k: int  # items a user
    shard_size: int = 4096  # users a file
    # what else decides the lists or should be in the manifest: the model, the catalogue, beams, filters, number type
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("k", "shard_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True)
class Shard:
    """The users of one file."""

    index: int
    user_ids: tuple[str, ...]
    histories: Sequences

    @property
    def file(self) -> str:
        """Its name."""
        return f"part-{self.index:05d}.parquet"


class ShardError(RuntimeError):
    """A shard that failed as often as it may; the message is one line."""


Executor = Callable[[Iterable[Shard]], Iterator[tuple[Shard, RankedRows]]]
"""Answers shards, each once, in any order, and doesn't take many more from the iterable than it works on."""


def in_process(recommend: Recommend, *, attempts: int = ATTEMPTS) -> Executor:
    """Work on one shard after the other, here; one that fails is tried again."""

    def execute(shards: Iterable[Shard]) -> Iterator[tuple[Shard, RankedRows]]:
        for shard in shards:
            for attempt in range(1, attempts + 1):
                try:
                    result = recommend(shard.histories)
                except Exception as error:  # whatever a model or a device throws; the last one is raised
                    note_failure(shard, attempt, attempts, error)
                else:
                    yield shard, result
                    break

    return execute


def note_failure(shard: Shard, attempt: int, attempts: int, error: BaseException) -> None:
    """Log that a shard failed; raises `ShardError` after the last attempt, and a person's mistake at once."""
    if isinstance(error, InputError):
        raise error
    reason = (str(error).strip().splitlines() or [""])[0]
    users = f"users {shard.user_ids[0]!r} to {shard.user_ids[-1]!r}"
    message = f"shard {shard.index} ({users}) failed, attempt {attempt} of {attempts}: {type(error).__name__}: {reason}"
    if attempt == attempts:
        raise ShardError(message) from error
    _log.warning("%s", message)


def write_shards(
    execute: Executor,
    users: Users,
    out: Path,
    *,
    job: BatchJob,
    item_ids: Sequence[str],
    log: Path,
    restart: bool = False,
) -> dict[str, int]:
    """Write every user's list, or what an interrupted job left to write.

    Args:
        execute: answers shards.
        users: who.
        out: the folder; new, or of the same job.
        job: what, beside the users, decides the lists.
        item_ids: id of each catalogue row.
        log: file to append speeds to, one JSON object a line; `out/log.jsonl`, or the log of the run that `out` is
            a part of.
        restart: delete what a job left in `out` and begin again.

    Returns:
        Counts, as in the manifest: `users`, `items` (in all lists), `short_lists`, `shards`.

    Raises:
        InputError: `out` holds something else, or another job is writing there.
        ShardError: a shard failed too often, or nothing can be written there. Finished shards stay.
    """
    if users.count == 0:
        raise InputError("there are no users to recommend to")
    identity = {**asdict(job), "users": users.count, "users_digest": users.digest}
    place = out.resolve()  # one lock by whichever path a folder is named
    lock = hold_lock(place.parent / f".{place.name}.lock", f"{out}: another job is writing here")
    with lock, _writing(out):
        if _claim(out, identity, restart=restart):
            return check_folder(out, hashes=True)["inputs"]["counts"]
        _remove_damaged(out)
        ids = pl.Series(item_ids, dtype=pl.String)
        started, written = time.monotonic(), 0
        # tqdm shows nothing where standard error is no terminal, nor for a job that ends within two seconds.
        with tqdm(total=users.count, unit="user", delay=2, disable=None) as bar:
            pending = _pending(cut(users, job.shard_size), out, bar)
            for shard, result in execute(pending):
                data = render(shard, result, job, ids)
                write_atomic(out / shard.file, data)
                _append(out / PARTS, {"file": shard.file, "sha256": hashlib.sha256(data).hexdigest()})
                bar.update(len(shard.user_ids))
                written += len(shard.user_ids)
                _note(log, "shard", shard=shard.index, users=len(shard.user_ids), speed=written / _since(started))
        if damaged := _remove_damaged(out):
            raise ShardError(f"{out / damaged[0]}: changed since it was written")
        counts = _count(out, users.count, job.shard_size)
        (out / PARTS).unlink()
        write_manifest(out, {"job": identity, "counts": counts})
        seconds = _since(started)
        _note(log, "batch", **counts, users_written=written, seconds=seconds, speed=written / seconds)
        return counts


def cut(users: Iterable[tuple[str, Any]], size: int) -> Iterator[Shard]:
    """Shards of `size` users, in order; the last may be smaller."""
    names: list[str] = []
    histories: list[Any] = []
    index = 0
    for user_id, history in users:
        names.append(user_id)
        histories.append(history)
        if len(names) == size:
            yield Shard(index, tuple(names), Sequences.from_lists(histories))
            names, histories, index = [], [], index + 1
    if names:
        yield Shard(index, tuple(names), Sequences.from_lists(histories))


def render(shard: Shard, result: RankedRows, job: BatchJob, ids: pl.Series) -> bytes:
    """The shard's Parquet file. Raises ValueError where the lists are not those of its users."""
    lengths, rows = result.rows.lengths, result.rows.values
    if len(result) != len(shard.user_ids) or lengths.max(initial=0) > job.k:
        raise ValueError(f"shard {shard.index}: {len(result)} lists of up to {lengths.max(initial=0)} items")
    if len(rows) and not 0 <= rows.min() <= rows.max() < len(ids):
        raise ValueError(f"shard {shard.index}: a list names a catalogue row outside 0 to {len(ids) - 1}")
    table = pl.DataFrame(
        {
            "user_id": pl.Series(shard.user_ids, dtype=pl.String),
            "item_ids": _ragged(ids.gather(pl.Series(rows, dtype=pl.UInt32)), lengths),
            "scores": _ragged(pl.Series(result.scores, dtype=pl.Float32), lengths),
            "reason": pl.Series(result.reasons, dtype=pl.String),
        }
    )
    facts = {"run_id": job.run_id, "ranking": job.ranking, "index_version": job.index_version, "k": str(job.k)}
    buffer = io.BytesIO()
    table.write_parquet(buffer, metadata=facts)
    return buffer.getvalue()


def _ragged(values: pl.Series, lengths: NDArray[np.int64]) -> pl.Series:
    """Consecutive runs of `values` as a column of lists."""
    width = max(int(lengths.max(initial=0)), 1)
    slots = np.arange(width) + (np.cumsum(lengths) - lengths)[:, None]
    padded = values.extend_constant(None, 1).gather(np.minimum(slots, len(values)).ravel())
    lists = padded.reshape((len(lengths), width)).arr.to_list()
    return pl.select(pl.lit(lists).list.head(pl.lit(pl.Series(lengths)))).to_series()


def files_of_a_job(out: Path) -> list[str]:
    """Names of what lies in the folder of a job's lists; raises InputError for what no job made, and for a file."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: a file, not a folder; give another")
    present = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    foreign = [name for name in present if not _is_ours(name)]
    if foreign:
        raise InputError(f"{out}: {foreign[0]} was not made by a batch job; give another folder")
    return present


def _claim(out: Path, identity: dict[str, Any], *, restart: bool) -> bool:
    """Make `out` this job's folder, or find it to be; True if the job is done already."""
    present = files_of_a_job(out)
    if restart:
        # The job file goes last, so that a kill in between leaves a folder that is still known to be of another job.
        for name in sorted(present, key=lambda name: name == JOB):
            (out / name).unlink()
    elif (out / JOB).is_file():
        difference = _difference(read_json(out / JOB), json.loads(json.dumps(identity)))
        if difference is not None:
            raise InputError(f"{out} holds another job: {difference}; give another folder, or --restart to delete it")
        if (out / MANIFEST).is_file():
            return True
    elif any(not name.endswith(".tmp") for name in present):
        raise InputError(f"{out} has {present[-1]} but no {JOB}; give another folder, or --restart to delete it")
    for scratch in out.glob(".*.tmp"):  # of writes that were killed; the manifest must not list them
        scratch.unlink()
    write_atomic(out / JOB, to_json(identity))
    return False


def _is_ours(name: str) -> bool:
    return (
        name in (JOB, MANIFEST, PARTS, LOG)
        or name.endswith(".tmp")
        or (name.startswith("part-") and name.endswith(".parquet"))
    )


def _remove_damaged(out: Path) -> list[str]:
    """Remove the parts whose bytes are not those that were noted when they were written; their names."""
    noted = {}
    for line in (out / PARTS).read_bytes().splitlines() if (out / PARTS).is_file() else []:
        try:
            entry = json.loads(line)
            noted[entry["file"]] = entry["sha256"]
        except (ValueError, TypeError, KeyError):  # a line that a kill cut; its part is made anew
            continue
    damaged = [path for path in sorted(out.glob("part-*.parquet")) if hash_file(path) != noted.get(path.name)]
    for path in damaged:
        _log.warning("%s: not what the job wrote, or nobody noted it; it is made anew", path)
        path.unlink()
    return [path.name for path in damaged]


@contextlib.contextmanager
def _writing(out: Path) -> Iterator[None]:
    """A full disk, say, is one line; whatever was finished stays."""
    try:
        yield
    except OSError as error:
        raise ShardError(f"{error.filename or out}: {error.strerror}") from error


def _difference(old: dict[str, Any], new: dict[str, Any]) -> str | None:
    """What the first difference between two jobs is, in words."""
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            if (inner := _difference(before, after)) is not None:
                return inner
        elif before != after:
            return f"its {key} was {before!r}, now {after!r}"
    return None


def _pending(shards: Iterator[Shard], out: Path, bar: tqdm[Any]) -> Iterator[Shard]:
    """The shards whose file is not there."""
    for shard in shards:
        if (out / shard.file).is_file():
            bar.update(len(shard.user_ids))
        else:
            yield shard


def _count(out: Path, n_users: int, shard_size: int) -> dict[str, int]:
    """Counts over the files; raises RuntimeError where they don't hold the users of the job."""
    n_shards = -(-n_users // shard_size)
    names = [f"part-{index:05d}.parquet" for index in range(n_shards)]
    lists = pl.scan_parquet([out / name for name in names], glob=False)
    users, items, short = (
        lists.select(pl.len(), pl.col("item_ids").list.len().sum(), pl.col("reason").is_not_null().sum())
        .collect()
        .row(0)
    )
    if users != n_users:
        raise RuntimeError(f"{out}: lists of {users} users, but the job has {n_users}")
    return {"users": users, "items": items, "short_lists": short, "shards": n_shards}


def _since(started: float) -> float:
    return max(time.monotonic() - started, 1e-6)


def _note(log: Path, event: str, **facts: Any) -> None:
    """Append a line to the log, the one file with times in it; `speed` is in users a second."""
    log.parent.mkdir(parents=True, exist_ok=True)
    _append(log, {"time": datetime.now(UTC).isoformat(timespec="seconds"), "event": event, **facts})


def _append(path: Path, line: Mapping[str, Any]) -> None:
    with open(path, "a", encoding="utf-8") as lines:
        lines.write(json.dumps(line) + "\n")
