"""The log: ids as spelled, order by user and time, the unit of time recognised or refused, bad rows counted."""

from __future__ import annotations

import gzip
import logging
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec.data.interactions import Interactions, TimeUnit, _order
from genrec.semtok.catalog import Catalog
from genrec.semtok.errors import InputError

ITEMS = ("007", "7", "a b", "é")
DAY = 86_400
MIDNIGHT = 1_499_990_400  # midnight UTC of 2017-07-14


def catalog(item_ids: tuple[str, ...] = ITEMS) -> Catalog:
    return Catalog(item_ids, item_ids, pl.DataFrame(), np.zeros(len(item_ids), dtype=np.bool_))


def read(path: Path, text: str, unit: TimeUnit | None = None) -> Interactions:
    path.write_text(text)
    return Interactions.from_file(path, catalog(), time_unit=unit)


def rows_of(log: Interactions) -> dict[str, list[int]]:
    return {user: history.tolist() for user, history in zip(log.user_ids, log.histories, strict=True)}


def csv(times: list[object], user: str = "u") -> str:
    return "user_id,item_id,timestamp\n" + "".join(f"{user},007,{time}\n" for time in times)


def test_users_as_first_seen_events_by_time_ties_in_file_order(tmp_path: Path) -> None:
    text = "timestamp,user_id,item_id,rating\n"
    for second, user, item in ((9, "02", "7"), (5, "2", "a b"), (3, "02", "é"), (3, "02", "007"), (9, "02", "7")):
        text += f"{MIDNIGHT + second},{user},{item},1\n"
    log = read(tmp_path / "log.csv", text)
    assert log.user_ids == ("02", "2")
    assert rows_of(log) == {"02": [3, 0, 1, 1], "2": [2]}
    assert log.times.tolist() == [MIDNIGHT + 3, MIDNIGHT + 3, MIDNIGHT + 9, MIDNIGHT + 9, MIDNIGHT + 5]
    assert log.time_unit == "seconds"
    assert (log.times.dtype, log.histories.values.dtype) == (np.int64, np.int32)


def test_every_format_gives_the_same_log(tmp_path: Path) -> None:
    table = pl.DataFrame(
        {"user_id": [5, 3, 5], "item_id": ["é", "7", "007"], "timestamp": [MIDNIGHT + 1, MIDNIGHT, MIDNIGHT - 1]}
    )
    table.write_csv(tmp_path / "log.csv")
    table.write_ndjson(tmp_path / "log.jsonl")
    table.write_parquet(tmp_path / "log.parquet")
    (tmp_path / "packed.csv.gz").write_bytes(gzip.compress((tmp_path / "log.csv").read_bytes()))
    dated = table.with_columns(pl.from_epoch("timestamp"))
    dated.write_parquet(tmp_path / "dated.parquet")
    for name in ("log.csv", "log.jsonl", "log.parquet", "packed.csv.gz", "dated.parquet"):
        log = Interactions.from_file(tmp_path / name, catalog())
        assert log.user_ids == ("5", "3"), name
        assert rows_of(log) == {"5": [0, 3], "3": [1]}, name
        assert log.times.tolist() == [MIDNIGHT - 1, MIDNIGHT + 1, MIDNIGHT], name


@pytest.mark.parametrize(
    ("times", "unit", "stored"),
    [
        ([0, 1, 2], "position", [0, 1, 2]),
        ([3, 1, 2], "position", [1, 2, 3]),
        (["0.0", "1.0"], "position", [0, 1]),
        ([MIDNIGHT, MIDNIGHT + 1], "seconds", [MIDNIGHT, MIDNIGHT + 1]),
        ([MIDNIGHT, MIDNIGHT + DAY, MIDNIGHT], "days", [MIDNIGHT, MIDNIGHT, MIDNIGHT + DAY]),
        ([MIDNIGHT * 1000 + 1999, MIDNIGHT * 1000 + 1], "seconds", [MIDNIGHT, MIDNIGHT + 1]),
        ([MIDNIGHT * 1000, MIDNIGHT * 1000 + DAY * 1000], "days", [MIDNIGHT, MIDNIGHT + DAY]),
        ([f"{MIDNIGHT}.75", f"{MIDNIGHT}.25", MIDNIGHT - 1], "seconds", [MIDNIGHT - 1, MIDNIGHT, MIDNIGHT]),
        (["2017-07-14", "2017-07-13"], "days", [MIDNIGHT - DAY, MIDNIGHT]),
        (["2017-07-14T00:00:01", "2017-07-14T00:00:00"], "seconds", [MIDNIGHT, MIDNIGHT + 1]),
        (["2017-07-14 00:00:01.5", "2017-07-14 00:00:00.5"], "seconds", [MIDNIGHT, MIDNIGHT + 1]),
        (["2017-07-14T02:00:00+02:00", "2017-07-14T00:00:01Z"], "seconds", [MIDNIGHT, MIDNIGHT + 1]),
        (
            ["2017-07-14T00:00:01", "2017-07-14", "2017-07-13T23:00:02-0100"],
            "seconds",
            [MIDNIGHT + s for s in range(3)],
        ),
        (["2017-07-14T00:00:01Z", "2017-07-14 00:00:02.5"], "seconds", [MIDNIGHT + 1, MIDNIGHT + 2]),
    ],
)
def test_units_are_recognised_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, times: list[object], unit: str, stored: list[int]
) -> None:
    with caplog.at_level(logging.INFO):
        log = read(tmp_path / "log.csv", csv(times))
    assert (log.time_unit, log.times.tolist()) == (unit, stored)
    assert len(caplog.messages) >= 1
    assert str(tmp_path / "log.csv") in caplog.messages[-1]


def test_fractions_of_a_second_decide_the_order(tmp_path: Path) -> None:
    text = f"user_id,item_id,timestamp\nu,7,{MIDNIGHT}.75\nu,007,{MIDNIGHT}.25\n"
    assert rows_of(read(tmp_path / "log.csv", text)) == {"u": [0, 1]}
    text = f"user_id,item_id,timestamp\nu,7,{MIDNIGHT}750\nu,007,{MIDNIGHT}250\n"
    assert rows_of(read(tmp_path / "log.csv", text)) == {"u": [0, 1]}


@pytest.mark.parametrize(
    "times", [[0, 2], [2, 3], [5], [0, 0], [-1, 0], [17000, 17001], [MIDNIGHT, 5], [4_200_000_000]]
)
def test_unknown_units_must_be_declared(tmp_path: Path, times: list[object]) -> None:
    with pytest.raises(InputError, match=r"neither unix seconds nor positions; declare --data\.time_unit"):
        read(tmp_path / "log.csv", csv(times))
    assert read(tmp_path / "log.csv", csv(times), "seconds").time_unit == "seconds"
    assert read(tmp_path / "log.csv", csv(times), "position").times.tolist() == sorted(times)


def test_positions_of_some_users_only_are_not_positions(tmp_path: Path) -> None:
    text = csv([0, 1]) + "v,007,0\nv,007,2\n"
    with pytest.raises(InputError, match="declare"):
        read(tmp_path / "log.csv", text)


def test_a_declared_unit_is_taken_or_contradicted(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    assert read(path, csv([MIDNIGHT]), "seconds").time_unit == "seconds"
    assert read(path, csv([0, 1]), "seconds").time_unit == "seconds"
    assert read(path, csv([MIDNIGHT * 1000]), "seconds").times.tolist() == [MIDNIGHT]
    assert read(path, csv([MIDNIGHT, MIDNIGHT + 1]), "position").times.tolist() == [MIDNIGHT, MIDNIGHT + 1]
    with pytest.raises(InputError, match=f"days needs unix seconds at midnight .UTC., but one is {MIDNIGHT + 5}"):
        read(path, csv([MIDNIGHT, MIDNIGHT + 5]), "days")
    with pytest.raises(InputError, match=r"--data\.time_unit weeks: must be one of seconds, days, position"):
        read(path, csv([MIDNIGHT]), "weeks")  # type: ignore[arg-type]


GOOD = f"user_id,item_id,timestamp\nu,007,{MIDNIGHT}\n"
BAD = {
    "unknown item": (
        GOOD + "u,X9,1\nu,7,1\nv,X9,2\n",
        "2 rows with an item that is not in the item table, first at row 3: 'X9'",
    ),
    "no user": (GOOD + ",007,1\n", "1 row without user_id, first at row 3"),
    "no item": (GOOD + "u,,1\n", "1 row without item_id, first at row 3"),
    "no time": (GOOD + "u,7,\n", "1 row without timestamp, first at row 3"),
    "short row": (GOOD + "u,7\n", "row 3 has 2 fields, the header 3"),
    "blank line": (GOOD + "\n" + f"u,7,{MIDNIGHT}\n", "1 row without user_id, first at row 3"),
    "word": (
        GOOD + "u,7,now\nu,7,then\n",
        "2 rows with a timestamp that is not a number of a sane size, first at row 3: 'now'",
    ),
    "infinite": (
        GOOD + "u,7,inf\n",
        "1 row with a timestamp that is not a number of a sane size, first at row 3: 'inf'",
    ),
    "huge": (GOOD + "u,7,1e300\n", "first at row 3: '1e300'"),
    "date": (
        csv(["2017-07-14", "14.7.2017"]),
        "1 row with a timestamp that is neither a number nor an ISO date, first at row 3",
    ),
    "day or month first": (
        csv(["03/04/2020", "05/06/2020"]),
        "2 rows with a timestamp that is neither a number nor an ISO date, first at row 2: '03/04/2020'",
    ),
    "no such offset": (
        csv(["2017-07-14", "2017-07-14T02:00:00+"]),
        "1 row with a timestamp that is neither a number nor an ISO date, first at row 3",
    ),
    "column": ("user,item_id,timestamp\nu,7,0\n", "no column 'user_id'; it has 'user', 'item_id', 'timestamp'"),
    "header": ("user_id,item_id,timestamp\n", "no rows (interactions)"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_logs_get_one_line(tmp_path: Path, case: str) -> None:
    text, message = BAD[case]
    with pytest.raises(InputError) as caught:
        read(tmp_path / "log.csv", text)
    assert str(caught.value).startswith(f"{tmp_path / 'log.csv'}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bad_values_of_typed_files(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    table = pl.DataFrame({"user_id": ["u", "v"], "item_id": ["7", "7"], "timestamp": [float(MIDNIGHT), None]})
    table.write_parquet(path)
    with pytest.raises(InputError, match="1 row without timestamp, first at row 2"):
        Interactions.from_file(path, catalog())
    table.with_columns(timestamp=pl.Series([True, False])).write_parquet(path)
    with pytest.raises(InputError, match="column 'timestamp' holds Boolean; it must be numbers or dates"):
        Interactions.from_file(path, catalog())
    table.with_columns(timestamp=pl.Series([MIDNIGHT, 2**63], dtype=pl.UInt64)).write_parquet(path)
    with pytest.raises(InputError, match="1 row with a timestamp that is not a number of a sane size, first at row 2"):
        Interactions.from_file(path, catalog())
    table.with_columns(timestamp=pl.Series([1e14 + 0.5, 0.0])).write_parquet(path)
    with pytest.raises(InputError, match="fractions of numbers above 9e12"):
        Interactions.from_file(path, catalog())


def test_dates_with_time_zones_in_parquet(tmp_path: Path) -> None:
    moments = [datetime(2017, 7, 14, tzinfo=UTC), datetime(2017, 7, 14, 1, tzinfo=UTC)]
    table = pl.DataFrame({"user_id": ["u", "u"], "item_id": ["7", "7"], "timestamp": moments})
    table.with_columns(pl.col("timestamp").dt.convert_time_zone("Asia/Tokyo")).write_parquet(tmp_path / "log.parquet")
    assert Interactions.from_file(tmp_path / "log.parquet", catalog()).times.tolist() == [MIDNIGHT, MIDNIGHT + 3600]


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(ITEMS), st.integers(MIDNIGHT, MIDNIGHT + 6)), min_size=1))
def test_against_a_naive_loop(tmp_path_factory: pytest.TempPathFactory, events: list[tuple[int, str, int]]) -> None:
    path = tmp_path_factory.mktemp("log") / "log.csv"
    text = "user_id,item_id,timestamp\n" + "".join(f"{user},{item},{time}\n" for user, item, time in events)
    expected: dict[str, list[tuple[int, int]]] = {}
    for user, item, time in events:
        expected.setdefault(str(user), []).append((time, ITEMS.index(item)))
    for history in expected.values():
        history.sort(key=lambda event: event[0])
    log = read(path, text)
    assert log.user_ids == tuple(expected)
    assert rows_of(log) == {user: [row for _, row in history] for user, history in expected.items()}
    assert log.times.tolist() == [time for history in expected.values() for time, _ in history]


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([-(2**62), 0, 1, 2**62])), min_size=1))
def test_order_does_not_overflow(events: list[tuple[int, int]]) -> None:
    users = np.asarray([user for user, _ in events], dtype=np.int32)
    times = np.asarray([time for _, time in events], dtype=np.int64)
    assert _order(users, times, 4).tolist() == np.lexsort((times, users)).tolist()


def test_fields_of_different_lengths_are_a_defect(tmp_path: Path) -> None:
    log = read(tmp_path / "log.csv", csv([0, 1]))
    with pytest.raises(ValueError, match="one history a user"):
        Interactions((), log.histories, log.times, "position")
