"""The trainer of sequential models: every event a target once, aligner losses added, resumed fits as undisturbed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from worlds.ring import N_ITEMS, ring_split

from genrec.data.cases import Cases
from genrec.data.sequences import Sequences
from genrec.data.splits import Split
from genrec.data.user_items import user_item_matrix
from genrec.semtok.aligners.base import AlignerInputs, IdTable
from genrec.semtok.aligners.config import ConcatenationConfig, TextTableConfig
from genrec.semtok.aligners.simple import ConcatenationTable, TextTable
from genrec.semtok.errors import InputError
from genrec.sequential import BACKBONES
from genrec.sequential.base import SequentialModel
from genrec.sequential.config import SasRecConfig
from genrec.sequential.sasrec import SasRec
from genrec.training.loop.epochs import FitContext
from genrec.training.sequential.config import SequentialTrainingConfig
from genrec.training.sequential.fit import fit_sequential, training_windows, validation_recall

SPLIT = ring_split(train=40, asked=20)
SHORT = SequentialTrainingConfig(epochs=4, patience=4, batch_positions=64, seed=3)


def fit_sasrec(workdir: Path, log: Callable[[Mapping[str, Any]], None], **options: Any) -> torch.nn.Module:
    return fit_sequential(
        lambda: SasRec(N_ITEMS, SasRecConfig(width=8)), SPLIT, SHORT, FitContext(workdir, log), **options
    )


def fit_other(name: str, workdir: Path, log: Callable[[Mapping[str, Any]], None], **options: Any) -> torch.nn.Module:
    def make() -> SequentialModel:
        return SequentialModel(IdTable(N_ITEMS, 8), BACKBONES[name].build(BACKBONES[name].config(width=8)))

    return fit_sequential(make, SPLIT, SHORT, FitContext(workdir, log), **options)


@pytest.mark.parametrize("fit", [fit_sasrec, partial(fit_other, "bert4rec"), partial(fit_other, "fmlprec")])
@pytest.mark.parametrize("options", [{}, {"negatives": 5}])
def test_resumed_is_undisturbed(fit: Callable[..., torch.nn.Module], options: Any, tmp_path: Path) -> None:
    undisturbed, broken = tmp_path / "a", tmp_path / "b"
    undisturbed.mkdir()
    broken.mkdir()
    expected = fit(undisturbed, lambda row: None, **options).state_dict()
    for stop in (0, 2):  # a kill after the epoch, before its checkpoint

        def killed(row: Mapping[str, Any], stop: int = stop) -> None:
            if row["epoch"] == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fit(broken, killed, **options)
    resumed = fit(broken, lambda row: None, **options).state_dict()
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)
    assert (undisturbed / "training.json").read_bytes() == (broken / "training.json").read_bytes()


def test_all_negatives_learn_what_the_full_softmax_learns(tmp_path: Path) -> None:
    losses: dict[int | None, list[float]] = {None: [], N_ITEMS: []}
    for negatives, rows in losses.items():
        workdir = tmp_path / str(negatives)
        workdir.mkdir()
        fit_sequential(
            lambda: SasRec(N_ITEMS, SasRecConfig(width=8, dropout=0.0)),  # coins would move dropout's generator on
            SPLIT,
            SHORT,
            FitContext(workdir, lambda row, rows=rows: rows.append(row["loss"])),  # type: ignore[misc]
            negatives=negatives,
        )
    np.testing.assert_allclose(losses[None], losses[N_ITEMS], rtol=1e-4)
    assert losses[None][-1] < losses[None][0]


@pytest.mark.parametrize("width", [2, 3, 5, 50])
def test_every_event_but_the_first_is_a_target_once(width: int) -> None:
    histories = Sequences.from_lists([[0], [1, 2], np.arange(3, 40), np.arange(40, 47)])
    targets = []
    ends = []
    for row, first_target, user in training_windows(histories, width):
        assert len(row) <= width + 1
        assert first_target >= 1
        targets += row[first_target:].tolist()
        if user >= 0:
            assert row[-1] == histories[user][-1]
            ends.append(user)
    assert sorted(targets) == [2, *range(4, 40), *range(41, 47)]
    assert ends == [1, 2, 3], "each history of two items ends once"


def recall_of(scores: list[float], history: list[int], target: int, k: int = 2, *, exclude_seen: bool = True) -> float:
    targets = np.array([target], dtype=np.int32)
    cases = Cases(("c",), ("u",), Sequences.from_lists([history]), targets, None, np.zeros(1, dtype=bool))
    return validation_recall(lambda asked: np.array([scores], dtype=np.float32), cases, k=k, exclude_seen=exclude_seen)


def test_validation_recall_counts_targets_that_a_list_would_hold() -> None:
    assert recall_of([9, 8, 7, 6], [0], 2) == 1
    assert recall_of([9, 8, 7, 6], [0], 2, exclude_seen=False) == 0
    assert recall_of([9, 7, 7, 7], [0], 2) == 0  # ties rank before the target
    assert recall_of([9, 8, 7, 6], [2], 2, k=9) == 0  # excluded itself
    assert recall_of([9, 8, 7, 6], [2], 2, k=9, exclude_seen=False) == 1
    assert recall_of([9, 8, -np.inf, 6], [0], 2, k=9) == 0


def test_a_training_that_diverged_is_refused() -> None:
    with pytest.raises(InputError, match=r"diverged.*--collaborative\.learning_rate"):
        recall_of([np.nan] * 4, [0], 2)


@pytest.mark.parametrize("stop_after", [None, 1])
def test_weights_that_diverged_are_refused_without_validation_too(stop_after: int | None, tmp_path: Path) -> None:
    config = replace(SHORT, learning_rate=1e30)
    with pytest.raises(InputError, match=r"diverged.*--aligner\.training\.learning_rate"):
        fit_sequential(
            lambda: SasRec(N_ITEMS, SasRecConfig(width=8)),
            SPLIT,
            config,
            FitContext(tmp_path, stop_after=stop_after),
        )


def test_so_many_cases_are_ranked_after_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranked: list[Cases] = []
    monkeypatch.setattr(
        "genrec.training.sequential.fit.validation_recall",
        lambda score, cases, **options: float(ranked.append(cases) or 0),
    )
    monkeypatch.setattr("test_sequential_training.SHORT", replace(SHORT, valid_cases=7))
    fit_sasrec(tmp_path, lambda row: None)
    assert [len(cases) for cases in ranked] == [7] * SHORT.epochs
    assert len({cases.case_ids for cases in ranked}) == 1


def test_histories_of_one_item_alone_are_refused() -> None:
    with pytest.raises(InputError, match="no training history has two items"):
        training_windows(Sequences.from_lists([[0], [1]]), 10)


def test_what_the_table_adds_is_added(tmp_path: Path) -> None:
    asked: list[tuple[list[int], float]] = []

    class Pulled(IdTable):
        """The added loss pulls item 0 to ones, which nothing else does."""

        def loss(self, rows: Tensor, epoch: float) -> Tensor:
            asked.append((rows.tolist(), epoch))
            return 100 * (self.items.weight[0] - 1).square().sum()

    table, context = Pulled(N_ITEMS, 8), FitContext(tmp_path)
    config = SequentialTrainingConfig(epochs=3, patience=3, batch_positions=64, learning_rate=5e-2)
    model = fit_sequential(
        lambda: SequentialModel(table, BACKBONES["sasrec"].build(SasRecConfig(width=8))), SPLIT, config, context
    )
    assert all(rows == sorted(set(rows)) and min(rows) >= 0 for rows, _ in asked)
    epochs = [epoch for _, epoch in asked]
    assert epochs == sorted(epochs)
    assert epochs[0] == 0
    assert 2 < epochs[-1] < 3
    vectors = model.items().detach()
    assert (vectors[0] > 0.1).all()
    assert vectors[1:].mean().abs() < 0.05


def simple_inputs() -> AlignerInputs:
    rng = np.random.default_rng(0)
    counts = np.array([3, 2, 1, 1, 0], dtype=np.int64)
    return AlignerInputs(
        rng.normal(size=(5, 7)).astype(np.float32),
        np.zeros((5, 4), dtype=np.float32),
        counts,
        user_item_matrix(Sequences.from_lists([[0, 1, 2], [0, 1], [0, 3]]), 5),
    )


@pytest.mark.parametrize(
    "table",
    [
        lambda: TextTable(simple_inputs(), 6, TextTableConfig(hidden=3)),
        lambda: TextTable(simple_inputs(), 6, TextTableConfig(hidden=0)),
        lambda: ConcatenationTable(simple_inputs(), 6, ConcatenationConfig(hidden=3)),
    ],
)
def test_an_item_that_nobody_took_has_the_vector_of_its_words(table: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    model, text = table().eval(), torch.from_numpy(simple_inputs().text)
    assert model().shape == (5, 6)
    torch.testing.assert_close(model()[4:], model.from_text(text[4:]))
    with pytest.raises(InputError, match="of width 6, fitted on width 7"):
        model.from_text(text[:, :6])


def test_the_simple_tables_are_their_equations() -> None:
    torch.manual_seed(0)
    inputs = simple_inputs()
    table = ConcatenationTable(inputs, 6, ConcatenationConfig(hidden=3)).eval().double()
    text = torch.from_numpy(inputs.text).double()
    scaled = (text - text.mean(dim=0)) / (text - text.mean(dim=0)).square().mean().sqrt()
    first, _, _, last = table.adapter.layers
    said = torch.nn.functional.gelu(scaled @ first.weight.T + first.bias) @ last.weight.T + last.bias
    own = table.items.weight * torch.tensor([1, 1, 1, 1, 0])[:, None]
    expected = torch.cat([own, said], dim=1) @ table.join.weight.T + table.join.bias
    torch.testing.assert_close(table(), expected, atol=1e-6, rtol=1e-5)
    assert said.std().item() == pytest.approx(0.02, rel=0.05)  # the size of a plain model's vectors


def test_cold_items_take_no_part_in_the_softmax(tmp_path: Path) -> None:
    few = Sequences((SPLIT.train.values % 4).astype(np.int32), SPLIT.train.offsets)
    split = Split(few, SPLIT.train_user_ids, SPLIT.valid, SPLIT.test, "given")
    text = np.zeros((N_ITEMS, 7), dtype=np.float32)
    start = IdTable(N_ITEMS, 8)

    def make() -> SasRec:
        model = SasRec(N_ITEMS, SasRecConfig(width=8))
        model.items.load_state_dict(start.state_dict())
        return model

    model = fit_sequential(make, split, SHORT, FitContext(tmp_path), text=text)
    moved = (model.item_vectors != start.items.weight).any(dim=1)
    assert moved.tolist() == [True] * 4 + [False] * (N_ITEMS - 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": -1}, "hidden -1"),
        ({"dropout": 1.0}, r"dropout 1.0"),
    ],
)
def test_bad_options_name_the_field(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        TextTableConfig(**settings)
    with pytest.raises(InputError, match=f"^{message}"):
        ConcatenationConfig(**settings)
    with pytest.raises(InputError, match="--negatives 0"):
        fit_sasrec(Path(), lambda row: None, negatives=0)
