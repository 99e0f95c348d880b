"""What every top-K store must do, whatever keeps its bytes: each store's tests inherit `StoreContract`."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import polars as pl
import pytest
from hypothesis import strategies as st

from genrec.inference.store.topk_store import LONGEST_HISTORY
from genrec.semtok.errors import InputError
from worlds.topk_batches import write_batch

USERS = [f"user{n}" for n in range(300)]
NAMES = st.text(min_size=1, max_size=12) | st.sampled_from(["\x00", "a/b", "Ωλ", "🛒" * 200, "ann", "x" * 512])
LISTS = st.dictionaries(
    NAMES,
    st.lists(st.tuples(st.text(min_size=1, max_size=4), st.floats(width=32, allow_nan=False, allow_infinity=False))),
    min_size=1,
    max_size=8,
)


def batch_of(folder: Path, name: str) -> Path:
    """A batch in which every item of every list names the batch."""
    return write_batch(folder / name, {user: [(f"{name}-{user}-{n}", -n) for n in range(5)] for user in USERS}, parts=2)


def served(store) -> str:
    """The one batch that every answer comes from."""
    found = store.get_many(USERS)
    assert all(len(one.item_ids) == 5 for one in found)
    (name,) = {item.split("-")[0] for one in found for item in one.item_ids}
    assert {one.info.version for one in found} == {store.info().version}
    return name


def check_equals_dictionaries(store, folder, first, second):
    """A store answers as two dictionaries would, through two loads and two rollbacks."""
    users = [*first, *second, "nobody", ""]
    for step, lists in (("load", first), ("load", second), ("back", first), ("back", second)):
        if step == "load":
            store.load(write_batch(folder / str(len(list(folder.iterdir()))), lists))
        else:
            store.rollback()
        wanted = [tuple(zip(*lists[user], strict=True)) or ((), ()) if user in lists else None for user in users]
        many = store.get_many(users)
        assert [None if found is None else (found.item_ids, found.scores) for found in many] == wanted
        assert [store.get(user) for user in users] == many
        assert {found.info for found in many if found is not None} <= {store.info()}


class StoreContract:
    """Wants a fixture `store`, an empty `TopKStore`, and `open_reader`, a function that opens it for another thread."""

    def test_an_empty_store_has_nothing(self, store):
        assert store.info() is None
        assert store.get("ann") is None
        assert store.get_many(["ann", "bob"]) == [None, None]
        assert store.history("ann") == ()
        with pytest.raises(InputError, match="no version to go back to"):
            store.rollback()

    def test_an_answer_carries_version_age_and_model(self, store, tmp_path):
        batch = write_batch(tmp_path / "a", {"ann": [("x", -1.5), ("y", -2.5)]}, run_id="run-a", index_version="ix-a")
        assert store.load(batch, as_of=time.time() - 60) == store.info()
        found = store.get("ann")
        assert (found.item_ids, found.scores, found.stale) == (("x", "y"), (-1.5, -2.5), False)
        assert (found.info.version, found.info.model_id, found.info.index_version) == ("v000001", "run-a", "ix-a")
        assert (found.info.ranking, found.info.users, found.info.items) == ("fused", 1, 2)
        assert 60 <= found.info.age < 90
        assert store.get("bob") is None

    def test_an_old_batch_decodes_through_its_own_items(self, store, tmp_path):
        store.load(write_batch(tmp_path / "a", {"ann": [("m", 1.0)]}, index_version="one"))
        store.load(write_batch(tmp_path / "b", {"bob": [("a", 1.0), ("z", 0.5)]}, index_version="two"))
        assert store.rollback().index_version == "one"
        assert store.get("ann").item_ids == ("m",)
        assert store.get("bob") is None

    def test_a_refused_batch_leaves_the_old_one(self, store, tmp_path):
        store.load(write_batch(tmp_path / "a", {"ann": [("x", 1.0)]}))
        broken = write_batch(tmp_path / "b", {"ann": [("y", 1.0)]})
        (broken / "manifest.json").unlink()
        with pytest.raises(InputError, match="unfinished"):
            store.load(broken)
        assert store.get("ann").item_ids == ("x",)
        store.load(write_batch(tmp_path / "c", {"ann": [("z", 1.0)]}))
        assert store.get("ann").item_ids == ("z",)
        store.rollback()
        assert store.get("ann").item_ids == ("x",)

    def test_events_make_a_list_stale_until_a_later_batch(self, store, tmp_path):
        histories = pl.DataFrame({"user_id": ["ann"], "item_ids": [["h1", "h2"]]})
        store.load(write_batch(tmp_path / "a", {"ann": [("x", 1.0)], "bob": []}), as_of=100.0, histories=histories)
        assert store.history("ann") == ("h1", "h2")
        store.add_events("ann", ["e1"], at=100.0)  # the batch knows it
        assert not store.get("ann").stale
        store.add_events("ann", ["e2", "e3"], at=101.0)
        assert store.get("ann").stale
        assert not store.get("bob").stale
        assert store.history("ann") == ("h1", "h2", "e2", "e3")
        newer = pl.DataFrame({"user_id": ["ann"], "item_ids": [["h1", "h2", "e2"]]})
        store.load(write_batch(tmp_path / "b", {"ann": [("y", 1.0)]}), as_of=150.0, histories=newer)
        assert not store.get("ann").stale
        assert store.history("ann") == ("h1", "h2", "e2")
        store.rollback()  # to a batch that does not know them
        assert store.get("ann").stale
        assert store.history("ann") == ("h1", "h2", "e2", "e3")

    def test_events_are_forgotten_once_both_kept_batches_know_them(self, store, tmp_path):
        store.add_events("ann", ["e1"], at=10.0)
        for number, as_of in enumerate((5.0, 20.0, 30.0)):
            store.load(write_batch(tmp_path / str(number), {"ann": [("x", 1.0)]}), as_of=as_of)
        store.rollback()
        assert store.history("ann") == ()

    def test_a_user_without_a_list_has_events(self, store):
        store.add_events("new/☃\x00", ["e1"])
        store.add_events("new/☃\x00", [])
        assert store.history("new/☃\x00") == ("e1",)
        assert store.get("new/☃\x00") is None
        with pytest.raises(InputError, match="empty user id"):
            store.add_events("", ["e1"])

    def test_events_stand_by_time_and_the_latest_are_kept(self, store):
        store.add_events("ann", ["late"], at=2000.0)
        store.add_events("ann", [str(n) for n in range(LONGEST_HISTORY)], at=1000.0)
        assert len(store.history("ann")) == LONGEST_HISTORY
        store.add_events("bob", ["b"], at=2.0)
        store.add_events("bob", ["a"], at=1.0)
        assert store.history("bob") == ("a", "b")

    def test_a_second_load_at_a_time_is_refused(self, store, tmp_path):
        batch = batch_of(tmp_path, "a")
        with store._alone(), pytest.raises(InputError, match="another load or rollback is running"):
            store.load(batch)
        store.load(batch)

    def test_readers_never_see_a_mixed_or_missing_answer(self, store, open_reader, tmp_path):
        batches = {name: batch_of(tmp_path, name) for name in ("a", "b")}
        store.load(batches["a"])
        stop, seen, failures = threading.Event(), set(), []

        def read() -> None:
            reader = open_reader()
            while not stop.is_set():
                found = reader.get_many(USERS)
                try:
                    (answer,) = {(one.item_ids[0].split("-")[0], one.info.version) for one in found}
                    seen.add(answer)
                except (AttributeError, ValueError) as error:
                    failures.append(repr(error))

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        for name in "babba":
            store.load(batches[name])
            deadline = time.monotonic() + 30
            while name not in {one for one, _ in seen} and not failures and time.monotonic() < deadline:
                time.sleep(0.01)
            store.rollback()
        stop.set()
        for thread in threads:
            thread.join()
        assert not failures
        assert {name for name, _ in seen} == {"a", "b"}
