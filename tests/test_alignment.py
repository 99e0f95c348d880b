"""Aligners trained with a recommender: the stage of a run, and new items."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from genrec.add_items import add
from genrec.cli.parsing import load_config
from genrec.cli.pipeline import data_stages, vector_stages
from genrec.data.sample_shop import make_sample_shop
from genrec.data.sequences import Sequences
from genrec.run import Run
from genrec.semtok.aligners.saved import load_table, make_table
from genrec.semtok.errors import InputError
from genrec.semtok.folders import check_folder, read_json
from genrec.semtok.semantic_ids import SemanticIds
from genrec.semtok.vectors import ItemVectors, unit_rows
from genrec.sequential.aligner_inputs import aligner_inputs, cold_items, vectors_from_text
from genrec.sequential.base import SequentialModel
from genrec.sequential.config import SasRecConfig
from genrec.sequential.frozen import extended, frozen, load_frozen, log_probability
from genrec.sequential.sasrec import SasRecBackbone
from genrec.stages import bring_up_to_date
from genrec.training.aligner.fit import aligned_vectors

SMALL = [
    "--aligner.backbone=sasrec",
    "--sasrec.width=16",
    "--collaborative.epochs=2",
    "--aligner.training.epochs=2",
    "--data.cold_share=0.1",
]


def stages(folder: Path, *options: str) -> Path:
    """A run up to its semantic IDs."""
    make_sample_shop(0, users=80, items=60).write(folder)
    config = folder / "my.yaml"
    data = f"data:\n  items: {folder / 'items.jsonl'}\n  interactions: {folder / 'interactions.csv'}\n"
    config.write_text(f"{data}run: {folder / 'run'}\n")
    run = Run(folder / "run")
    with run.locked():
        settings = load_config(config, [*SMALL, *options])
        for stage in [*data_stages(settings), *vector_stages(settings)]:
            bring_up_to_date(run, stage)
    return run.path


def test_inputs_count_events_and_mark_who_took_what() -> None:
    text = ItemVectors(np.eye(4, 3, dtype=np.float32), "words")
    behaviour = ItemVectors(np.eye(4, 2, dtype=np.float32), "log")
    inputs = aligner_inputs(text, Sequences.from_lists([[0, 1, 0], [], [1]]), behaviour)
    assert inputs.counts.tolist() == [2, 2, 0, 0]
    assert inputs.user_item.toarray().tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]]
    assert cold_items(inputs).rows.tolist() == [2, 3]
    np.testing.assert_array_equal(cold_items(inputs).text, text.values[2:])


def test_cold_items_have_vectors_from_their_words() -> None:
    rng = np.random.default_rng(0)
    text = ItemVectors(rng.normal(size=(6, 5)).astype(np.float32), "words")
    inputs = aligner_inputs(text, Sequences.from_lists([[0, 1, 2, 3]]))
    torch.manual_seed(0)
    table = make_table("faerec", inputs, 4).eval()
    vectors = aligned_vectors(table, inputs, "faerec").values
    np.testing.assert_allclose(vectors[4:], unit_rows(vectors_from_text(table, text).numpy())[4:], atol=1e-6)
    np.testing.assert_allclose(vectors[:4], unit_rows(table().detach().numpy()[:4]), atol=1e-6)
    assert np.abs(vectors[:4] - unit_rows(vectors_from_text(table, text).numpy())[:4]).max() > 0.01


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stages(tmp_path_factory.mktemp("shop"), "--aligner.name=faerec")


def test_the_stage_holds_the_table_its_vectors_and_its_log(run: Path) -> None:
    assert set(check_folder(run / "vectors/item", hashes=True)["files"]) == {
        "aligner.json", "aligner.safetensors", "item.safetensors", "sasrec.json", "sasrec.safetensors",
        "training.json",
    }  # fmt: skip
    vectors, inputs = ItemVectors.load(run / "vectors/item/item.safetensors"), Run(run).aligner_inputs()
    table = load_table(run / "vectors/item", inputs)
    np.testing.assert_array_equal(vectors.values, aligned_vectors(table, inputs, "").values)
    assert vectors.values.shape == (60, 16)
    assert (inputs.counts == 0).sum() >= 6
    assert [row["stage"] for row in read_json(run / "vectors/item/training.json")] == ["aligner"] * 2
    assert read_json(run / "vectors/item/aligner.json")["name"] == "faerec"


def test_the_same_seed_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    again = stages(tmp_path, "--aligner.name=faerec")
    files = [f"vectors/item/{name}.safetensors" for name in ("aligner", "item", "sasrec")]
    for file in (*files, "semtok/semantic_ids.parquet"):
        assert (again / file).read_bytes() == (run / file).read_bytes(), file


def test_llm_esr_with_taught_users(tmp_path: Path) -> None:
    options = ("--aligner.training.distillation=0.1", "--aligner.training.similar_users=3")
    taught = stages(tmp_path / "a", "--aligner.name=llm_esr", *options)
    alone = stages(tmp_path / "b", "--aligner.name=llm_esr")
    losses, vectors = (
        [part(path / "vectors/item") for path in (alone, taught)]
        for part in (
            lambda folder: [row["loss"] for row in read_json(folder / "training.json")],
            lambda folder: ItemVectors.load(folder / "item.safetensors").values,
        )
    )
    assert losses[0][0] == losses[1][0], "nobody teaches in the first epoch"
    assert losses[0][1] != losses[1][1]
    assert not np.array_equal(*vectors)
    file = tmp_path / "new.jsonl"
    file.write_text('{"item_id": "new", "title": "Copper kettle"}\n')
    assert add(Run(taught), file) == 1
    assert ItemVectors.load(taught / "vectors/item/item.safetensors").values.shape == (61, 16)


def test_new_items_are_placed_by_the_runs_own_aligner(run: Path, tmp_path: Path) -> None:
    before = SemanticIds.load(run / "semtok")
    for number, name in enumerate(["Copper kettle", "Alpine tent"]):  # the second finds a run that has grown
        file = tmp_path / f"{number}.jsonl"
        file.write_text(json.dumps({"item_id": f"new{number}", "title": name}) + "\n")
        assert add(Run(run), file) == 1
    after = SemanticIds.load(run / "semtok")
    np.testing.assert_array_equal(after.codes[:60], before.codes)
    text = ItemVectors.load(run / "vectors/text/text.safetensors")
    table = load_table(run / "vectors/item", Run(run).aligner_inputs())
    expected = vectors_from_text(table, ItemVectors(text.values[60:], text.source))
    np.testing.assert_allclose(
        ItemVectors.load(run / "vectors/item/item.safetensors").values[60:], unit_rows(expected.numpy()), atol=1e-6
    )
    sequence = load_frozen(run / "vectors/item")
    assert sequence is not None
    np.testing.assert_allclose(sequence.item_vectors[60:], expected, atol=1e-6)


def test_the_recommender_stays_as_it_was_trained(tmp_path: Path) -> None:
    """What is saved scores as the trained model does; later items are read and ranked by the vectors they are given."""
    rng = np.random.default_rng(0)
    text = ItemVectors(rng.normal(size=(6, 5)).astype(np.float32), "words")
    inputs = aligner_inputs(text, Sequences.from_lists([[0, 1, 2, 3]]))
    cold, histories = cold_items(inputs), Sequences.from_lists([[0, 1], [], [5, 2, 4]])
    torch.manual_seed(0)
    shape = SasRecConfig(width=4, layers=1, heads=1, max_items=3)
    model = SequentialModel(make_table("faerec", inputs, 4), SasRecBackbone(shape))
    frozen(model, cold).save(tmp_path)
    kept = load_frozen(tmp_path)
    assert kept is not None
    np.testing.assert_allclose(kept.score(histories), model.scorer(cold)(histories), atol=1e-6)
    probability = log_probability(kept, histories).exp().numpy()
    np.testing.assert_allclose(probability.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(probability[1], 1 / 6, rtol=1e-5)
    more = extended(kept, 5, kept.item_vectors[5:].repeat(2, 1))  # item 5 again, and once more
    np.testing.assert_allclose(more.score(histories)[:, :6], kept.score(histories), atol=1e-6)
    np.testing.assert_allclose(more.score(histories)[:, 6], kept.score(histories)[:, 5], atol=1e-6)
    twin = more.score(Sequences.from_lists([[6, 2, 4]]))
    np.testing.assert_allclose(twin, more.score(Sequences.from_lists([[5, 2, 4]])), atol=1e-6)


def test_a_broken_recommender_is_named(tmp_path: Path) -> None:
    assert load_frozen(tmp_path) is None
    (tmp_path / "sasrec.json").write_text('{"n_items": 3, "colour": 1}')
    with pytest.raises(InputError, match="not the shape of sasrec"):
        load_frozen(tmp_path)
    (tmp_path / "sasrec.json").write_text('{"n_items": 3, "width": 4}')
    with pytest.raises(InputError, match="no such file"):
        load_frozen(tmp_path)
    (tmp_path / "sasrec.safetensors").write_bytes(b"x" * 20)
    with pytest.raises(InputError, match="not the shape of the 20 bytes of weights beside it"):
        load_frozen(tmp_path)


@pytest.mark.parametrize("name", ["text", "concatenation", "llmemb", "recgoat"])
def test_every_aligner_makes_a_run_that_takes_new_items(name: str, tmp_path: Path) -> None:
    run = stages(tmp_path, f"--aligner.name={name}", "--aligner.training.epochs=1")
    assert (run / "vectors/users/users.safetensors").is_file() == (name == "recgoat")
    file = tmp_path / "new.jsonl"
    file.write_text(json.dumps({"item_id": "new", "title": "Copper kettle"}) + "\n")
    assert add(Run(run), file) == 1
    assert len(SemanticIds.load(run / "semtok")) == 61


def test_an_unknown_aligner_or_option_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--aligner.name 'colour': choose one of fusion, text, "):
        stages(tmp_path, "--aligner.name=colour")
    with pytest.raises(InputError, match=r"--aligner.faerec.minimum 2"):
        stages(tmp_path, "--aligner.faerec.minimum=2")
