"""What a log's timestamps mean: seconds, days, or only a position; declared or recognised, never guessed.

- `seconds`: unix seconds between 1990 and 2100, or ISO dates and times (UTC unless they say otherwise). Unix
  milliseconds are converted, and a log line says so.
- `days`: the same, where every value falls on midnight: the day is known, the order inside a day is not. The values
  stay unix seconds.
- `position`: every user's values are 0, 1, 2, … or 1, 2, 3, …: an order, no time.

Shapes: U users, E events.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from genrec.data.config import TimeUnit
from genrec.semtok.errors import InputError
from genrec.semtok.tables import refuse_rows

DAY = 86_400
_MICRO = 1_000_000
_YEAR_1990, _YEAR_2100 = 631_152_000, 4_102_444_800
_ISO = r"^\d{4}-\d{2}-\d{2}(?:[T ]|$)"
_OFFSET = r":[\d.]*(?:Z|[+-][\d:]+)$"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Instants:
    """Parsed timestamps, fine enough to sort by."""

    values: NDArray[np.int64]  # [E]
    # how many of `values` make one of the file's numbers (1, or a million where it has fractions or dates)
    per_unit: int
    from_dates: bool  # the file had dates, so the unit is seconds


def parse_timestamps(column: pl.Series, path: Path) -> Instants:
    """Read numbers, ISO dates, or a Parquet file's dates and datetimes; raises InputError about those that are missing
    or neither (the first such row and the count).
    """
    if column.dtype == pl.Null:
        column = column.cast(pl.String)
    refuse_rows(column.is_null() | (column == "" if column.dtype == pl.String else False), path, "without timestamp")
    if column.dtype == pl.String:
        return _parse_text(column, path)
    if column.dtype.is_integer():
        whole = column.cast(pl.Int64, strict=False)
        refuse_rows(whole.is_null(), path, "with a timestamp that is not a number of a sane size", values=column)
        return Instants(whole.to_numpy(), 1, False)
    if column.dtype.is_float() or column.dtype.is_decimal():
        return _from_floats(column.cast(pl.Float64), column, path)
    if column.dtype in (pl.Date, pl.Datetime):
        return Instants(column.cast(pl.Datetime("us")).to_physical().to_numpy(), _MICRO, True)
    raise InputError(f"{path}: column 'timestamp' holds {column.dtype}; it must be numbers or dates")


def _parse_text(column: pl.Series, path: Path) -> Instants:
    whole = column.cast(pl.Int64, strict=False)
    if not whole.has_nulls():
        return Instants(whole.to_numpy(), 1, False)
    numbers = column.cast(pl.Float64, strict=False)
    if numbers[0] is not None:
        return _from_floats(numbers, column, path)
    dates = _parse_iso(column)
    refuse_rows(dates.is_null(), path, "with a timestamp that is neither a number nor an ISO date", values=column)
    return Instants(dates.to_physical().to_numpy(), _MICRO, True)


def _parse_iso(column: pl.Series) -> pl.Series:
    """ISO dates and times as moments of UTC, null where a text is none.

    polars takes the form of a column from its first value. It would read 03/04/2020 as 3 April, and where that value
    has no offset from UTC it reads none that has one: so texts with and without one are parsed apart.
    """
    is_iso, has_offset = column.str.contains(_ISO), column.str.contains(_OFFSET)
    dates = pl.repeat(None, len(column), dtype=pl.Datetime("us", "UTC"), eager=True)
    for chosen in (is_iso & ~has_offset, is_iso & has_offset):
        if chosen.any():
            found = column.filter(chosen).str.to_datetime(time_unit="us", time_zone="UTC", strict=False)
            dates = dates.scatter(chosen.arg_true(), found)
    return dates


def _from_floats(numbers: pl.Series, column: pl.Series, path: Path) -> Instants:
    bad = ~numbers.is_finite() | (numbers.abs() > 1e15)
    refuse_rows(bad, path, "with a timestamp that is not a number of a sane size", values=column)
    values = numbers.to_numpy()
    if np.all(values == np.floor(values)):
        return Instants(values.astype(np.int64), 1, False)
    if np.abs(values).max() > 9e12:
        raise InputError(f"{path}: column 'timestamp' has fractions of numbers above 9e12; write whole numbers")
    return Instants(np.round(values * _MICRO).astype(np.int64), _MICRO, False)


def settle_unit(
    instants: Instants, offsets: NDArray[np.int64], declared: TimeUnit | None, path: Path
) -> tuple[NDArray[np.int64], TimeUnit]:
    """The times in their unit, and the unit: the declared one, else the one recognised.

    Args:
        instants: sorted by user and time.
        offsets: int64 [U+1], where each user's events begin.
        declared: the value of --data.time_unit.

    Returns:
        int64 [E]: unix seconds for `seconds` and `days`, the file's own numbers for `position`.

    Raises:
        InputError: nothing was declared and the values fit no unit, or they contradict the declared one.
    """
    if declared is not None and declared not in get_args(TimeUnit):
        raise InputError(f"--data.time_unit {declared}: must be one of {', '.join(get_args(TimeUnit))}")
    times = instants.values // instants.per_unit
    if declared == "position":
        return instants.values, "position"
    if declared is None and instants.per_unit == 1 and _are_positions(times, offsets):
        _log.info("%s: timestamps count each user's events; they are taken as positions", path)
        return times, "position"
    if _within(times // 1000):
        _log.info("%s: timestamps are unix milliseconds; converted to seconds", path)
        times = times // 1000
    on_midnight = not np.any(times % DAY)
    if declared == "days" and not on_midnight:
        first = int(times[np.argmax(times % DAY != 0)])
        raise InputError(f"{path}: --data.time_unit days needs unix seconds at midnight (UTC), but one is {first}")
    if declared is not None:
        return times, declared
    if not (instants.from_dates or _within(times)):
        span = f"{times.min()} to {times.max()}"
        raise InputError(
            f"{path}: timestamps {span} are neither unix seconds nor positions; declare --data.time_unit"
            " seconds, days or position"
        )
    unit: TimeUnit = "days" if on_midnight else "seconds"
    _log.info("%s: timestamps are taken as unix %s", path, "days (all fall on midnight)" if on_midnight else "seconds")
    return times, unit


def _within(seconds: NDArray[np.int64]) -> bool:
    return bool(seconds.min() >= _YEAR_1990 and seconds.max() < _YEAR_2100)


def _are_positions(times: NDArray[np.int64], offsets: NDArray[np.int64]) -> bool:
    counted = np.arange(len(times)) - np.repeat(offsets[:-1], np.diff(offsets))
    first = np.repeat(times[offsets[:-1]], np.diff(offsets))
    return bool(np.all((first == 0) | (first == 1)) and np.array_equal(times - first, counted))
