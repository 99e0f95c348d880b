"""Self-distillation: who teaches whom against brute force, what is pulled where, and fits with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from worlds.ring import N_ITEMS, ring_split

from genrec.data.sequences import Sequences
from genrec.semtok.aligners.base import IdTable
from genrec.semtok.errors import InputError
from genrec.sequential import BACKBONES
from genrec.sequential.base import SequentialModel
from genrec.sequential.config import SasRecConfig
from genrec.sequential.sasrec import SasRec
from genrec.training.loop.epochs import FitContext
from genrec.training.sequential import distillation
from genrec.training.sequential.config import AlignerTrainingConfig, SequentialTrainingConfig
from genrec.training.sequential.distillation import SelfDistillation, teachers
from genrec.training.sequential.fit import fit_sequential, last_asked

TEXT = np.random.default_rng(0).normal(size=(N_ITEMS, 5)).astype(np.float32)
HISTORIES = Sequences.from_lists(
    [[0, 1, 2], [3], [2, 1, 0, 0], [4, 5], [], [6, 7, 8, 9], [5, 4], [10, 0], [2, 11], [1, 1, 1, 2]]
)


def brute_force(histories: Sequences, text: np.ndarray, k: int) -> np.ndarray:
    """Each user's teachers by sorting all others."""
    means = [text[row].mean(axis=0) if len(row) else np.zeros(text.shape[1]) for row in histories]
    shares = np.zeros((len(histories), len(histories)))
    for user, own in enumerate(means):
        cosines = {
            other: float(own @ mean / np.linalg.norm(own) / np.linalg.norm(mean))
            for other, mean in enumerate(means)
            if other != user and min(len(histories[user]), len(histories[other])) > 1
        }
        near = [other for other in sorted(cosines, key=lambda other: -cosines[other])[:k] if cosines[other] > 0]
        shares[user, near] = 1 / max(1, len(near))
    return shares


@pytest.mark.parametrize("k", [1, 3, 20])
def test_teachers_are_the_nearest_others_by_brute_force(k: int) -> None:
    found = teachers(HISTORIES, TEXT, k, 0).toarray()
    np.testing.assert_allclose(found, brute_force(HISTORIES, TEXT, k), atol=1e-6)
    assert not found[[1, 4]].any(), "nothing is asked of users with fewer than two items"
    assert not found[:, [1, 4]].any()
    assert found[3, 6] > 0, "the same items in another order"


def test_many_users_are_compared_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    histories = Sequences.from_lists([rng.integers(0, N_ITEMS, 3) for _ in range(23)])
    monkeypatch.setattr(distillation, "_COMPARED", 8)
    found = teachers(histories, np.abs(TEXT), 30, 0).toarray() > 0  # all cosines are above 0: everybody of the group
    assert set(found.sum(axis=1).tolist()) <= {6, 7}
    group = found | np.eye(23, dtype=bool)
    assert (group == group.T).all()
    assert (group[group[0]] == group[0]).all()
    assert not np.array_equal(found, teachers(histories, np.abs(TEXT), 30, 1).toarray() > 0)


def small_model(seed: int = 0) -> SequentialModel:
    torch.manual_seed(seed)
    return SasRec(N_ITEMS, SasRecConfig(width=8, layers=1))


def test_the_loss_is_its_equation_and_teachers_stay_where_they_are() -> None:
    model, users = small_model(), torch.tensor([2, -1, 1, 0, 9])
    taught = SelfDistillation(HISTORIES, TEXT, weight=0.3, users=2, seed=0)
    states = torch.randn(5, 8, requires_grad=True)
    taught.begin(model, 0)
    assert taught.loss(states, users) == 0, "nobody has learned anything yet"
    taught.begin(model, 1)
    before = model.hidden(Sequences.from_lists([row[:-1] for row in HISTORIES])).clone()
    expected = torch.from_numpy(brute_force(HISTORIES, TEXT, 2)).float() @ before
    known = [0, 3, 4]  # the second is nobody's last window, the third has one item
    loss = taught.loss(states, users)
    torch.testing.assert_close(loss, 0.3 * (states[known] - expected[users[known]]).square().mean())
    loss.backward()
    assert states.grad is not None
    assert states.grad.abs().sum(dim=1).gt(0).tolist() == [True, False, False, True, True]
    assert all(weight.grad is None for weight in model.parameters())
    assert taught.loss(states, torch.tensor([1, -1, 4, 1, -1])) == 0, "nobody here is taught"


def test_last_asked_is_the_last_target_of_each_sequence() -> None:
    states = torch.arange(24.0).reshape(4, 3, 2)
    asked = torch.tensor([[True, True, True], [True, False, False], [False, False, False], [False, True, False]])
    last, users = last_asked(states, asked, torch.tensor([7, 5, 3, -1]))
    assert users.tolist() == [7, 5, -1, -1]
    assert last[[0, 1, 3], 0].tolist() == [4.0, 6.0, 20.0]


SPLIT = ring_split(train=40, asked=20)
CONFIG = AlignerTrainingConfig(epochs=4, patience=4, batch_positions=64, seed=3, learning_rate=1e-2, similar_users=3)


def fitted(folder: Path, backbone: str = "sasrec", **options: float) -> SequentialModel:
    folder.mkdir(exist_ok=True)

    def make() -> SequentialModel:
        entry = BACKBONES[backbone]
        return SequentialModel(IdTable(N_ITEMS, 8), entry.build(entry.config(width=8)))

    return fit_sequential(make, SPLIT, replace(CONFIG, **options), FitContext(folder, stop_after=4), text=TEXT)


def distance(model: SequentialModel) -> float:
    """Of users' states from the mean of their teachers', in units of the states' spread."""
    states: Tensor = model.hidden(Sequences.from_lists([row[:-1] for row in SPLIT.train])).clone()
    means = torch.from_numpy(teachers(SPLIT.train, TEXT, 3, 3).toarray()) @ states
    return float((states - means).square().mean() / states.var())


@pytest.mark.parametrize("backbone", BACKBONES)
def test_users_come_nearer_to_those_like_them(backbone: str, tmp_path: Path) -> None:
    plain, taught = (
        distance(fitted(tmp_path / name, backbone, distillation=weight)) for name, weight in (("a", 0.0), ("b", 3.0))
    )
    assert taught < 0.75 * plain


def test_a_resumed_fit_has_the_teachers_of_an_undisturbed_one(tmp_path: Path) -> None:
    expected = fitted(tmp_path / "a", distillation=1.0).state_dict()
    config, folder = replace(CONFIG, distillation=1.0), tmp_path / "b"
    folder.mkdir()

    def killed(row: object) -> None:
        raise KeyboardInterrupt

    def make() -> SasRec:
        return SequentialModel(IdTable(N_ITEMS, 8), BACKBONES["sasrec"].build(SasRecConfig(width=8)))

    first = FitContext(folder, stop_after=2)
    fit_sequential(make, SPLIT, config, first, text=TEXT)
    with pytest.raises(KeyboardInterrupt):
        fit_sequential(make, SPLIT, config, FitContext(folder, killed, stop_after=4), text=TEXT)
    resumed = fit_sequential(make, SPLIT, config, FitContext(folder, stop_after=4), text=TEXT).state_dict()
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)


def test_what_was_trained_before_the_option_is_known_again() -> None:
    plain = SequentialTrainingConfig(epochs=7).facts()
    assert AlignerTrainingConfig(epochs=7).facts() == AlignerTrainingConfig(epochs=7, similar_users=3).facts() == plain
    told = AlignerTrainingConfig(epochs=7, distillation=0.1).facts()
    assert told == plain | {"distillation": 0.1, "similar_users": 10}


@pytest.mark.parametrize(("option", "value"), [("distillation", -0.1), ("similar_users", 0), ("epochs", -1)])
def test_a_bad_option_names_its_flag(option: str, value: float) -> None:
    with pytest.raises(InputError, match=f"^{option} {value}"):
        replace(AlignerTrainingConfig(), **{option: value})
