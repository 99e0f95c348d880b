"""`genrec recommend`: from a run and its flags to the batch job; and the lists that `genrec fit` writes at its end.

Shapes: none; users stream through.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from genrec.data.sequences import Sequences
from genrec.inference.batch.config import RecommendConfig
from genrec.inference.batch.job import JOB, BatchJob, in_process, write_shards
from genrec.inference.batch.users import FileUsers, standard_input
from genrec.inference.recommender import Recommender
from genrec.recommendations import RankedRows
from genrec.run import Run
from genrec.semtok.errors import InputError
from genrec.semtok.folders import LOG, read_json


def recommend_all(config: RecommendConfig) -> dict[str, int]:
    """Write the lists; returns the manifest's counts."""
    with Run.open(config.run, hashes=config.verify) as run:
        recommender = Recommender(run, engine=config.engine, device=config.device, retrieval=config.retrieval)
        config = dataclasses.replace(config, retrieval=recommender.retrieval)  # so that all workers do the same
        if config.exclude_seen is None:
            config = dataclasses.replace(config, exclude_seen=run.exclude_seen)
    recommender.filters(config.conditions())  # a bad condition is refused before any work
    out = config.out or run.topk
    job_options: dict[str, Any] = {
        "job": _batch_job(recommender, config),
        "item_ids": recommender.catalog.item_ids,
        "log": out / LOG,
        "restart": config.restart,
    }
    with contextlib.ExitStack() as stack:
        if config.users == "-":
            users = stack.enter_context(standard_input(sys.stdin.buffer, recommender.catalog, out))
        else:
            users = FileUsers(run.users if config.users is None else Path(config.users), recommender.catalog)
        if config.executor == "ray":
            from genrec.inference.batch.ray_executor import Slots, on_ray

            cpus, gpus = 1.0 if config.cpus is None else config.cpus, config.gpus or 0.0
            slots = Slots(workers=config.workers, cpus=cpus, gpus=gpus, address=config.address)
            execute = on_ray(_recommend_from, config, slots=slots)
        else:
            execute = in_process(_callable(recommender, config))
        return write_shards(execute, users, out, **job_options)


def write_lists(run: Run, *, k: int, shard_size: int) -> None:
    """The lists of the log's users, which `genrec recommend RUN` then finds done; those of another job are deleted."""
    recommender = Recommender(run)
    config = RecommendConfig(run.path, k=k, shard_size=shard_size, exclude_seen=run.exclude_seen)
    job, users = _batch_job(recommender, config), FileUsers(run.users, recommender.catalog)
    identity = {**dataclasses.asdict(job), "users": users.count, "users_digest": users.digest}
    left = run.topk / JOB
    restart = left.is_file() and read_json(left) != json.loads(json.dumps(identity))
    execute, item_ids = in_process(_callable(recommender, config)), recommender.catalog.item_ids
    write_shards(execute, users, run.topk, job=job, item_ids=item_ids, log=run.log, restart=restart)


def _batch_job(recommender: Recommender, config: RecommendConfig) -> BatchJob:
    """What decides the lists."""
    defaults = recommender.ranker.config
    return BatchJob(
        run_id=recommender.run_id,
        ranking=config.ranking or defaults.ranking,
        index_version=recommender.index_version,
        k=config.k,
        shard_size=config.shard_size,
        about={
            "beams": config.beams or defaults.beams,
            "dense_weight": defaults.dense_weight,
            "cooccurrence_weight": defaults.cooccurrence_weight,
            "sequential_weight": defaults.sequential_weight,
            **({"language_model_share": defaults.language_model_share} if defaults.language_model_share < 1 else {}),
            "engine": config.engine,
            "exclude_seen": config.exclude_seen,
            "where": config.where,
            **({"retrieval": recommender.retrieval} if recommender.retrieval != "exact" else {}),
        },
    )


def _recommend_from(config: RecommendConfig) -> Callable[[Sequences], RankedRows]:
    """Open the run where a worker is, and return what answers a shard there."""
    opened = Recommender.from_pretrained(
        config.run, engine=config.engine, device=config.device, retrieval=config.retrieval, verify=config.verify
    )
    return _callable(opened, config)


def _callable(recommender: Recommender, config: RecommendConfig) -> Callable[[Sequences], RankedRows]:
    if config.exclude_seen is None:
        raise InputError("--exclude_seen must be settled before workers start")
    exclude_seen, where = config.exclude_seen, config.conditions()

    def recommend(histories: Sequences) -> RankedRows:
        return recommender.recommend_rows(
            histories, k=config.k, ranking=config.ranking, beams=config.beams, filter_viewed=exclude_seen, where=where
        )

    return recommend
