"""What a fit takes from the size of its data where nobody says otherwise: an option of 0, or null, of a training.

The rules give what was chosen by hand on validation of five data sets of 20 to 200 thousand interactions
(docs/results): about as many interactions are read whatever a pass over them holds, so small logs are passed over more
often. `effort` trades time for recall on top of them. Beyond those sets the rules are guesses; every stage keeps its
best epoch on validation, so too many passes cost time alone. From two million interactions on batches are large, so
that stepping the vectors of all items, which costs the same for every batch, is not most of the work.

Shapes: U users, N items, E interactions.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple, TypeVar

from genrec.cli.config import Effort, FitConfig
from genrec.training.lm.config import LmConfig
from genrec.training.sequential.config import FULL_SOFTMAX, AlignerTrainingConfig, SequentialTrainingConfig

Trained = TypeVar("Trained", LmConfig, SequentialTrainingConfig, AlignerTrainingConfig)

PASSES: dict[Effort, float] = {"quick": 1 / 3, "standard": 1.0, "thorough": 2.0}  # of the epochs that the rules give
_COLLABORATIVE = 48  # epochs of the collaborative model, which stops by itself
_ALIGNED, _READ = 700_000, 600_000  # interactions that an aligner's recommender and the language model read in all
_MOST = {"collaborative": 20_000_000, "aligner": 10_000_000, "lm": 6_000_000}  # that each reads of a large log
_LARGE = 150_000  # interactions from which the aligner's recommender takes batches of twice the size, for time
_HUGE, _POSITIONS, _TOKENS = 2_000_000, 4096, 16_384  # from which all batches are large, and how large
_LONG, _LONGER = 20, 100  # mean events of a user, above which language model and recommender read more of them
_DENSE = 100  # mean interactions of an item, from which LRURec needs less dropout


class DataSize(NamedTuple):
    """How much data a run has: U, N and E."""

    users: int
    items: int
    interactions: int


def settled(config: FitConfig, size: DataSize) -> FitConfig:
    """The configuration with a number for every option that was left to the data."""
    large, huge = size.interactions > _LARGE, size.interactions > _HUGE
    most = {name: interactions / size.interactions for name, interactions in _MOST.items()}
    collaborative, training, lm = config.collaborative, config.aligner.training, config.lm
    if not collaborative.batch_positions:
        collaborative = replace(collaborative, batch_positions=_POSITIONS if huge else 512)
    if not training.batch_positions:
        training = replace(training, batch_positions=_POSITIONS if huge else 1024 if large else 512)
    if not lm.batch_tokens:
        lm = replace(lm, batch_tokens=_TOKENS if huge else 1536)
    if not lm.max_items:
        lm = replace(lm, max_items=50 if size.interactions > _LONG * size.users else 20)
    dense, long = size.interactions >= _DENSE * size.items, size.interactions > _LONGER * size.users
    shape = config.shape("lrurec").settled(dense=dense, long=long)
    aligned = 10 if large else _within(12, _ALIGNED / size.interactions, 40)
    read = _within(6, _READ / size.interactions, 40)
    if lm.node_vectors is None:
        lm = replace(lm, node_vectors=size.items <= FULL_SOFTMAX)
    collaborative = _passes(collaborative, min(_COLLABORATIVE, most["collaborative"]), config.effort)
    training = _passes(training, min(aligned, most["aligner"]), config.effort)
    lm = _passes(lm, min(read, most["lm"]), config.effort)
    aligner = replace(config.aligner, training=training)
    return replace(config, collaborative=collaborative, aligner=aligner, lm=lm, **{"lrurec": shape})


def _passes(training: Trained, epochs: float, effort: Effort) -> Trained:
    """With epochs, where none were asked for."""
    return training if training.epochs else replace(training, epochs=max(1, round(PASSES[effort] * epochs)))


def _within(least: int, wanted: float, most: int) -> int:
    return round(min(max(least, wanted), most))
