"""LightGCN against dense matrix powers, its scoring of histories, and a world of two crowds."""

from __future__ import annotations

import importlib
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from genrec.data.cases import Cases, Split
from genrec.data.sequences import Sequences
from genrec.semtok.aligners.graphs import bipartite
from genrec.training.loop.epochs import FitContext
from genrec.training.sequential.config import SequentialTrainingConfig

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
lightgcn = importlib.import_module("lightgcn")

TAKEN = np.array([[1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 1, 1, 0]], dtype=np.float32)  # nobody took item 4


def small(layers: int = 3) -> Any:
    torch.manual_seed(0)
    return lightgcn.LightGcn(csr_array(TAKEN), width=4, layers=layers).eval()


def dense_propagation(model: Any) -> list[np.ndarray]:
    """Layers 0..L of users and items together, by powers of the normalised adjacency matrix (equations 3, 8)."""
    adjacency = np.block([[np.zeros((3, 3)), TAKEN], [TAKEN.T, np.zeros((5, 5))]])
    degrees = adjacency.sum(axis=1)
    root = np.divide(1, np.sqrt(degrees), out=np.zeros(8), where=degrees > 0)
    spread = root[:, None] * adjacency * root[None, :]
    start = np.vstack([model.users.weight.detach().numpy(), model.items().detach().numpy()]).astype(np.float64)
    return [np.linalg.matrix_power(spread, layer) @ start for layer in range(model.layers + 1)]


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_propagation_is_the_mean_of_matrix_powers(layers: int) -> None:
    model = small(layers)
    mean = np.mean(dense_propagation(model), axis=0)
    users, items, _ = model.propagated()
    np.testing.assert_allclose(users.detach().numpy(), mean[:3], atol=1e-6)
    np.testing.assert_allclose(items.detach().numpy(), mean[3:], atol=1e-6)


def test_gradients_are_those_of_the_dense_computation() -> None:
    model = small()
    weight = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    (torch.cat(model.propagated()[:2]) * weight).sum().backward()
    spread = torch.zeros(8, 8)
    spread[:3, 3:] = torch.from_numpy(bipartite(csr_array(TAKEN)).toarray())
    spread = spread + spread.T
    start = torch.cat([model.users.weight, model.items.items.weight]).detach().requires_grad_()
    mean = sum(torch.matrix_power(spread, layer) @ start for layer in range(4)) / 4
    (mean * weight).sum().backward()
    assert start.grad is not None
    torch.testing.assert_close(model.users.weight.grad, start.grad[:3])
    torch.testing.assert_close(model.items.items.weight.grad, start.grad[3:])


def test_a_history_scores_as_a_user_without_a_vector_of_its_own() -> None:
    model = small()
    items = [layer[3:] for layer in dense_propagation(model)]
    degrees = np.maximum(TAKEN.sum(axis=0), 1)
    history = [0, 2, 2]  # what was taken twice counts once
    user = sum(layer[i] / np.sqrt(2 * degrees[i]) for layer in items[:3] for i in (0, 2)) / 4
    expected = np.mean(items, axis=0) @ user
    scores = model.scorer()(Sequences.from_lists([history, []]))
    np.testing.assert_allclose(scores[0, :4], expected[:4], rtol=1e-4)
    assert (scores[1, :4] == 0).all()
    assert np.isneginf(scores[:, 4]).all()  # nobody took it
    assert scores.dtype == np.float32


def test_two_crowds_are_told_apart(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sides = rng.integers(0, 2, 120)
    histories = Sequences.from_lists([side * 10 + rng.choice(10, size=5, replace=False) for side in sides])
    train, asked = histories.take(np.arange(80)), histories.take(np.arange(80, 120))
    ids = tuple(str(case) for case in range(40))
    targets = np.array([h[-1] for h in asked], dtype=np.int32)
    given = Sequences.from_lists([h[:-1] for h in asked])
    cases = Cases(ids, ids, given, targets, None, np.zeros(40, dtype=np.bool_))
    split = Split(train, tuple(str(user) for user in range(80)), cases, cases, "given")
    config = SequentialTrainingConfig(epochs=15, patience=15, batch_positions=200, learning_rate=1e-2)
    made = lightgcn.fit(
        partial(lightgcn.LightGcn, width=8, layers=3), split, 20, config, FitContext(tmp_path), exclude_seen=True
    )
    best = np.argsort(-made.scorer()(given), axis=1)[:, :10]
    assert ((best // 10) == sides[80:, None]).mean() > 0.95


def test_the_script_prints_a_line_a_seed(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["lightgcn", str(tiny_run), "--seeds", "0", "1", "--epochs", "1"])
    lightgcn.main()
    told = capsys.readouterr().out
    assert "LightGCN, seed 0" in told
    assert "LightGCN, seed 1" in told
