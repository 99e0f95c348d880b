"""`ItemFilter`: which items a request allows, in the form that a search over the trie can use.

A filter is a set of items that many requests share (in stock, a category, a price range), kept as a bitset over trie
positions with counts before every byte, less a short list of items denied to one user (what they have seen). How many
allowed items lie below a node is then two lookups and a binary search, so a request pays for the nodes that its search
touches and not for the catalogue.

    filters = WhereFilters(trie, catalog)
    nails = filters({"categories": "Nails", "price": {"max": 20}})
    beam_search(..., filters=[nails.deny(seen) for seen in histories])

Conditions on attributes are written alike in Python, on the command line and over HTTP; `WhereFilters` is their one
parser:

    {"brand": "OPI"}                            that value; for an attribute with many values, among them
    {"brand": ["OPI", "NYX"]}                   any of them
    {"price": {"min": 5, "max": 20}}            a range of numbers, ends included; an end left out (or null) is open
    {"price": [5, 20]}, {"price": [null, 20]}   the same: of a number, a pair is a range

Shapes: N items, B users, K beams, W places for children of a beam, D longest deny list.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock
from typing import Any, TypeVar

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from genrec.decoding.trie import CodeTrie, TrieLevel
from genrec.semtok.catalog import Catalog
from genrec.semtok.errors import InputError, did_you_mean

Scores = TypeVar("Scores", NDArray[np.float32], Tensor)


@dataclass(frozen=True, eq=False)
class AllowedSet:
    """A set of items as bits over trie positions.

    Attributes:
        bits: uint8 [N // 8 + 1]; bit x % 8 of byte x // 8 says whether position x is allowed.
        before: int32 [N // 8 + 1]; allowed positions in the bytes before each byte.
    """

    trie: CodeTrie
    bits: NDArray[np.uint8]
    before: NDArray[np.int32]

    @classmethod
    def from_mask(cls, trie: CodeTrie, mask: NDArray[np.bool_]) -> AllowedSet:
        """Build from a mask over catalogue rows."""
        if mask.shape != (trie.n_items,) or mask.dtype != np.bool_:
            raise InputError(f"a filter mask must be bool [{trie.n_items}], not {mask.dtype} of shape {mask.shape}")
        bits = np.zeros(trie.n_items // 8 + 1, dtype=np.uint8)
        in_order = torch.from_numpy(mask).index_select(0, torch.from_numpy(trie.order))  # twice as fast as numpy's
        packed = np.packbits(in_order.numpy(), bitorder="little")
        bits[: len(packed)] = packed
        before = np.zeros(len(bits), dtype=np.int32)
        np.cumsum(np.bitwise_count(bits[:-1]), out=before[1:])
        return cls(trie, bits, before)

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """The set over catalogue rows, bool [N]."""
        return np.unpackbits(self.bits, count=self.trie.n_items, bitorder="little")[self.trie.position].view(np.bool_)

    @cached_property
    def count(self) -> int:
        """Items in the set."""
        return int(self.before[-1]) + int(np.bitwise_count(self.bits[-1]))

    def contains(self, positions: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Whether each trie position is in the set."""
        found: NDArray[np.uint8] = self.bits[positions >> 3] >> (positions & 7).astype(np.uint8) & 1
        return found.astype(np.bool_)


@dataclass(frozen=True, eq=False)
class ItemFilter:
    """The items that one request allows: `shared` (None: all) less `denied`.

    Attributes:
        trie: the trie over whose positions the filter is kept.
        shared: a set that other requests may share, or None.
        denied: int32, ascending trie positions without repeats, each of them in `shared`.
    """

    trie: CodeTrie
    shared: AllowedSet | None = None
    denied: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, dtype=np.int32))

    @classmethod
    def from_mask(cls, trie: CodeTrie, mask: NDArray[np.bool_]) -> ItemFilter:
        """Allow the catalogue rows where `mask`, bool [N], holds."""
        return cls(trie, AllowedSet.from_mask(trie, mask))

    def deny(self, rows: Iterable[int] | NDArray[np.int32]) -> ItemFilter:
        """The same filter without some catalogue rows; repeats are fine. The cost follows their number."""
        index = np.asarray(rows if isinstance(rows, np.ndarray) else list(rows), dtype=np.int64)
        if len(index) and not 0 <= index.min() <= index.max() < self.trie.n_items:
            raise InputError(f"a denied catalogue row lies outside 0 to {self.trie.n_items - 1}")
        return self._without(self.trie.position[index])

    def _without(self, positions: NDArray[np.int32]) -> ItemFilter:
        if self.shared is not None:
            positions = positions[self.shared.contains(positions)]
        return ItemFilter(self.trie, self.shared, np.union1d(self.denied, positions).astype(np.int32))

    def __and__(self, other: ItemFilter) -> ItemFilter:
        """The items that both filters allow."""
        if other.trie is not self.trie:
            raise ValueError("filters over different tries")
        if self.shared is None or other.shared is None or self.shared is other.shared:
            shared = self.shared or other.shared
        else:
            shared = AllowedSet.from_mask(self.trie, self.shared.mask & other.shared.mask)
        return ItemFilter(self.trie, shared)._without(np.union1d(self.denied, other.denied))

    @property
    def count(self) -> int:
        """Allowed items."""
        return (self.trie.n_items if self.shared is None else self.shared.count) - len(self.denied)

    def allowed_mask(self) -> NDArray[np.bool_]:
        """The allowed items over catalogue rows, bool [N]."""
        mask = np.ones(self.trie.n_items, dtype=np.bool_) if self.shared is None else self.shared.mask.copy()
        mask[self.trie.order[self.denied]] = False
        return mask

    @torch.inference_mode()  # so that scores made under inference mode can be changed too
    def apply_to_scores(self, scores: Scores) -> Scores:
        """Set the scores [N] (catalogue rows) of items that are not allowed to -inf, in place; returns `scores`."""
        if self.shared is not None:
            scores[~self.shared.mask] = -np.inf
        if len(self.denied):
            scores[self.trie.order[self.denied]] = -np.inf
        return scores


class WhereFilters:
    """Filters by attribute, `where={"categories": "Nails", "price": {"max": 20}}` (see the module), compiled once.

    Withdrawn items are never allowed. An item with no value for an attribute doesn't match a condition on it.
    The `KEPT` filters that were asked for last are cached, at five eighths of a byte an item each.
    """

    KEPT = 256

    def __init__(self, trie: CodeTrie, catalog: Catalog) -> None:
        if len(catalog) != trie.n_items:
            raise ValueError(f"{len(catalog)} items in the catalogue but {trie.n_items} in the trie")
        self.trie, self.catalog = trie, catalog
        self._cache: dict[str, ItemFilter] = {}
        self._values: dict[str, dict[Any, None]] = {}
        self._lock = Lock()

    def __call__(self, where: Mapping[str, Any] | None = None) -> ItemFilter:
        """The items whose attributes meet every condition.

        Raises:
            InputError: an unknown attribute, a value that no item has (with those that are like it), or one of the
                wrong type for its attribute.
        """
        key = repr(sorted((where or {}).items(), key=lambda item: item[0]))
        with self._lock:
            found = self._cache.pop(key, None) or self._compile(where or {})
            self._cache[key] = found  # at the end: what was asked for last
            if len(self._cache) > self.KEPT:
                del self._cache[next(iter(self._cache))]
            return found

    def _compile(self, where: Mapping[str, Any]) -> ItemFilter:
        mask = ~self.catalog.withdrawn
        table = self.catalog.attributes
        for name, condition in where.items():
            if name not in table.columns:
                near = did_you_mean(str(name), table.columns)
                raise InputError(f"where: no attribute {name!r}; there are {', '.join(table.columns) or 'none'}{near}")
            matches = self._matches(name, condition)
            mask &= table.select(matches.fill_null(False)).to_series().to_numpy()
        return ItemFilter(self.trie) if mask.all() else ItemFilter.from_mask(self.trie, mask)

    def _matches(self, name: str, condition: Any) -> pl.Expr:
        """The polars expression of one condition."""
        column, dtype = pl.col(name), self.catalog.attributes.schema[name]
        inner = dtype.inner if isinstance(dtype, pl.List) else dtype
        if (ends := _range(name, dtype, condition)) is not None:
            low, high = (None if end is None else _typed(name, inner, end) for end in ends)
            if low is not None and high is not None and low > high:
                raise InputError(f"where: {name}: the range from {low} to {high} is empty")
            above = pl.lit(True) if low is None else column >= _comparable(low)
            below = pl.lit(True) if high is None else column <= _comparable(high)
            return column.is_not_null() & above & below
        values = list(condition) if isinstance(condition, list | tuple | set | frozenset) else [condition]
        values = [_typed(name, inner, value) for value in values]
        self._refuse_unknown(name, values)
        kind = pl.Float64 if inner.is_numeric() else inner  # 20 and 20.0 are one number
        wanted = pl.Series(values=values, dtype=kind).implode()
        if isinstance(dtype, pl.List):
            return column.list.eval(pl.element().cast(kind).is_in(wanted)).list.any()
        return column.cast(kind).is_in(wanted)

    def _refuse_unknown(self, name: str, values: Sequence[Any]) -> None:
        """Refuse a value that no item has: it is a slip, and would only be seen in thousands of short lists."""
        if name not in self._values:
            column = self.catalog.attributes[name]
            flat = column.explode() if isinstance(column.dtype, pl.List) else column
            self._values[name] = dict.fromkeys(flat.drop_nulls().unique(maintain_order=True).to_list())
        known = self._values[name]
        for value in values:
            if value not in known:
                raise InputError(f"where: no item has {name} {value!r}{_near(value, known)}")


def _near(value: Any, known: Iterable[Any]) -> str:
    """The end of a message about a value that no item has: the values like it, or the numbers next to it."""
    if isinstance(value, str):
        return did_you_mean(value, known)
    numbers = [number for number in known if not isinstance(number, bool)]
    ends = [
        max((number for number in numbers if number < value), default=None),
        min((number for number in numbers if number > value), default=None),
    ]
    nearest = [f"{end:g}" for end in ends if end is not None]
    return f"; the nearest there is: {' and '.join(nearest)}" if nearest else ""


def _comparable(end: Any) -> Any:
    """An end of a range as polars takes it: a whole number beyond 64 bits as a float, infinite beyond these."""
    if not isinstance(end, int) or -(1 << 63) <= end < 1 << 63:
        return end
    try:
        return float(end)
    except OverflowError:
        return math.inf if end > 0 else -math.inf


def _range(name: str, dtype: pl.DataType, condition: Any) -> tuple[Any, Any] | None:
    """The ends of a condition that is a range, None where it is a value or several."""
    if isinstance(condition, Mapping):
        if not condition or not set(condition) <= {"min", "max"}:
            raise InputError(f"where: {name}: a range is {{min: LOW, max: HIGH}}, not {dict(condition)!r}")
        if not dtype.is_numeric():
            raise InputError(f"where: {name} has no numbers, of which {dict(condition)!r} could be a range")
        return condition.get("min"), condition.get("max")
    if dtype.is_numeric() and isinstance(condition, list | tuple) and (len(condition) == 2 or None in condition):
        if len(condition) != 2:
            raise InputError(f"where: {name}: a range is a low and a high end, not {list(condition)!r}")
        return condition[0], condition[1]
    return None


def _typed(name: str, dtype: Any, value: Any) -> Any:
    """`value`, checked against the type of the attribute."""
    for holds, kinds, what in (
        (dtype.is_numeric(), (int, float), "numbers"),
        (dtype == pl.String, (str,), "text"),
        (dtype == pl.Boolean, (bool,), "true or false"),
    ):
        if holds:
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds) or value != value:
                raise InputError(f"where: {name} holds {what}, not {value!r}")
            if isinstance(value, str) and not value.isascii() and value.encode("utf-8", "ignore").decode() != value:
                raise InputError(f"where: {name} holds text, not the half of a character in {value!r}")
            return value
    raise InputError(f"where: {name} has the type {dtype}, which can't be filtered by")


_ONES = torch.tensor([byte.bit_count() for byte in range(256)], dtype=torch.int32)


class FilterBatch:
    """The filters of B users as tensors."""

    def __init__(self, filters: Sequence[ItemFilter], device: torch.device) -> None:
        trie = filters[0].trie
        sets = list({id(filter_of_user.shared): filter_of_user.shared for filter_of_user in filters}.values())
        self._bits: Tensor | None = None
        if sets != [None]:
            full = AllowedSet.from_mask(trie, np.ones(trie.n_items, dtype=np.bool_)) if None in sets else None
            place = {id(shared): i for i, shared in enumerate(sets)}
            row = torch.tensor(
                [place[id(filter_of_user.shared)] for filter_of_user in filters], dtype=torch.int32, device=device
            )
            self._row_start = (row * (trie.n_items // 8 + 1))[:, None, None]
            kept = [shared or full for shared in sets]
            self._bits = torch.cat([torch.from_numpy(shared.bits) for shared in kept if shared is not None]).to(device)
            self._before = torch.cat([torch.from_numpy(shared.before) for shared in kept if shared is not None]).to(
                device
            )
            self._ones = _ONES.to(device)
        longest = max(len(filter_of_user.denied) for filter_of_user in filters)
        self._denied: Tensor | None = None
        if longest:
            denied = np.full((len(filters), longest), trie.n_items, dtype=np.int32)
            for line, filter_of_user in zip(denied, filters, strict=True):
                line[: len(filter_of_user.denied)] = filter_of_user.denied
            self._denied = torch.from_numpy(denied).to(device)
            self._above_denied = torch.where(self._denied < trie.n_items, 0, -1)  # padding is below no node

    def count(self, level: TrieLevel, nodes: Tensor, totals: Tensor, bounds: Tensor) -> Tensor:
        """Allowed items below every child of every beam; called once a level, from the root down.

        Args:
            level: the level that is entered.
            nodes: int64 [B, K], the beams' nodes.
            totals: float32 [B, K], -inf for a beam that is no longer followed.
            bounds: int32 [B, K, W + 1], trie positions between which the children's items lie.

        Returns:
            int32 [B, K, W].
        """
        count = (bounds if self._bits is None else self._rank(bounds)).diff()
        if self._denied is not None:
            child = level.child_of(self._denied)
            here = (nodes[:, :, None] == self._above_denied[:, None, :]) & ~totals.isneginf()[:, :, None]  # [B, K, D]
            beam = here.byte().argmax(1)
            place = level.code(child) if level.table is not None else child - level.first_child[nodes.gather(1, beam)]
            index = (beam * count.shape[2] + place).clamp_(0, count[0].numel() - 1)
            count.flatten(1).scatter_add_(1, index, -here.any(1).int())
            self._above_denied = child
        return count

    def _rank(self, positions: Tensor) -> Tensor:
        """How many items of the shared sets lie before each trie position: int32 [B, ...] to the same."""
        assert self._bits is not None
        byte = ((positions >> 3) + self._row_start).flatten()
        below = self._bits.index_select(0, byte) & ((1 << (positions & 7)) - 1).flatten()
        count = self._before.index_select(0, byte) + self._ones.index_select(0, below)
        return count.view(positions.shape)
