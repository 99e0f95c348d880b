"""`RecommendConfig`: what `genrec recommend` is asked to do; light to import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from genrec.inference.engines import ENGINES
from genrec.ranking.config import Ranking
from genrec.semtok import options as check
from genrec.semtok.errors import OptionError
from genrec.semtok.nearest import Retrieval


@dataclass(frozen=True)
class RecommendConfig:
    """What `genrec recommend` is asked to do.

    Attributes:
        run: the run folder.
        users: a file with user_id and history (CSV, JSONL, Parquet), `-` for JSONL on standard input; null: the log's.
        out: folder of the lists; null: RUN/topk.
        k: items a user.
        ranking: beam, rerank, dense or fused; null: what won on validation.
        beams: prefixes kept on each level; null: the run's.
        engine: torch, or vllm.
        device: of the torch engine; null takes the GPU where there is one.
        retrieval: exact; approximate, by the extra faiss; or auto: approximate from 200,000 items on where the extra
            is installed.
        executor: local, or ray.
        workers: engines of the ray executor.
        cpus: CPUs of each of them; null: 1.
        gpus: GPUs of each of them, also a fraction; null: 0.
        address: Ray cluster, "auto" or ray://HOST:PORT; null starts one here unless RAY_ADDRESS names one.
        exclude_seen: leave out the items of the history; null: as in the run's evaluation.
        where: conditions on attributes as JSON, such as '{"categories": "Nails", "price": {"max": 20}}'.
        shard_size: users a file.
        restart: delete what another job left in `out`.
        verify: compare the run's files with their hashes; --no-verify compares sizes alone, and says so.
    """

    run: Path
    users: str | None = None
    out: Path | None = None
    k: int = 20
    ranking: Ranking | None = None
    beams: int | None = None
    engine: str = "torch"
    device: str | None = None
    retrieval: Retrieval = "auto"
    executor: Literal["local", "ray"] = "local"
    workers: int = 1
    cpus: float | None = None
    gpus: float | None = None
    address: str | None = None
    exclude_seen: bool | None = None
    where: str | None = None
    shard_size: int = 4096
    restart: bool = False
    verify: bool = True

    def __post_init__(self) -> None:
        check.choice(self, "engine", ENGINES)
        check.choice(self, "retrieval", get_args(Retrieval))
        check.at_least_one(self, "k", "beams", "workers", "shard_size")
        check.path(self, "run", "users", "out")
        if self.executor == "local" and (self.workers > 1 or {self.cpus, self.gpus, self.address} != {None}):
            raise OptionError("executor", "local: workers, cpus, gpus and address go with ray")
        self.conditions()

    def conditions(self) -> dict[str, Any] | None:
        """`where` as a mapping; what may stand in it, `genrec.decoding.filters` says."""
        return check.json_object(self, "where")
