"""Splits against naive loops, cold items, same days, given files, and the same bytes on disk."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genrec.data.interactions import Interactions, TimeUnit
from genrec.data.sequences import Sequences
from genrec.data.splits import Cases, Split, by_time, from_given, leave_last_out
from genrec.semtok.catalog import Catalog
from genrec.semtok.errors import InputError

DAY = 86_400
Events = list[list[tuple[int, int]]]  # a user's (time, item), oldest first

logs = st.lists(
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 6)), min_size=1, max_size=8).map(sorted),
    min_size=1,
    max_size=6,
)


def log_of(events: Events, unit: TimeUnit = "seconds", scale: int = DAY // 4) -> Interactions:
    histories = Sequences.from_lists([item for _, item in user] for user in events)
    times = np.asarray([time * scale for user in events for time, _ in user], dtype=np.int64)
    return Interactions(tuple(f"u{i}" for i in range(len(events))), histories, times, unit)


def lists(sequences: Sequences) -> list[list[int]]:
    return [sequence.tolist() for sequence in sequences]


def facts(cases: Cases) -> list[tuple[str, list[int], int, bool]]:
    return list(zip(cases.user_ids, lists(cases.histories), cases.targets.tolist(), cases.cold.tolist(), strict=True))


def catalog(n: int) -> Catalog:
    ids = tuple(f"i{row}" for row in range(n))
    return Catalog(ids, ids, pl.DataFrame(), np.zeros(n, dtype=np.bool_))


@given(logs.filter(lambda events: any(len(user) > 2 for user in events)))
def test_leave_last_out_against_a_naive_loop(events: Events) -> None:
    split = leave_last_out(log_of(events))
    items = {f"u{i}": [item for _, item in user] for i, user in enumerate(events)}
    asked = [user for user, history in items.items() if len(history) >= 3]
    train = {user: history[:-2] if user in asked else history for user, history in items.items()}
    seen = {item for history in train.values() for item in history}
    assert dict(zip(split.train_user_ids, lists(split.train), strict=True)) == train
    assert facts(split.valid) == [(u, items[u][:-2], items[u][-2], items[u][-2] not in seen) for u in asked]
    assert facts(split.test) == [(u, items[u][:-1], items[u][-1], items[u][-1] not in seen) for u in asked]
    assert split.valid.case_ids == split.valid.user_ids
    days = {f"u{i}": [time // 4 for time, _ in user] for i, user in enumerate(events)}
    assert split.test.same_day is not None
    assert split.test.same_day.tolist() == [days[u][-1] == days[u][-2] for u in asked]
    assert lists(split.refit().train) == [items[u][:-1] if u in asked else items[u] for u in items]


@given(logs, st.floats(0.05, 0.5), st.floats(0.05, 0.45))
def test_by_time_against_a_naive_loop(events: Events, valid_share: float, test_share: float) -> None:
    log = log_of(events, scale=1)
    times = sorted(time for user in events for time, _ in user)
    first_test = times[min(round(len(times) * (1 - test_share)), len(times) - 1)]
    first_valid = times[min(round(len(times) * (1 - test_share - valid_share)), len(times) - 1)]
    train: dict[str, list[int]] = {}
    expected: dict[str, list[tuple[str, list[int], int]]] = {"valid": [], "test": []}
    for i, user in enumerate(events):
        for n, (time, item) in enumerate(user):
            if time < first_valid:
                train.setdefault(f"u{i}", []).append(item)
            elif n > 0:
                part = "test" if time >= first_test else "valid"
                expected[part].append((f"u{i}", [item for _, item in user[:n]], item))
    if not (train and expected["valid"] and expected["test"]):
        with pytest.raises(InputError, match="by_time leaves no"):
            by_time(log, valid_share=valid_share, test_share=test_share)
        return
    split = by_time(log, valid_share=valid_share, test_share=test_share)
    assert dict(zip(split.train_user_ids, lists(split.train), strict=True)) == train
    assert [case[:3] for case in facts(split.valid)] == expected["valid"]
    assert [case[:3] for case in facts(split.test)] == expected["test"]
    known = {item for history in train.values() for item in history}
    assert split.test.cold.tolist() == [target not in known for _, _, target in expected["test"]]
    # Refitted on, a user's sequence is all that came before the test, however many validation cases it had.
    refit = dict(train)
    refit.update({user: [*history, target] for user, history, target in expected["valid"]})
    refitted = split.refit()
    assert sorted(lists(refitted.train)) == sorted(refit.values())
    known = {item for history in refit.values() for item in history}
    assert refitted.test.cold.tolist() == [target not in known for _, _, target in expected["test"]]


@given(logs.filter(lambda events: any(len(user) > 2 for user in events)), st.floats(0, 0.9), st.integers(0, 5))
def test_cold_items_are_in_no_training_history(events: Events, share: float, seed: int) -> None:
    plain = leave_last_out(log_of(events))
    try:
        split = leave_last_out(log_of(events), cold_share=share, seed=seed)
    except InputError:  # every item of a training history was drawn
        trained = {item for history in lists(plain.train) for item in history}
        assert len(trained) <= round(share * len({item for user in events for _, item in user}))
        return
    items = {item for user in events for _, item in user}
    cold = set(split.cold_items.tolist())
    assert len(cold) == round(share * len(items))
    assert cold <= items
    stripped = [[item for item in history if item not in cold] for history in lists(plain.train)]
    kept = [(u, h) for u, h in zip(plain.train_user_ids, stripped, strict=True) if h]
    assert list(zip(split.train_user_ids, lists(split.train), strict=True)) == kept
    assert lists(split.test.histories) == lists(plain.test.histories)
    assert split.test.targets.tolist() == plain.test.targets.tolist()
    assert all(
        flag
        for target, flag in zip(split.test.targets.tolist(), split.test.cold.tolist(), strict=True)
        if target in cold
    )
    assert not cold & set(split.refit().train.values.tolist())


def test_cold_items_depend_on_the_seed_alone() -> None:
    log = log_of([[(time, (7 * user + time) % 50) for time in range(9)] for user in range(30)])
    draws = [leave_last_out(log, cold_share=0.2, seed=seed).cold_items.tolist() for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    assert by_time(log, cold_share=0.2, seed=1).cold_items.tolist() == draws[0]


def test_case_ids_of_users_with_several_cases() -> None:
    split = by_time(log_of([[(t, t % 5) for t in range(20)], [(t, t % 3) for t in range(12, 20)]]), test_share=0.2)
    assert split.test.user_ids.count("u0") > 1
    assert split.test.case_ids[: split.test.user_ids.count("u0") + 1] == ("u0/1", "u0/2", "u0/3", "u1/1")
    assert len(set(split.test.case_ids)) == len(split.test)


def test_positions_have_no_days_and_no_time_split() -> None:
    log = log_of([[(0, 1), (1, 2), (2, 3)]], unit="position", scale=1)
    split = leave_last_out(log)
    assert split.valid.same_day is None
    assert split.test.same_day is None
    with pytest.raises(InputError, match="only positions"):
        by_time(log)


def test_refused_arguments() -> None:
    log = log_of([[(0, 1), (1, 2), (2, 3)]])
    with pytest.raises(InputError, match=r"--data\.cold_share 1\.0: must be at least 0 and below 1"):
        leave_last_out(log, cold_share=1.0)
    with pytest.raises(InputError, match=r"--data\.valid_share 0\.5, --data\.test_share 0\.5"):
        by_time(log, valid_share=0.5, test_share=0.5)
    with pytest.raises(InputError, match="at least three events"):
        leave_last_out(log_of([[(0, 1), (1, 2)]]))


@pytest.mark.parametrize("unit", ["seconds", "position"])
def test_save_and_load_same_bytes(tmp_path: Path, unit: TimeUnit) -> None:
    log = log_of([[(t, t % 7) for t in range(n)] for n in (9, 4, 1, 3)], unit=unit)
    split = leave_last_out(log, cold_share=0.3, seed=3)
    first, second = tmp_path / "1", tmp_path / "2"
    for folder in (first, second):
        folder.mkdir()
    split.save(first)
    loaded = Split.load(first)
    loaded.save(second)
    assert {p.name for p in first.iterdir()} == {"train.parquet", "valid.parquet", "test.parquet", "split.json"}
    assert all((second / p.name).read_bytes() == p.read_bytes() for p in first.iterdir())
    assert (loaded.name, loaded.train_user_ids) == (split.name, split.train_user_ids)
    assert lists(loaded.train) == lists(split.train)
    assert facts(loaded.test) == facts(split.test)
    assert loaded.test.case_ids == split.test.case_ids
    assert loaded.cold_items.tolist() == split.cold_items.tolist()
    for mine, theirs in ((loaded.test.same_day, split.test.same_day), (loaded.valid.same_day, split.valid.same_day)):
        assert (mine is None) == (theirs is None) == (unit == "position")
        assert mine is None or theirs is None or mine.tolist() == theirs.tolist()


def test_empty_histories_survive_saving(tmp_path: Path) -> None:
    none = np.zeros(2, dtype=np.bool_)
    cases = Cases(
        ("a", "b"), ("a", "b"), Sequences.from_lists([[], [1]]), np.asarray([1, 2], dtype=np.int32), None, none
    )
    Split(Sequences.from_lists([[3], []]), ("a", "b"), cases, cases, "given").save(tmp_path)
    assert lists(Split.load(tmp_path).train) == [[3], []]
    assert lists(Split.load(tmp_path).valid.histories) == [[], [1]]


def test_load_of_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        Split.load(tmp_path)
    (tmp_path / "split.json").write_text("[]")
    with pytest.raises(InputError, match="not a split of genrec"):
        Split.load(tmp_path)
    leave_last_out(log_of([[(0, 1), (1, 2), (2, 3)]])).save(tmp_path)
    (tmp_path / "test.parquet").write_bytes(b"")
    with pytest.raises(InputError, match=r"test\.parquet: the file is empty"):
        Split.load(tmp_path)


def write_given(folder: Path, **parts: str) -> Path:
    for part in ("train", "valid", "test"):
        (folder / f"{part}.csv").write_text(parts[part])
    return folder


GIVEN = {
    "train": f"user_id,history,target,timestamp\nu,i0,i1,{DAY}\nv,i2,i3,{DAY}\nu,i0 i1,i2,{2 * DAY}\n",
    "valid": f"user_id,history,target,timestamp\nu,i0 i1 i2,i0,{2 * DAY}\nw,i4,i5,{3 * DAY}\n",
    "test": f"user_id,history,target,timestamp\nu,i1 i2 i0,i6,{3 * DAY}\nu,i2 i0 i6,i0,{3 * DAY}\n",
}


def test_given_files(tmp_path: Path) -> None:
    split = from_given(write_given(tmp_path, **GIVEN), catalog(7))
    assert split.train_user_ids == ("u", "v")
    assert lists(split.train) == [[0, 1, 2], [2, 3]]
    assert facts(split.valid) == [("u", [0, 1, 2], 0, False), ("w", [4], 5, True)]
    assert facts(split.test) == [("u", [1, 2, 0], 6, True), ("u", [2, 0, 6], 0, False)]
    assert split.valid.case_ids == ("u", "w")
    assert split.test.case_ids == ("u/1", "u/2")
    assert split.test.same_day is None
    assert lists(split.refit().train) == [[0, 1, 2, 0], [2, 3], [4, 5]]


def test_given_files_with_a_log_know_the_day(tmp_path: Path) -> None:
    log = Interactions(
        ("u", "w", "v"),
        Sequences.from_lists([[0, 1, 2, 0, 6, 0], [4, 5], [2, 3]]),
        np.asarray([0, 1, 2, 2, 3, 3, 2, 3, 0, 1], dtype=np.int64) * DAY,
        "days",
    )
    split = from_given(write_given(tmp_path, **GIVEN), catalog(7), log)
    assert split.valid.same_day is not None
    assert split.test.same_day is not None
    assert split.valid.same_day.tolist() == [True, False]
    assert split.test.same_day.tolist() == [False, True]
    late = Interactions(log.user_ids, log.histories, log.times + DAY * 9, "days")
    with pytest.raises(InputError, match="the log lacks 2 cases of the given split, first of user 'u'"):
        from_given(tmp_path, catalog(7), late)
    untimed = Interactions(log.user_ids, log.histories, log.times, "position")
    assert from_given(tmp_path, catalog(7), untimed).test.same_day is None


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (
            "user_id,history,target\nu,i0,i1\nu,i0 X,i1\n",
            "1 row with an item in the history that is not in the item table, first at row 3",
        ),
        ("user_id,history,target\nu,i0,X\n", "1 row with a target that is not in the item table, first at row 2: 'X'"),
        ("user_id,history,target\nu,,i0\nu, ,i0\n", "2 rows without history, first at row 2"),
        ("user_id,history,target\nu,i0,\n", "1 row without target, first at row 2"),
        ("user_id,history,target\n,i0,i1\n", "1 row without user_id, first at row 2"),
        ("user_id,items\nu,i0\n", "no column 'history', 'target'; it has 'user_id', 'items'"),
    ],
)
def test_bad_given_files(tmp_path: Path, test: str, message: str) -> None:
    write_given(tmp_path, **{**GIVEN, "test": test})
    with pytest.raises(InputError) as caught:
        from_given(tmp_path, catalog(7))
    assert str(caught.value).startswith(f"{tmp_path / 'test.csv'}: ")
    assert message in str(caught.value)


def test_missing_given_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train\.csv: no such file"):
        from_given(tmp_path, catalog(7))


@pytest.mark.slow
@pytest.mark.skipif("GENREC_DATA" not in os.environ, reason="GENREC_DATA names the folder of public data sets")
@pytest.mark.parametrize("name", ["amazon14_beauty", "amazon18_scientific", "ml_latest_small"])
def test_leave_last_out_equals_the_published_split(name: str) -> None:
    folder = Path(os.environ["GENREC_DATA"]) / name
    items = Catalog.from_file(folder / "items.jsonl")
    log = Interactions.from_file(folder / "interactions.csv", items)
    ours, published = leave_last_out(log), from_given(folder / "splits", items, log)
    assert ours.train_user_ids == published.train_user_ids
    assert lists(ours.train) == lists(published.train)
    assert facts(ours.valid) == facts(published.valid)
    assert facts(ours.test) == facts(published.test)
    assert lists(ours.refit().train) == lists(published.refit().train)


@pytest.mark.slow
@pytest.mark.skipif("GENREC_DATA" not in os.environ, reason="GENREC_DATA names the folder of public data sets")
def test_published_windows_are_rebuilt_from_the_log() -> None:
    folder = Path(os.environ["GENREC_DATA"]) / "minionerec_industrial"
    items = Catalog.from_file(folder / "items.jsonl")
    log = Interactions.from_file(folder / "interactions.csv", items)
    split = from_given(folder / "splits", items, log)
    assert log.time_unit == "days"
    assert split.test.same_day is not None
    histories = dict(zip(log.user_ids, lists(log.histories), strict=True))
    for user, sequence in zip(split.train_user_ids, lists(split.train), strict=True):
        assert histories[user][: len(sequence)] == sequence
    assert len(set(split.train_user_ids)) == len(split.train_user_ids)
    rows = pl.read_csv(folder / "splits" / "train.csv")
    # One event a row, and each user's first, which is nobody's target.
    assert len(split.train.values) == rows.height + rows["user_id"].n_unique()
