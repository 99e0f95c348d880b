"""The training loop on one small layer: batches, schedule, checkpoints, the choice of the epoch, resume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec.semtok.errors import InputError
from genrec.semtok.folders import read_json
from genrec.training.loop.batching import batches_by_length, windows
from genrec.training.loop.checkpoint import load_checkpoint, remove_work, save_checkpoint, whole_state
from genrec.training.loop.epochs import FitContext, Objective, Passes, Plan, Row, Steps, fit_epochs
from genrec.training.loop.schedule import Warmup, adamw, learning_rate_factor, set_learning_rates
from genrec.training.loop.weights import OneProcess


class Rising(Objective):
    """Weights that rise with every step; the validation says how far, and that it only gets worse."""

    def __init__(self, model: torch.nn.Linear, steps: Steps | None = None) -> None:
        self.model, self.steps = model, steps
        self.modes: list[bool] = []
        self.seen: list[tuple[float, float]] = []

    def batches(self, epoch: int, rng: np.random.Generator) -> Sequence[int]:
        self.model.train()
        return range(2) if self.steps is None else self.steps.numbers(epoch)

    def loss(self, batch: int, moment: float) -> tuple[torch.Tensor | None, Mapping[str, torch.Tensor | float]]:
        self.modes.append(self.model.training)
        self.seen.append((batch, moment))
        loss = -(self.model.weight * torch.rand(2, 2)).sum()
        return (None if batch == 7 else loss), {"loss": loss, "batches": 1}

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        return dict(sums)

    def validate(self, rows: Sequence[Row]) -> Mapping[str, Any]:
        self.modes.append(self.model.training)
        return {"up": 1 + self.model.weight.sum().item(), "down": -len(rows), "confirmed": None if rows else 0.0}


def plan(**changed: Any) -> Plan:
    return Plan(**{"stage": "some", "length": Passes(5), "seed": 0, "diverged": "lower it", "patience": 2, **changed})


def fit(objective: Objective, model: torch.nn.Linear, how: Plan, context: FitContext, rate: float = 0.1) -> int:
    return fit_epochs(objective, OneProcess(model, adamw((model.parameters(), rate))), how, context)


def linear() -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(2, 2)


@given(st.integers(0, 80), st.integers(1, 17))
def test_windows_make_every_item_a_target_once(length: int, size: int) -> None:
    targets = []
    for start, first_target, end in windows(length, size):
        assert 0 <= start <= first_target < end
        assert end - start <= size
        assert start == 0 or first_target - start >= size // 4
        targets += range(first_target, end)
    assert targets == list(range(length))


@given(st.lists(st.integers(1, 30), max_size=60), st.integers(1, 64), st.integers(0, 5))
def test_batches_hold_everything_once_within_the_budget(lengths: list[int], budget: int, seed: int) -> None:
    sizes = np.array(lengths, dtype=np.int64)
    groups = batches_by_length(sizes, budget, np.random.default_rng(seed))
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    assert all(len(group) == 1 or sizes[group].max() * len(group) <= budget for group in groups)


def test_schedule_rises_then_falls_to_a_tenth() -> None:
    factors = [learning_rate_factor(step, 100, 10) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[9] == 1.0
    assert factors[-1] == pytest.approx(0.1, abs=0.01)


def test_each_group_has_its_peak_and_its_beginning() -> None:
    groups: list[dict[str, Any]] = [{"peak": 2.0}, {"peak": 1.0, "begins": 10}]
    rates = []
    for step in range(100):
        set_learning_rates(groups, step, 100, Warmup(one_in=10, longest=5))
        rates.append([group["lr"] for group in groups])
    assert [two for _, two in rates[:10]] == [0] * 10
    assert max(one for one, _ in rates) == rates[4][0] == 2.0
    assert max(two for _, two in rates) == rates[14][1] == 1.0
    assert Warmup(20, 200).steps(100) == 6


def test_a_group_that_has_not_begun_does_not_step(tmp_path: Path) -> None:
    model = linear()
    optimizer = adamw(([model.weight], 0.1), ([model.bias], 0.1), weight_decay=0.5)
    optimizer.param_groups[0]["begins"] = 10
    before = model.weight.detach().clone()
    fit_epochs(Rising(model), OneProcess(model, optimizer), plan(), FitContext(tmp_path))
    assert torch.equal(model.weight, before)
    assert model.weight not in optimizer.state


def test_checkpoint_brings_weights_optimiser_and_progress_back(tmp_path: Path) -> None:
    def trained(steps: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        for step in range(steps):
            torch.manual_seed(step)
            optimizer.zero_grad()
            model(torch.randn(4, 3)).square().sum().backward()
            optimizer.step()

    def fresh() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(7)
        model = torch.nn.Linear(3, 2)
        return model, torch.optim.AdamW(model.parameters(), lr=0.1)

    model, optimizer = fresh()
    assert load_checkpoint(tmp_path, model, optimizer) is None
    trained(3, model, optimizer)
    save_checkpoint(tmp_path, model, whole_state(optimizer), {"epoch": 3})
    again, again_optimizer = fresh()
    assert load_checkpoint(tmp_path, again, again_optimizer) == {"epoch": 3}
    trained(5, model, optimizer)
    trained(5, again, again_optimizer)
    assert torch.equal(model.weight, again.weight)


def test_an_epoch_trains_in_its_mode_and_is_validated_in_the_other(tmp_path: Path) -> None:
    objective, rows, told = Rising(linear()), [], []
    context = FitContext(tmp_path, rows.append, lambda done, total: told.append((done, total)))
    assert fit(objective, objective.model, plan(length=Passes(3), selection="up"), context) == 3
    assert objective.modes == [True, True, False] * 3
    assert objective.seen == [(0, 0), (1, 0.5), (0, 1), (1, 1.5), (0, 2), (1, 2.5)]
    assert told == [(step, 6) for step in range(1, 7)]
    assert [(row["stage"], row["epoch"], row["batches"], row["down"]) for row in rows] == [
        ("some", epoch, 2, -epoch) for epoch in range(3)
    ]
    assert all(row["seconds"] > 0 for row in rows)
    without_times = [{name: value for name, value in row.items() if "seconds" not in name} for row in rows]
    assert read_json(tmp_path / "training.json") == without_times


def test_steps_are_cut_into_stretches_and_one_without_a_loss_is_no_step(tmp_path: Path) -> None:
    length, rows = Steps(8, 3), []
    objective = Rising(linear(), length)
    optimizer = adamw((objective.model.parameters(), 0.1))
    how, weights = plan(length=length, from_start=True), OneProcess(objective.model, optimizer)
    fit_epochs(objective, weights, how, FitContext(tmp_path, rows.append))
    assert [row["step"] for row in rows] == [0, 3, 6, 8]
    assert [batch for batch, _ in objective.seen] == list(range(8))
    assert "loss" not in rows[0]
    assert [row["batches"] for row in rows[1:]] == [3, 3, 2]
    assert optimizer.state[objective.model.weight]["step"] == 7


@pytest.mark.parametrize(
    ("changed", "stop_after", "trained", "kept"),
    [
        ({"selection": "up"}, None, 5, 5),
        ({"selection": "down"}, None, 3, 1),
        ({"selection": "down", "from_start": True}, None, 2, 0),
        ({"selection": "confirmed", "from_start": True}, None, 2, 0),
        ({"selection": None}, None, 5, 5),
        ({"selection": "down"}, 4, 4, 4),
    ],
)
def test_patience_and_the_choice_of_the_epoch(
    changed: dict[str, Any], stop_after: int | None, trained: int, kept: int, tmp_path: Path
) -> None:
    objective = Rising(linear())
    weights = [objective.model.weight.detach().clone()]

    def log(row: Row) -> None:
        if "loss" in row:
            weights.append(objective.model.weight.detach().clone())

    assert fit(objective, objective.model, plan(**changed), FitContext(tmp_path, log, stop_after=stop_after)) == kept
    assert len(weights) == 1 + trained
    assert torch.equal(objective.model.weight, weights[kept])
    assert not objective.model.training


def test_an_interrupted_fit_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    def run(folder: Path, until: int | None = None) -> torch.Tensor:
        folder.mkdir(exist_ok=True)

        def log(row: Row) -> None:
            if row["epoch"] == until:
                raise KeyboardInterrupt

        objective = Rising(linear())
        fit(objective, objective.model, plan(selection="up"), FitContext(folder, log))
        return objective.model.weight

    whole = run(tmp_path / "whole")
    for until in (0, 3):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "broken", until)
    assert torch.equal(run(tmp_path / "broken"), whole)
    for name in ("training.json", "checkpoint.safetensors", "best-5.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes(), name
    assert len(list((tmp_path / "whole").glob("best-*"))) == 1


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    objective = Rising(linear())
    with pytest.raises(InputError, match="lower it"):
        fit(objective, objective.model, plan(), FitContext(tmp_path, stop_after=1), rate=float("inf"))
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_a_checkpoint_of_another_version_is_named(tmp_path: Path) -> None:
    model = linear()
    save_checkpoint(tmp_path, model, whole_state(adamw((model.parameters(), 0.1))), {"epoch": 3})
    with pytest.raises(InputError, match=f"{tmp_path}: .*another version"):
        fit(Rising(model), model, plan(), FitContext(tmp_path))


def test_a_kill_inside_the_removal_of_checkpoints_leaves_a_fit_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fitted() -> torch.Tensor:
        model = linear()
        fit(Rising(model), model, plan(selection="up"), FitContext(tmp_path))
        return model.weight.detach()

    def killed(folder: Path) -> None:
        next(folder.glob("best-*")).unlink()
        raise KeyboardInterrupt

    whole = fitted()
    with monkeypatch.context() as patch:
        patch.setattr("genrec.training.loop.checkpoint.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            remove_work(tmp_path)
    assert torch.equal(fitted(), whole)
    remove_work(tmp_path)
    assert not tmp_path.exists()
