"""What a fit takes from the size of its data: the epochs once chosen by hand, and never what a person said."""

from __future__ import annotations

from pathlib import Path

import pytest

from genrec.cli.by_data import DataSize, settled
from genrec.cli.config import FitConfig
from genrec.cli.parsing import load_config
from genrec.semtok.errors import InputError
from genrec.training.lm.stage import lm_settings

SCIENTIFIC, BEAUTY = DataSize(8_317, 4_344, 58_492), DataSize(22_363, 12_101, 198_502)
MOVIELENS, SHOP = DataSize(610, 9_742, 100_836), DataSize(150, 60, 1_643)


def config(folder: Path, *flags: str) -> FitConfig:
    for name in ("items.csv", "log.csv"):
        (folder / name).touch()
    (folder / "my.yaml").write_text(f"data: {{items: {folder}/items.csv, interactions: {folder}/log.csv}}\nrun: run\n")
    return load_config(folder / "my.yaml", ["--text.encoder=tfidf", *flags])


def epochs(config: FitConfig) -> tuple[int, int, int]:
    return config.collaborative.epochs, config.aligner.training.epochs, config.lm.epochs


@pytest.mark.parametrize(
    ("size", "passes", "batch", "rate", "items"),
    [
        (SCIENTIFIC, (48, 12, 10), 512, 1e-3, 20),
        (BEAUTY, (48, 10, 6), 1024, 1.5e-3, 20),
        (MOVIELENS, (48, 12, 6), 512, 1e-3, 50),
        (SHOP, (48, 40, 40), 512, 1e-3, 20),
        (DataSize(1, 2, 3), (48, 40, 40), 512, 1e-3, 20),
    ],
)
def test_what_was_set_by_hand_is_what_the_data_gives(
    tmp_path: Path, size: DataSize, passes: tuple[int, int, int], batch: int, rate: float, items: int
) -> None:
    found = settled(config(tmp_path), size)
    training = found.aligner.training
    assert epochs(found) == passes
    assert (training.batch_positions, training.peak_learning_rate, found.lm.max_items) == (batch, rate, items)
    assert (found.collaborative.batch_positions, found.lm.batch_tokens) == (512, 1536)


def test_a_large_log_is_read_less_often_and_in_large_batches(tmp_path: Path) -> None:
    found = settled(config(tmp_path), DataSize(1_000_000, 1_000_000, 10_000_000))
    assert epochs(found) == (2, 1, 1)
    assert found.lm.node_vectors is False
    assert settled(config(tmp_path), BEAUTY).lm.node_vectors is True
    batches = found.collaborative.batch_positions, found.aligner.training.batch_positions, found.lm.batch_tokens
    assert batches == (4096, 4096, 16_384)
    assert epochs(settled(config(tmp_path), DataSize(6_040, 3_416, 1_000_209))) == (20, 10, 6)


def test_what_a_person_says_stays(tmp_path: Path) -> None:
    flags = ["--lm.epochs=3", "--lm.max_items=7", "--collaborative.epochs=5", "--aligner.training.epochs=4"]
    flags += ["--lm.node_vectors=false", "--lm.batch_tokens=64"]
    flags += ["--lrurec.max_items=9", "--lrurec.dropout=0.1"]
    flags += ["--collaborative.batch_positions=64", "--aligner.training.batch_positions=96"]
    said = config(tmp_path, *flags, "--effort=thorough")
    assert settled(said, BEAUTY) == said


@pytest.mark.parametrize(
    ("size", "items", "dropout"),
    [(SCIENTIFIC, 50, 0.4), (BEAUTY, 50, 0.4), (MOVIELENS, 200, 0.4), (DataSize(6_040, 3_416, 999_611), 200, 0.2)],
)
def test_long_histories_are_read_further_back_and_dense_data_needs_less_dropout(
    tmp_path: Path, size: DataSize, items: int, dropout: float
) -> None:
    shape = settled(config(tmp_path), size).shape("lrurec")
    assert (shape.max_items, shape.dropout) == (items, dropout)
    said = config(tmp_path, "--lrurec.max_items=30", "--lrurec.dropout=0")
    shape = settled(said, size).shape("lrurec")
    assert (shape.max_items, shape.dropout) == (30, 0)


def test_effort_is_a_share_of_the_epochs(tmp_path: Path) -> None:
    assert epochs(settled(config(tmp_path, "--effort=quick"), SCIENTIFIC)) == (16, 4, 3)
    assert epochs(settled(config(tmp_path, "--effort=quick", "--lm.epochs=8"), SCIENTIFIC)) == (16, 4, 8)
    assert epochs(settled(config(tmp_path, "--effort=thorough"), SCIENTIFIC)) == (96, 24, 20)
    with pytest.raises(InputError, match="effort"):
        config(tmp_path, "--effort=some")


def test_settled_once_it_stays_for_other_data(tmp_path: Path) -> None:
    """The `config.yaml` of a run, read again, is not settled anew, whatever the data is then."""
    found = settled(config(tmp_path), SCIENTIFIC)
    (tmp_path / "stored.yaml").write_text(found.to_yaml())
    assert settled(load_config(tmp_path / "stored.yaml"), BEAUTY) == found


def test_training_by_a_file_that_is_not_settled_is_refused(tmp_path: Path) -> None:
    from dataclasses import asdict

    with pytest.raises(InputError, match=r"lm.epochs, lm.max_items or lm.batch_tokens is 0"):
        lm_settings(asdict(config(tmp_path)))
