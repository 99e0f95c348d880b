"""Run folders that were tampered with: refused in one line or answered, never a traceback, crash, hang or wrong list.

`tests/worlds/hostile.py` has the changes and the probe; here are those of every kind, and `scripts/hostile.py` draws
more of them for as long as it is told.
"""

from __future__ import annotations

import io
import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from worlds.hostile import (
    ANY_FILE,
    STAGES,
    WHOLE,
    Mutation,
    Outcome,
    Prober,
    array_changes,
    file_changes,
    files_of,
    judged,
    mutate,
    of_array,
    put,
    seal,
    set_at,
    some,
    table_changes,
)
from worlds.hostile_inputs import probe_case, write_case

from genrec.cli.main import main
from genrec.inference.recommender import Recommender
from genrec.run import Run
from genrec.semtok.errors import InputError
from genrec.semtok.folders import MANIFEST


@pytest.fixture(scope="module")
def prober() -> Iterator[Prober]:
    one = Prober()
    yield one
    one.close()


@pytest.fixture(scope="module")
def sound(prober: Prober, tiny_run: Path) -> Outcome:
    outcome = prober(tiny_run)
    assert outcome.kind == "answered", outcome.told
    return outcome


Check = Callable[[list[Mutation]], None]


@pytest.fixture
def check(prober: Prober, sound: Outcome, tiny_run: Path, tmp_path: Path) -> Check:
    """Probes a run after each of some changes; fails with all that is wrong."""

    def probe(mutations: list[Mutation]) -> None:
        assert mutations
        told = [judged(one, prober(mutate(tiny_run, tmp_path / "run", one)), sound) for one in mutations]
        assert [one for one in told if one is not None] == []

    return probe


READ = (  # what a recommender opens of a run
    "catalog/catalog.parquet", "vectors/text/text.safetensors", "vectors/text/encoder.json",
    "vectors/text/encoder.safetensors", "vectors/item/item.safetensors", "vectors/item/lrurec.json",
    "vectors/item/lrurec.safetensors", "semtok/semantic_ids.parquet", "semtok/config.json", "lm/config.json",
    "lm/genrec.json", "lm/model.safetensors", "lm/sid_vocabulary.json", "lm/tokenizer.json",
    "lm/heads/dense.safetensors", "lm/heads/cooccurrence.safetensors", "lm/heads/item_input.safetensors",
)  # fmt: skip


@pytest.mark.parametrize("change", ["missing", "one byte flipped in the middle", "a folder", "a link to itself"])
def test_any_damage_is_seen_by_the_hashes(change: str, check: Check) -> None:
    check([Mutation(file, change, ANY_FILE[change], sealed=False) for file in READ])


@pytest.mark.parametrize("file", READ)
def test_damage_behind_a_new_manifest_is_seen_by_the_files_own_checks(file: str, check: Check) -> None:
    changes = [name for name in ANY_FILE if name not in ("missing", "a link to itself")]
    check([Mutation(file, name, ANY_FILE[name], sealed=True) for name in changes])


@pytest.mark.parametrize("file", [file for file in READ if file.endswith(".json") and file != "lm/tokenizer.json"])
def test_json_of_another_form_is_refused(file: str, check: Check, tiny_run: Path) -> None:
    edits = {name: one for name, one in file_changes(tiny_run / file).items() if " is " in name or "removed" in name}
    whole = {f"all of it {name}": lambda path, data=data: put(path, data) for name, data in WHOLE.items()}
    drawn = {name: edits[name] for name in some(edits, 30, seed=0)}
    check([Mutation(file, name, change, sealed=True) for name, change in (whole | drawn).items()])


@pytest.mark.parametrize("file", [file for file in READ if file.endswith(".safetensors")])
def test_arrays_of_another_form_are_refused(file: str, check: Check, tiny_run: Path) -> None:
    changes = array_changes(tiny_run / file)
    check([Mutation(file, name, changes[name], sealed=True) for name in some(changes, 25, seed=1)])


@pytest.mark.parametrize("file", [file for file in READ if file.endswith(".parquet")])
def test_tables_of_another_form_are_refused(file: str, check: Check, tiny_run: Path) -> None:
    check([Mutation(file, name, one, sealed=True) for name, one in table_changes(tiny_run / file).items()])


@pytest.mark.parametrize("stage", ["catalog", "vectors/item", "semtok", "lm"])
def test_manifests_of_another_form_are_refused(stage: str, check: Check, tiny_run: Path) -> None:
    changes = file_changes(tiny_run / stage / MANIFEST)
    check([Mutation(f"{stage}/{MANIFEST}", name, changes[name], sealed=False) for name in some(changes, 25, seed=2)])


NUMBERS = {  # what was served silently, or wrote past the end of an array
    "NaN in the head": ("lm/heads/dense.safetensors", "identity", lambda a: np.full_like(a, math.nan)),
    "NaN in item vectors": ("vectors/item/item.safetensors", "values", lambda a: np.full_like(a, math.nan)),
    "columns of 10^8": ("lm/heads/cooccurrence.safetensors", "similarity_columns", lambda a: a + np.int32(10**8)),
    "columns below 0": ("lm/heads/cooccurrence.safetensors", "similarity_columns", lambda a: -1 - a),
    "a head of another model": ("lm/heads/dense.safetensors", "query.weight", lambda a: a[:, :-1].copy()),
    "an item input of another model": ("lm/heads/item_input.safetensors", "map", lambda a: a[:-1].copy()),
    "rows without end": ("lm/heads/cooccurrence.safetensors", "transitions_starts", lambda a: a * 1000),
}


@pytest.mark.parametrize("case", NUMBERS)
def test_numbers_that_were_served_are_refused(case: str, prober: Prober, tiny_run: Path, tmp_path: Path) -> None:
    file, name, change = NUMBERS[case]
    outcome = prober(mutate(tiny_run, tmp_path / "run", Mutation(file, case, of_array(name, change), sealed=True)))
    assert outcome.kind == "refused", outcome.told
    assert Path(file).name in outcome.told


def test_what_lies_beside_a_stages_files_is_no_part_of_it(prober: Prober, tiny_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    shutil.copy(run / "lm/heads/dense.safetensors", run / "lm/more.safetensors")
    outcome = prober(run)
    assert (outcome.kind, "more.safetensors: is no file of this stage" in outcome.told) == ("refused", True)


@pytest.mark.parametrize("stage", ["catalog", "vectors/text", "vectors/item", "semtok", "lm"])
def test_a_stage_of_another_run_is_refused(
    stage: str, prober: Prober, sound: Outcome, tiny_run: Path, tmp_path: Path
) -> None:
    """Of the same shape, sealed by itself: what tells is that the stages behind it were made of another one."""
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    path = run / stage / MANIFEST
    manifest = json.loads(path.read_text())
    if stage == "lm":  # nothing was made of it: it names what it was made of itself
        manifest["inputs"]["needs"] = dict.fromkeys(manifest["inputs"]["needs"], "0" * 64)
    else:
        first = next(iter(manifest["files"]))
        (run / stage / first).write_bytes((run / stage / first).read_bytes() + b"\n")
    path.write_text(json.dumps(manifest))
    if stage != "lm":
        seal(run, f"{stage}/{first}", behind=False)
    outcome = prober(run)
    assert outcome.kind == "refused", outcome.told
    assert "was made of another" in outcome.told


def test_who_does_not_verify_is_told_so(tiny_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = "vectors/text/text.safetensors"  # its last byte is of a number: a size tells nothing
    run = mutate(tiny_run, tmp_path / "run", Mutation(file, "", ANY_FILE["one byte flipped late"], sealed=False))
    with pytest.raises(InputError, match=r"text\.safetensors: contents differ"), Run.open(run) as opened:
        opened.text_vectors()
    assert "without comparing" not in caplog.text
    with Run.open(run, hashes=False) as opened:
        assert len(opened.text_vectors()) == len(opened.catalog())
    assert f"{run}: opened without comparing the contents of its files" in caplog.text
    assert Recommender.from_pretrained(run, device="cpu", verify=False).catalog.item_ids


@pytest.mark.parametrize("command", ["serve", "chat", "recommend"])
def test_every_command_that_opens_a_model_can_skip_the_hashes(
    command: str, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = "vectors/item/item.safetensors"  # its last byte is of a number: a size tells nothing
    run = mutate(tiny_run, tmp_path / "run", Mutation(file, "", ANY_FILE["one byte flipped late"], sealed=False))
    monkeypatch.setattr("genrec.inference.serve.server._run", lambda server: None)  # it would serve until it is stopped
    monkeypatch.setattr("sys.stdin", io.StringIO("/quit\n"))
    arguments = [
        command,
        str(run),
        "--device=cpu",
        *(["--k=2", f"--out={tmp_path / 'out'}"] * (command == "recommend")),
    ]
    assert main(arguments) == 2
    assert "without comparing" not in caplog.text
    assert main([*arguments, "--no-verify"]) == 0
    assert f"{run}: opened without comparing the contents of its files" in caplog.text


def test_the_corpus_has_every_file_of_a_run_and_every_kind_of_change(tiny_run: Path) -> None:
    files = files_of(tiny_run)
    assert set(READ) <= set(files)
    assert {file.split("/")[0] for file in files} == {stage.split("/")[0] for stage in STAGES}
    assert sum(len(file_changes(tiny_run / file)) for file in files) > 2_000


def test_a_probe_that_crashes_or_hangs_is_a_finding(tmp_path: Path) -> None:
    prober = Prober(seconds=0.0)
    assert prober(tmp_path).kind == "hang"
    prober.seconds = 120.0
    assert prober(tmp_path).kind == "refused"  # no run, and the process is a new one
    prober.close()
    bad = Mutation("f", "n", set_at(("a",), 1), sealed=True)
    assert judged(bad, Outcome("crash", "status -11"), Outcome("answered", "x")) == "f: n (sealed): crash: status -11"
    assert judged(bad, Outcome("answered", "y"), Outcome("answered", "x")) is None
    assert "other lists" in str(judged(Mutation("f", "n", bad.apply, False), Outcome("answered", "y"), Outcome("", "")))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["evaluate", "add-items"])
def test_commands_that_write_refuse_what_was_tampered_with(
    name: str, prober: Prober, tiny_run: Path, tmp_path: Path
) -> None:
    """Files that a recommender never opens; `evaluate` would make its report of what is sealed behind it anew."""
    new = tmp_path / "new.jsonl"
    new.write_text('{"item_id": "new", "title": "Blue mug"}\n')
    wrong = []
    for file in files_of(tiny_run, report=name == "evaluate"):
        changes = file_changes(tiny_run / file)
        sealed = not file.endswith(MANIFEST) and (name == "add-items" or file.startswith("report/"))
        for change in some(changes, 1 if file in READ else 2, seed=4):
            mutation = Mutation(file, change, changes[change], sealed)
            mutate(tiny_run, tmp_path / "run", mutation, report=True)
            write_case(tmp_path, [name, str(tmp_path / "run"), *([str(new)] if name == "add-items" else [])])
            outcome = prober(tmp_path, probe_case)
            if outcome.kind not in ("answered", "refused"):
                wrong.append(f"{mutation}: {outcome.kind}: {outcome.told}")
    assert wrong == []


ALIGNER = [
    (place, value)
    for place in (("name",), ("config",), ("config", "mapper_dropout"), ("config", "temperature"), ("width",))
    for value in (None, "x", [[]], {"a": 1}, -1)
]


def test_settings_of_another_form_in_a_saved_aligner_are_refused(tiny_run: Path, tmp_path: Path) -> None:
    assert Run(tiny_run).aligner() is not None
    for place, value in ALIGNER:
        change = Mutation("vectors/item/aligner.json", str(value), set_at(place, value), sealed=True)
        run = mutate(tiny_run, tmp_path / "run", change)
        with pytest.raises(InputError, match=r"not (a saved|the) aligner"):
            Run(run).aligner()


FIGURES: dict[str, tuple[Callable[[Run], object], list[tuple[int | str, ...]]]] = {
    "lm/training.json": (lambda run: run.training_log("lm"), [(0, "code_loss"), (0, "epoch"), (1, "stage")]),
    "semtok/quality.json": (Run.quality, [("sizes",), ("sizes", 0), ("entropy", 0), ("n_items",)]),
    "report/metrics.json": (Run.metrics, [(0, "value"), (0, "k"), (0, "low"), (3, "model")]),
}


@pytest.mark.parametrize("file", FIGURES)
def test_figures_of_another_form_are_refused_before_they_are_drawn(file: str, tiny_run: Path, tmp_path: Path) -> None:
    read, places = FIGURES[file]
    assert read(Run(tiny_run))
    for place in places:
        for value in ([[[]]], {}, ["x"], "\0" if place[-1] != "stage" and place[-1] != "model" else 5):
            if file == "lm/training.json" and place[-1] == "code_loss" and value == "\0":
                continue  # a text is a row's own matter, and is not drawn
            change = Mutation(file, str(value), set_at(place, value), sealed=True)
            run = mutate(tiny_run, tmp_path / "run", change, report=True)
            with pytest.raises(InputError, match=Path(file).name):
                read(Run(run))
