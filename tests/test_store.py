from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import lmdb
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from worlds.ring_recommender import RingRecommender, shop
from worlds.sealed import seal_catalog
from worlds.store_contract import LISTS, USERS, StoreContract, batch_of, check_equals_dictionaries, served
from worlds.topk_batches import write_batch

from genrec.cli.main import main as genrec_main
from genrec.data.interactions import Interactions
from genrec.inference.batch.job import BatchJob, in_process, write_shards
from genrec.inference.batch.users import FileUsers, LogUsers
from genrec.inference.store.histories import histories_behind
from genrec.inference.store.lmdb_store import LmdbStore
from genrec.inference.store.opening import open_store
from genrec.inference.store.topk_store import StoreFull
from genrec.semtok.errors import InputError
from genrec.semtok.folders import check_folder


@pytest.fixture
def store(tmp_path):
    opened = LmdbStore(tmp_path / "store")
    yield opened
    opened.close()


@pytest.fixture
def open_reader(store):
    return lambda: store  # a folder is opened once in a process, and threads share it


class TestLmdbStore(StoreContract):
    pass


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=LISTS, second=LISTS)
def test_it_equals_a_dictionary(store, tmp_path_factory, first, second):
    check_equals_dictionaries(store, tmp_path_factory.mktemp("batches"), first, second)


def test_it_is_kept_on_disk(tmp_path):
    store = open_store(tmp_path / "store")
    store.load(batch_of(tmp_path, "a"))
    store.add_events("user1", ["e"])
    store.close()
    again = open_store(tmp_path / "store", verify=True)
    assert served(again) == "a"
    assert again.get("user1").stale
    again.close()


def test_only_the_current_version_and_the_one_before_are_kept(store, tmp_path):
    for name in "abcd":
        store.load(batch_of(tmp_path, name))
    assert sorted(path.name for path in store.folder.glob("v*")) == ["v000003", "v000004"]
    check_folder(store.folder / "v000004", hashes=True)
    store.rollback()
    store.load(batch_of(tmp_path, "e"))
    assert sorted(path.name for path in store.folder.glob("v*")) == ["v000003", "v000005"]
    assert store.rollback().version == "v000003"
    assert served(store) == "c"


def test_pages_are_full(tmp_path, store):
    store.load(write_batch(tmp_path / "b", {f"user{n:06d}": [(f"i{m}", -m) for m in range(20)] for n in range(5000)}))
    assert (store.folder / "v000001" / "data.mdb").stat().st_size < 300 * 5000


@pytest.mark.parametrize("damage", ["truncated", "missing", "no manifest", "garbled info"])
def test_a_damaged_version_is_refused_and_the_one_before_serves(tmp_path, damage, caplog):
    store = LmdbStore(tmp_path / "store")
    store.load(batch_of(tmp_path, "a"))
    store.load(batch_of(tmp_path, "b"))
    store.close()
    current = tmp_path / "store" / "v000002"
    if damage == "truncated":
        os.truncate(current / "data.mdb", 8192)
    elif damage == "missing":
        (current / "items.parquet").unlink()
    elif damage == "no manifest":
        (current / "manifest.json").unlink()
    else:
        (current / "info.json").write_text((current / "info.json").read_text().replace("}", "]"))
    again = LmdbStore(tmp_path / "store")
    assert served(again) == "a"
    assert "version refused" in caplog.text
    (again.folder / "v000001" / "manifest.json").unlink()
    with pytest.raises(InputError, match="v000001"):  # what serves is nothing to go back to once it is damaged too
        again.rollback()
    again.load(batch_of(tmp_path, "c"))
    assert served(again) == "c"
    again.close()


def test_damage_that_keeps_the_size_is_found_by_verify(tmp_path, caplog):
    store = LmdbStore(tmp_path / "store")
    store.load(batch_of(tmp_path, "a"))
    store.load(batch_of(tmp_path, "b"))
    store.close()
    data = tmp_path / "store" / "v000002" / "data.mdb"
    data.chmod(0o644)
    with open(data, "r+b") as file:
        file.seek(data.stat().st_size - 100)
        file.write(b"\xff" * 50)
    again = open_store(tmp_path / "store", verify=True)
    assert served(again) == "a"
    assert "going back" in caplog.text
    again.close()


@pytest.mark.parametrize("name", ["items.parquet", "info.json"])
def test_changed_bytes_of_a_small_file_are_refused_by_every_process(tmp_path, name):
    store = LmdbStore(tmp_path / "store")
    store.load(batch_of(tmp_path, "a"))
    store.load(batch_of(tmp_path, "b"))
    store.close()
    path = tmp_path / "store" / "v000002" / name
    whole = path.read_bytes()
    for place in (0, len(whole) // 3, len(whole) // 2, len(whole) - 12, len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        for verify in (False, True):
            again = open_store(tmp_path / "store", verify=verify)
            assert served(again) == "a"
            again.close()
    path.write_bytes(whole)
    again = open_store(tmp_path / "store", verify=True)
    assert served(again) == "b"
    again.close()


def test_every_version_damaged_is_an_empty_store(tmp_path):
    store = LmdbStore(tmp_path / "store")
    store.load(batch_of(tmp_path, "a"))
    store.close()
    os.truncate(tmp_path / "store" / "v000001" / "data.mdb", 100)
    again = LmdbStore(tmp_path / "store")
    assert again.info() is None
    assert again.get("user1") is None
    again.load(batch_of(tmp_path, "b"))
    assert served(again) == "b"
    again.close()


def test_a_truncated_state_is_refused_and_without_it_the_newest_version_serves(tmp_path):
    store = LmdbStore(tmp_path / "store")
    store.load(batch_of(tmp_path, "a"))
    store.load(batch_of(tmp_path, "b"))
    for user in USERS:
        store.add_events(user, ["event"] * 10)
    store.close()
    state = tmp_path / "store" / "state" / "data.mdb"
    os.truncate(state, state.stat().st_size - 4096)
    with pytest.raises(InputError, match=r"state.*truncated.*move that folder away"):
        LmdbStore(tmp_path / "store")
    os.truncate(state, 100)
    with pytest.raises(InputError, match=r"state.*move that folder away"):
        LmdbStore(tmp_path / "store")
    state.parent.rename(tmp_path / "broken")
    again = LmdbStore(tmp_path / "store")
    assert served(again) == "b"
    again.close()


def test_a_full_event_log_says_so_and_a_load_makes_room(tmp_path):
    store = LmdbStore(tmp_path / "store", events_bytes=256 << 10)
    store.load(batch_of(tmp_path, "a"), as_of=0.0)
    with pytest.raises(StoreFull, match="no room"):  # noqa: PT012 (whichever user it is that finds it full)
        for user in USERS:
            store.add_events(user, ["e" * 40] * 100, at=1.0)
    assert store.get("user0").stale
    store.load(batch_of(tmp_path, "b"), as_of=2.0)
    store.load(batch_of(tmp_path, "c"), as_of=2.0)
    store.add_events("user0", ["e"], at=3.0)
    assert store.history("user0") == ("e",)
    store.close()


def test_a_full_disk_is_one_line_and_the_old_batch_serves(tmp_path, capsys):
    """As a limit on the size of files stands in for it: every load that writes more is refused, at whatever file."""
    place = tmp_path / "store"
    old, new = batch_of(tmp_path, "old"), batch_of(tmp_path, "new")
    assert genrec_main(["store", "load", str(place), str(old)]) == 0
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (1, 5000, 20_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            assert genrec_main(["store", "load", str(place), str(new)]) == 2
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("genrec store: ")
        store = LmdbStore(place)
        assert served(store) == "old"
        store.close()
    assert genrec_main(["store", "load", str(place), str(new)]) == 0
    store = LmdbStore(place)
    assert served(store) == "new"
    store.close()


def test_a_process_opens_a_folder_once(store, tmp_path):
    with pytest.raises(InputError, match="already open in this process"):
        LmdbStore(tmp_path / "store")


LOADER = """
import os, signal, sys
from pathlib import Path
from genrec.inference.store.lmdb_store import LmdbStore

store, batch, kill_at = LmdbStore(Path(sys.argv[1])), Path(sys.argv[2]), int(sys.argv[3])
steps = 0

def count(frame, event, argument):
    # Every call and return inside the store and the folder code, C functions included, is a moment to die at.
    global steps
    if frame.f_code.co_filename.endswith(("lmdb_store.py", "folders.py")):
        steps += 1
        if steps == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

sys.setprofile(count)
store.load(batch)
sys.setprofile(None)
print(steps)
"""


def load_elsewhere(store: Path, batch: Path, kill_at: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LOADER, str(store), str(batch), str(kill_at)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])


def check_kills(tmp_path: Path, fractions: list[float]) -> None:
    old, new = batch_of(tmp_path, "old"), batch_of(tmp_path, "new")
    folder = tmp_path / "store"
    store = LmdbStore(folder)
    store.load(old)
    store.close()
    steps = int(load_elsewhere(folder, new, 0).stdout)
    assert steps > 100
    outcomes = set()
    for fraction in fractions:
        store = LmdbStore(folder)
        store.load(old)
        store.close()
        died = load_elsewhere(folder, new, max(1, int(fraction * steps)))
        assert died.returncode == -signal.SIGKILL, died.stderr
        store = LmdbStore(folder)
        outcomes.add(served(store))
        store.close()
    assert outcomes <= {"old", "new"}
    assert load_elsewhere(folder, new, 0).returncode == 0
    store = LmdbStore(folder, events_bytes=1 << 30)
    assert served(store) == "new"
    assert not list(folder.glob(".v*"))
    store.close()


def test_a_killed_load_leaves_the_old_batch_or_the_new_one(tmp_path):
    check_kills(tmp_path, [0.05, 0.5, 0.9, 0.95, 0.99])


@pytest.mark.slow
def test_a_load_killed_anywhere_leaves_the_old_batch_or_the_new_one(tmp_path):
    check_kills(tmp_path, [n / 40 for n in range(1, 40)])


def test_a_kill_of_a_writer_does_not_block_the_next(tmp_path):
    code = """
import os, signal, sys
from pathlib import Path
from genrec.inference.store.lmdb_store import LmdbStore
store = LmdbStore(Path(sys.argv[1]))
txn = store._state.begin(store._events, write=True)
txn.put(b"ann", b"half an event")
os.kill(os.getpid(), signal.SIGKILL)
"""
    store = LmdbStore(tmp_path / "store")
    store.load(batch_of(tmp_path, "a"))
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "store")], check=False, cwd=Path(__file__).parents[1], timeout=60
    )
    store.add_events("user1", ["e"])
    assert store.history("user1") == ("e",)
    assert store.history("ann") == ()
    store.close()


def test_the_command_line_loads_shows_and_rolls_back(tmp_path, capsys):
    place = str(tmp_path / "store")
    assert genrec_main(["store", "load", place, str(batch_of(tmp_path, "a")), "--as_of", "7"]) == 0
    assert '"as_of": 7.0' in capsys.readouterr().out
    assert genrec_main(["store", "load", place, str(batch_of(tmp_path, "b"))]) == 0
    assert genrec_main(["store", "rollback", place]) == 0
    capsys.readouterr()
    assert genrec_main(["store", "info", place]) == 0
    assert '"version": "v000001"' in capsys.readouterr().out
    assert genrec_main(["store", "load", place, str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err == f"genrec store: {tmp_path / 'nowhere'}: no such folder\n"
    assert genrec_main(["store", "load", place, str(tmp_path / "b"), "--as_of", "1767222000000"]) == 2
    assert capsys.readouterr().err.startswith("genrec store: --as_of 1767222000000: expected seconds since the epoch")
    assert genrec_main(["store", "info", str(tmp_path / "nothing")]) == 2
    assert not (tmp_path / "nothing").exists()


def test_what_the_batch_job_writes_is_loaded_with_the_histories_behind_it(tmp_path, capsys):
    ring = RingRecommender(shop())
    run, log = tmp_path / "run", tmp_path / "log.csv"
    seal_catalog(run, ring.catalog)
    log.write_text("user_id,item_id,timestamp\nann,i3,1000000000\nbob,i11,1000000000\nann,i5,1000086400\n")
    users = LogUsers(Interactions.from_file(log, ring.catalog))

    def recommend(histories):
        return ring.recommend([[f"i{row}" for row in rows] for rows in histories], k=3)

    job = BatchJob(run_id="ring", ranking="beam", index_version="ix", k=3, shard_size=1)
    write_shards(
        in_process(recommend), users, run / "topk", job=job, item_ids=ring.catalog.item_ids, log=tmp_path / "log.jsonl"
    )
    file = tmp_path / "users.jsonl"
    file.write_text('{"user_id": "ann", "history": ["i3", "i5"]}\n{"user_id": "new", "history": []}\n')
    (run / "split").mkdir()
    own = pl.DataFrame({"user_id": ["ann", "bob", "new"], "history": [["i3", "i5"], ["i11"], []]})
    own.write_parquet(run / "split" / "users.parquet")
    users = FileUsers(run / "split" / "users.parquet", ring.catalog)
    write_shards(
        in_process(recommend), users, run / "own", job=job, item_ids=ring.catalog.item_ids, log=tmp_path / "log.jsonl"
    )
    assert histories_behind(run / "topk", run) is None  # the lists of a log, not of these users
    loads = [("topk", "--interactions", str(log)), ("topk", "--users", str(file)), ("own",)]
    for batch, *source in loads:
        assert genrec_main(["store", "load", str(tmp_path / "store"), str(run / batch), *source]) == 0
        store = LmdbStore(tmp_path / "store")
        assert store.get("ann").item_ids == ("i6", "i7", "i8")
        assert store.get("bob").item_ids == ("i0", "i1", "i2")
        assert store.get("bob").info.model_id == "ring"
        assert store.history("ann") == ("i3", "i5")
        assert store.history("new") == ()
        store.close()


def test_lists_outside_their_run_are_loaded_with_histories_where_the_run_is_named(tmp_path, capsys):
    run, users, place = tmp_path / "run", tmp_path / "users.jsonl", str(tmp_path / "store")
    seal_catalog(run, shop())
    users.write_text('{"user_id": "ann", "history": ["i3", "i5"]}\n')
    load = ["load", place, str(write_batch(tmp_path / "lists", {"ann": [("i1", -1.0)]})), "--users", str(users)]
    assert genrec_main(["store", *load]) == 2
    says = f"genrec store: {tmp_path}: not a run, and histories go by its catalogue; name the run with --run"
    assert capsys.readouterr().err.splitlines() == [says]
    assert genrec_main(["store", *load, "--run", str(run)]) == 0
    store = LmdbStore(tmp_path / "store")
    assert store.history("ann") == ("i3", "i5")
    store.close()


@pytest.mark.parametrize(
    ("place", "words"),
    [("file", "no store can be made here"), ("run", "not a store"), ("run/topk", "not a store"),
     ("http://localhost:6379", "a store is a folder, or redis://")],
)  # fmt: skip
def test_what_is_no_store_is_one_line_and_left_alone(place, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    write_batch(tmp_path / "run/topk", {"ann": [("i1", -1.0)]})
    (tmp_path / "run/config.yaml").write_text("")
    before = sorted(tmp_path.rglob("*"))
    assert genrec_main(["store", "load", place, str(tmp_path / "run/topk")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert sorted(tmp_path.rglob("*")) == before


def test_a_foreign_file_in_place_of_the_state_is_refused(tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "data.mdb").write_bytes(b"x" * 20_000)
    with pytest.raises(InputError, match="cannot be opened"):
        LmdbStore(tmp_path)
    assert issubclass(lmdb.InvalidError, lmdb.Error)
