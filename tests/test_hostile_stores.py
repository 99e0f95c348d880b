"""Stores and folders of lists that were tampered with: a version that is whole is served, or one line says why not."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from worlds.hostile import ANY_FILE, Mutation, Outcome, Prober, file_changes, judged, some, table_changes
from worlds.hostile_stores import (
    STATES,
    make_store,
    mutate_store,
    probe_load,
    probe_store,
    seal_version,
    state_change,
)

from genrec.semtok.folders import MANIFEST

FILES = ("data.mdb", "info.json", "items.parquet")


@pytest.fixture(scope="module")
def prober() -> Iterator[Prober]:
    prober = Prober()
    yield prober
    prober.close()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("stores") / "two", ["a", "b"])


@pytest.fixture(scope="module")
def whole(prober: Prober, tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    """What is served of either version."""
    outcomes = []
    for versions in (["a", "b"], ["a"]):
        outcomes.append(prober(make_store(tmp_path_factory.mktemp("whole") / "store", versions), probe_store))
    assert [outcome.kind for outcome in outcomes] == ["answered", "answered"]
    assert outcomes[0] != outcomes[1]
    return outcomes


def wrong_of(prober: Prober, store: Path, into: Path, mutations: list[Mutation], whole: list[Outcome]) -> list[str]:
    """What is wrong after each of some changes."""
    assert mutations
    wrong = []
    for mutation in mutations:
        outcome = prober(mutate_store(store, into, mutation), probe_store)
        found = [judged(mutation, outcome, sound) for sound in whole]
        if None not in found:
            wrong.append(str(found[0]))
    return wrong


@pytest.mark.parametrize("file", FILES)
def test_a_version_with_a_damaged_file_is_not_served(
    file: str, store: Path, whole: list[Outcome], prober: Prober, tmp_path: Path
) -> None:
    mutations = [Mutation(f"v000002/{file}", name, change, sealed=False) for name, change in ANY_FILE.items()]
    assert wrong_of(prober, store, tmp_path / "store", mutations, whole) == []


def test_manifests_of_another_form_are_refused(
    store: Path, whole: list[Outcome], prober: Prober, tmp_path: Path
) -> None:
    file = f"v000002/{MANIFEST}"
    changes = file_changes(store / file)
    mutations = [Mutation(file, name, changes[name], sealed=False) for name in some(changes, 60, seed=0)]
    assert wrong_of(prober, store, tmp_path / "store", mutations, whole) == []


@pytest.mark.parametrize("file", FILES)
def test_damage_behind_a_new_manifest_crashes_no_reader(
    file: str, store: Path, whole: list[Outcome], prober: Prober, tmp_path: Path
) -> None:
    changes = file_changes(store / "v000002" / file)
    drawn = [*ANY_FILE, *some({name: one for name, one in changes.items() if name not in ANY_FILE}, 60, seed=1)]
    mutations = [Mutation(f"v000002/{file}", name, changes[name], sealed=True) for name in drawn]
    assert wrong_of(prober, store, tmp_path / "store", mutations, whole) == []


def test_what_others_wrote_into_the_state_is_refused_or_passed_over(
    store: Path, whole: list[Outcome], prober: Prober, tmp_path: Path
) -> None:
    file = "state/data.mdb"
    mutations = [Mutation(file, name, state_change(name), sealed=False) for name in STATES]
    mutations += [Mutation(file, name, change, sealed=False) for name, change in ANY_FILE.items()]
    assert wrong_of(prober, store, tmp_path / "store", mutations, whole) == []


def test_a_folder_that_only_looks_like_a_version_is_left_alone(store: Path, tmp_path: Path) -> None:
    shutil.copytree(store, tmp_path / "two")
    notes = tmp_path / "two" / "v2 of mine" / "notes.txt"
    notes.parent.mkdir()
    notes.write_text("mine")
    make_store(tmp_path / "two", ["c"])
    assert notes.read_text() == "mine"
    assert sorted(path.name for path in (tmp_path / "two").glob("v0*")) == ["v000002", "v000003"]


def test_lists_that_were_tampered_with_are_loaded_whole_or_not_at_all(
    store: Path, prober: Prober, tmp_path: Path
) -> None:
    batch, copy, part = store.parent / "two-b", tmp_path / "batch", "part-00000.parquet"
    shutil.copytree(batch, copy)
    sound = prober(copy, probe_load)
    assert sound.kind == "answered"
    changes = ANY_FILE | table_changes(batch / part)
    mutations = [Mutation(part, name, change, sealed) for name, change in changes.items() for sealed in (False, True)]
    manifests = file_changes(batch / MANIFEST)
    mutations += [Mutation(MANIFEST, name, manifests[name], sealed=False) for name in some(manifests, 30, seed=2)]
    wrong = []
    for mutation in mutations:
        shutil.rmtree(copy)
        shutil.copytree(batch, copy)
        mutation.apply(copy / mutation.file)
        if mutation.sealed:
            seal_version(copy)
        if told := judged(mutation, prober(copy, probe_load), sound):
            wrong.append(told)
    assert wrong == []
