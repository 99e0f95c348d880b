"""The batch job's shards on many machines: one engine to a Ray actor, one actor to a GPU or CPU slot.

The driver reads the users, hands out shards and writes the files, as it does without Ray, so that the folder needs no
shared disk and its bytes are those of a job on one machine. It takes no more shards from the users than the actors
have room for. An actor that dies (its process, its machine) is replaced and its shards are given out again.

Plain actors rather than Ray Data: there the input is a dataset that Ray cuts into blocks as it likes, while a job that
resumes needs shards in input order, from a stream, each answered as a whole.

    slots = Slots(workers=8, gpus=1)
    write_shards(on_ray(recommender_of_run, spec, slots=slots), users, out, job=job, item_ids=item_ids, log=log)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from genrec.data.sequences import Sequences
from genrec.inference.batch.job import ATTEMPTS, Executor, Recommend, Shard, note_failure
from genrec.recommendations import RankedRows
from genrec.semtok.errors import InputError

IN_FLIGHT = 2  # shards an actor holds, so that it never waits for the driver

Factory = Callable[[Any], Recommend]
"""Builds an engine from a description that can be pickled (a run's folder and options). A function of a module that the
workers can import."""


@dataclass(frozen=True)
class Slots:
    """Where actors run."""

    workers: int = 1  # how many actors
    cpus: float = 1  # of each
    gpus: float = 0  # of each; it sees only its own
    # of the cluster ("auto", "ray://..."); None starts one on this machine, unless RAY_ADDRESS names one
    address: str | None = None

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise InputError(f"workers must be at least 1, not {self.workers}")
        if self.cpus < 0 or self.gpus < 0:
            raise InputError(f"cpus and gpus must not be negative, not {self.cpus} and {self.gpus}")


class _Worker:
    """What runs in an actor. The engine is built with the first shard, so that its errors arrive like any other."""

    def __init__(self, factory: Factory, spec: Any) -> None:
        self._factory, self._spec = factory, spec
        self._recommend: Recommend | None = None

    def answer(self, histories: Sequences) -> RankedRows:
        if self._recommend is None:
            self._recommend = self._factory(self._spec)
        return self._recommend(histories)


class _Team:
    """The actors, and who works on what."""

    def __init__(self, factory: Factory, spec: Any, slots: Slots) -> None:
        self._kind = ray.remote(_Worker).options(num_cpus=slots.cpus, num_gpus=slots.gpus)
        self._arguments = (factory, spec)
        self._actors = [self._new() for _ in range(slots.workers)]
        self._load = [0] * slots.workers

    def _new(self) -> Any:
        return self._kind.remote(*self._arguments)

    @property
    def has_room(self) -> bool:
        """Whether an actor holds fewer shards than it may."""
        return min(self._load) < IN_FLIGHT

    def submit(self, shard: Shard) -> tuple[Any, int, Any]:
        """Give a shard to the least busy actor: its future answer, the actor's place, and the actor."""
        place = self._load.index(min(self._load))
        self._load[place] += 1
        return self._actors[place].answer.remote(shard.histories), place, self._actors[place]

    def release(self, place: int) -> None:
        """Note that the actor at `place` holds a shard less."""
        self._load[place] -= 1

    def replace(self, place: int, dead: Any) -> None:
        """Put a new actor where `dead` was, unless that was done for another of its shards."""
        if self._actors[place] is dead:
            self._actors[place] = self._new()

    def dismiss(self) -> None:
        """End all actors and free their devices."""
        for actor in self._actors:
            ray.kill(actor)


def on_ray(factory: Factory, spec: Any, *, slots: Slots) -> Executor:
    """An executor for `write_shards`. Answers come in the order in which they are ready.

    Args:
        factory: builds each actor's engine from `spec`.
        spec: a description that can be pickled; the folders that it names must be visible to the workers.
        slots: how many actors, and what each needs.

    Raises:
        InputError: the cluster has not the CPUs or GPUs that the actors need.
    """
    if "<" in factory.__qualname__:
        raise ValueError(f"{factory.__qualname__} must be a function of a module, so that workers can import it")

    def execute(shards: Iterable[Shard]) -> Iterator[tuple[Shard, RankedRows]]:
        ours = not ray.is_initialized()
        if ours:
            ray.init(address=slots.address, include_dashboard=False, log_to_driver=False, configure_logging=False)
        try:
            _require(slots)
            team = _Team(factory, spec, slots)
            try:
                yield from _answers(team, iter(shards))
            finally:
                team.dismiss()
        finally:
            if ours:
                ray.shutdown()

    return execute


def _answers(team: _Team, shards: Iterator[Shard]) -> Iterator[tuple[Shard, RankedRows]]:
    working: dict[Any, tuple[Shard, int, int, Any]] = {}

    def submit(shard: Shard, attempt: int) -> None:
        future, place, actor = team.submit(shard)
        working[future] = (shard, attempt, place, actor)

    while True:
        while team.has_room and (shard := next(shards, None)) is not None:
            submit(shard, 1)
        if not working:
            return
        (future,), _ = ray.wait(list(working), num_returns=1)
        shard, attempt, place, actor = working.pop(future)
        team.release(place)
        try:
            result = ray.get(future)
        except RayError as error:  # of the engine, of its actor, or an answer lost with the machine that held it
            note_failure(shard, attempt, ATTEMPTS, error.cause if isinstance(error, RayTaskError) else error)
            if isinstance(error, RayActorError):
                team.replace(place, actor)
            submit(shard, attempt + 1)
        else:
            yield shard, result


def _require(slots: Slots) -> None:
    """Refuse what the cluster will never give, for which Ray would wait for ever."""
    there = ray.cluster_resources()
    for name, needed in (("CPU", slots.workers * slots.cpus), ("GPU", slots.workers * slots.gpus)):
        if needed > there.get(name, 0):
            raise InputError(f"{slots.workers} workers need {needed:g} {name}s; the cluster has {there.get(name, 0):g}")
