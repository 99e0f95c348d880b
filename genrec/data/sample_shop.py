"""A small shop made by code, for the demo and for tests: believable items, and people whose behaviour has known laws.

The next purchase x of a person with taste z after a history h is drawn from

    p(x | h, z) = demand(x, h) liking(x, z) / sum over all items y of demand(y, h) liking(y, z)

The liking is the item's popularity (Zipf within a shelf) times the taste for its department, brand and price tier. The
demand does not depend on the taste: an item is wanted more when its shelf follows from one of the last three purchases
or it accompanies the very last one, less when it is a lasting thing that the person has one of, and not at all when it
is not for sale or already bought. There is a small number of latent tastes, so the best possible recommender, which
knows the laws but not the person's taste, can be computed exactly: `SampleShop.oracle_scores`.

New arrivals come into the shop at `ARRIVAL_TIME`. Everybody's last purchase, and no other, lies after it: an arrival is
never seen in a history but as its last item.

Legend: U users, B histories, t purchases so far, N items, Z tastes.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genrec.data.sample_shop_items import TIERS, Items, make_items
from genrec.data.sequences import Sequences
from genrec.semtok.errors import InputError
from genrec.semtok.folders import write_atomic

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SHORTEST, LONGEST = 5, 25  # purchases of one person
ARRIVAL_TIME = 1_714_521_600  # 2024-05-01 00:00 UTC
ARRIVAL_SHARE = 0.05
HOUR, DAY = 3_600, 86_400

# The constants of the laws, chosen once so that the best possible Recall@10 is near 0.46 and takes taste and order:
# blind to taste it falls to 0.36, to what follows from all but the last purchase to 0.39, from that one too to 0.26.
TASTES = 12
ZIPF = 0.6  # exponent of popularity within a shelf
FOLLOWS = (15.0, 10.0, 5.0)  # demand for what follows from the last, second last, third last purchase; browsing has 1
ACCOMPANIES = 15.0  # demand for the item that accompanies the last purchase
OWNED = 0.05  # what is left of the demand for a lasting thing when the person has one of its shelf


@dataclass(frozen=True)
class SampleShop:
    """Items, laws and people."""

    items: Items  # the items, by catalogue row
    arrival: NDArray[np.bool_]  # [N], not for sale before `ARRIVAL_TIME`
    companion: Ints  # int64 [N], the item that accompanies each
    liking: Floats  # float64 [N, Z]
    taste_share: Floats  # float64 [Z], how common each taste is
    histories: Sequences  # U sequences of catalogue rows, oldest first, no item twice in one
    times: Ints  # int64 [E], seconds since 1970, aligned with `histories.values`

    def write(self, folder: Path) -> None:
        """Write `items.jsonl`, and `interactions.csv` in the order of time: user_id, item_id, timestamp in seconds."""
        lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in self.items.records]
        write_atomic(folder / "items.jsonl", "".join(lines))
        users = self.histories.owners
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["user_id", "item_id", "timestamp"])
        for event in np.lexsort((users, self.times)):
            record = self.items.records[self.histories.values[event]]
            table.writerow([f"u{users[event]:05d}", record["item_id"], self.times[event]])
        write_atomic(folder / "interactions.csv", text.getvalue())

    def oracle_scores(self, histories: Sequences, *, after_arrivals: bool = True) -> NDArray[np.float32]:
        """Log-probability of every item to be bought next, given the history alone: no recommender can rank better.

        The taste is marginalised by Bayes, p(x | h) = sum over z of p(z | h) p(x | h, z).

        Args:
            histories: B histories of catalogue rows, no item twice in one.
            after_arrivals: the next purchase comes after `ARRIVAL_TIME` (so it is everybody's last one).

        Returns:
            float32 [B, N], -inf where an item cannot be next.
        """
        scores = np.empty((len(histories), len(self.items)), dtype=np.float32)
        log_taste = np.tile(np.log(self.taste_share), (len(histories), 1))  # [B, Z], not normalised
        lengths = histories.lengths
        with np.errstate(divide="ignore"):
            for t in range(int(lengths.max(initial=-1)) + 1):
                ending, going_on = np.flatnonzero(lengths == t), np.flatnonzero(lengths > t)
                demand = self.demand(_first(histories.take(ending), t), after_arrivals)
                taste = np.exp(log_taste[ending] - log_taste[ending].max(axis=1, keepdims=True))
                taste /= taste.sum(axis=1, keepdims=True)
                scores[ending] = np.log(demand * ((taste / (demand @ self.liking)) @ self.liking.T))

                past = _first(histories.take(going_on), t + 1)
                bought = past[:, t]
                # Its own demand, and whether arrivals were for sale, are the same for all tastes and cancel out.
                demand = self.demand(past[:, :t], self.arrival[bought])
                log_taste[going_on] += np.log(self.liking[bought]) - np.log(demand @ self.liking)
        return scores

    def demand(self, past: Ints, after_arrivals: bool | NDArray[np.bool_]) -> Floats:
        """Demand for every item after the purchases [B, t], the latest in the last column; float64 [B, N]."""
        people, items = np.arange(len(past)), self.items
        demand = np.ones((len(past), len(items)))
        for age, strength in enumerate(FOLLOWS[: past.shape[1]]):
            demand += strength * items.follows[items.shelf[past[:, -1 - age]]][:, items.shelf]
        if past.shape[1]:
            demand[people, self.companion[past[:, -1]]] += ACCOMPANIES
        has = np.zeros((len(past), len(items.follows)), dtype=bool)
        has[people[:, None], items.shelf[past]] = True
        demand[has[:, items.shelf] & items.lasting] *= OWNED
        demand *= ~self.arrival | np.reshape(after_arrivals, (-1, 1))
        demand[people[:, None], past] = 0
        return demand


def make_sample_shop(seed: int = 0, *, users: int = 3000, items: int = 400) -> SampleShop:
    """The shop of a seed and sizes, always the same; raises InputError for sizes that there are no words for."""
    if seed < 0:
        raise InputError(f"seed: {seed}; it must not be negative")
    if users < 1:
        raise InputError(f"users: {users}; the sample shop needs at least one")
    rng = np.random.default_rng(seed)
    goods = make_items(rng, items)
    arrival = np.zeros(items, dtype=bool)
    arrival[rng.permutation(items)[: round(ARRIVAL_SHARE * items)]] = True
    popularity = _popularity(rng, goods)
    companion = _companions(rng, goods, popularity * ~arrival)
    liking = popularity[:, None] * _tastes(rng, goods)
    taste_share = rng.dirichlet(np.full(TASTES, 3.0))

    taste = rng.choice(TASTES, size=users, p=taste_share)
    lengths = np.minimum(SHORTEST + rng.geometric(1 / 7, size=users) - 1, LONGEST)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    nobody = Sequences(np.empty(0, dtype=np.int32), np.zeros(1, dtype=np.int64))
    shop = SampleShop(goods, arrival, companion, liking, taste_share, nobody, np.empty(0, dtype=np.int64))
    bought = np.zeros((users, LONGEST), dtype=np.int64)
    for t in range(LONGEST):
        active = np.flatnonzero(lengths > t)
        weight = shop.demand(bought[active, :t], lengths[active] == t + 1) * liking[:, taste[active]].T
        total = np.cumsum(weight, axis=1)
        draw = rng.random(len(active)) * total[:, -1]
        bought[active, t] = (total <= draw[:, None]).sum(axis=1)
    histories = Sequences(bought[np.arange(LONGEST) < lengths[:, None]].astype(np.int32), offsets)
    return SampleShop(goods, arrival, companion, liking, taste_share, histories, _times(rng, lengths))


def _popularity(rng: np.random.Generator, items: Items) -> Floats:
    """Zipf's law within a shelf, shelves that differ; float64 [N]."""
    popularity = np.empty(len(items))
    for shelf in range(len(items.follows)):
        here = np.flatnonzero(items.shelf == shelf)
        popularity[here] = rng.lognormal(0.0, 0.5) / rng.permutation(np.arange(1, len(here) + 1)) ** ZIPF
    return popularity


def _companions(rng: np.random.Generator, items: Items, popularity: Floats) -> Ints:
    """An item of a shelf that follows, for each item; the same brand where there is one; int64 [N]."""
    companion = np.empty(len(items), dtype=np.int64)
    for row in range(len(items)):
        weight = popularity * items.follows[items.shelf[row], items.shelf]
        weight *= np.where(items.brand == items.brand[row], 5.0, 1.0)
        weight[row] = 0.0
        companion[row] = rng.choice(len(items), p=weight / weight.sum())
    return companion


def _tastes(rng: np.random.Generator, items: Items) -> Floats:
    """Factor on an item's popularity for each taste: department, brand and price tier; float64 [N, Z]."""
    department = np.full((items.department.max() + 1, TASTES), -0.3)
    for z in range(TASTES):
        favourites = rng.permutation(len(department))[:4]
        department[favourites, z] = (1.0, 0.7, 0.5, 0.3)
    brand = rng.normal(0.0, 1.0, size=(items.brand.max() + 1, TASTES))
    tier = rng.normal(0.0, 0.6, size=(len(TIERS), TASTES))
    return np.exp(department[items.department] + brand[items.brand] + tier[items.tier])


def _times(rng: np.random.Generator, lengths: Ints) -> Ints:
    """Seconds since 1970, int64 [E]: the last purchase in the three weeks after `ARRIVAL_TIME`, the others before."""
    last = ARRIVAL_TIME + rng.integers(0, 21 * DAY, size=len(lengths))
    second_last = ARRIVAL_TIME - rng.integers(HOUR, 30 * DAY, size=len(lengths))
    shape = (len(lengths), LONGEST)
    apart = rng.exponential(18 * DAY, size=shape).astype(np.int64) + HOUR
    same_visit = rng.integers(60, 40 * 60, size=shape)
    back = np.where(rng.random(shape) < 0.2, same_visit, apart)
    back[:, 0] = 0
    age = lengths[:, None] - 2 - np.arange(LONGEST)  # purchases between this one and the second last; -1 for the last
    before = second_last[:, None] - np.cumsum(back, axis=1)[np.arange(len(lengths))[:, None], np.maximum(age, 0)]
    return np.where(age < 0, last[:, None], before)[age >= -1]


def _first(histories: Sequences, t: int) -> Ints:
    """The first `t` items of histories that are all at least that long; int64 [B, t]."""
    return histories.values[histories.offsets[:-1, None] + np.arange(t)].astype(np.int64)
