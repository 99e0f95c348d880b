"""RecGOAT against its equations in dense float64 matrices, and what each graph, loss and transport does."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn import functional as F

from genrec.semtok.aligners.base import AlignerInputs
from genrec.semtok.aligners.config import RecGoatConfig
from genrec.semtok.aligners.graph_attention import Edges, GraphAttention
from genrec.semtok.aligners.losses import symmetric_contrast
from genrec.semtok.aligners.recgoat import RecGoatTable
from genrec.semtok.errors import InputError

N, U, WIDTH = 24, 30, 8
SMALL = RecGoatConfig(item_neighbours=3, user_neighbours=3, heads=2, dropout=0.0, drawn_items=0.0)


def world(seed: int = 0, *, cold: int = 2) -> AlignerInputs:
    """Items and users of three tastes; the last `cold` items were never taken."""
    rng = np.random.default_rng(seed)
    tastes = rng.standard_normal((3, 12))
    text = tastes[np.arange(N) % 3] + 0.5 * rng.standard_normal((N, 12))
    users = tastes[np.arange(U) % 3] + 0.5 * rng.standard_normal((U, 12))
    taken = (rng.random((U, N)) < np.where(np.arange(U)[:, None] % 3 == np.arange(N) % 3, 0.5, 0.05)).astype(float)
    taken[np.arange(N), np.arange(N)] = 1
    taken[:, N - cold :] = 0
    collaborative = tastes[np.arange(N) % 3][:, :WIDTH] + 0.3 * rng.standard_normal((N, WIDTH))
    return AlignerInputs(
        text.astype(np.float32),
        collaborative.astype(np.float32),
        taken.sum(axis=0).astype(np.int64),
        csr_array(taken),
        users.astype(np.float32),
    )


def table(config: RecGoatConfig = SMALL, inputs: AlignerInputs | None = None) -> RecGoatTable:
    torch.manual_seed(0)
    return RecGoatTable(inputs or world(), WIDTH, config)


def noise() -> Any:
    """Collaborative vectors that say nothing."""
    return np.random.default_rng(5).standard_normal((N, WIDTH)).astype(np.float32)


def dense_attention(layer: GraphAttention, edges: Edges, x: Tensor) -> Tensor:
    mask = torch.zeros(edges.shape, dtype=torch.bool)
    mask[edges.target, edges.source] = True
    heads = []
    for head, weight in enumerate(layer.linear.weight.view(layer.heads, -1, x.shape[1])):
        h = x @ weight.T
        scores = F.leaky_relu((h @ layer.to_target[head])[:, None] + h @ layer.to_source[head], 0.2)
        heads.append(scores.masked_fill(~mask, -math.inf).softmax(dim=1) @ h)
    return torch.cat(heads, dim=1) + layer.bias


def standardised(text: np.ndarray) -> Tensor:
    centred = text.astype(np.float64) - text.astype(np.float64).mean(axis=0)
    return torch.from_numpy(centred / np.sqrt((centred**2).mean()))


def test_the_vectors_are_the_published_equations() -> None:
    inputs, layers = world(), 3
    model = table(replace(SMALL, layers=layers)).double().eval()
    torch.nn.init.normal_(model.map.residual)
    model.map.plan.copy_(torch.rand(WIDTH, WIDTH))
    words = dense_attention(model.item_attention, model.item_edges, model.text_in(standardised(inputs.text)))
    users = model.users.start(standardised(inputs.user_text))
    users = dense_attention(model.users.attention, model.users.edges, users)
    taken = inputs.user_item.toarray()
    adjacency = np.block([[np.zeros((U, U)), taken], [taken.T, np.zeros((N, N))]])
    root = np.divide(1, np.sqrt(adjacency.sum(1)), out=np.zeros(U + N), where=adjacency.sum(1) > 0)
    spread = torch.from_numpy(root[:, None] * adjacency * root)
    known = torch.from_numpy(inputs.counts > 0)[:, None]
    layer = torch.cat([users, model.items.weight * known])
    total = layer
    for _ in range(layers):
        layer = spread @ layer
        total = total + layer
    behaviour = (total / (layers + 1))[U:]
    moved = words @ (model.map.plan + model.map.residual)
    mixed = model.share * moved + (1 - model.share) * behaviour * known
    torch.testing.assert_close(model(), model.norm(mixed), atol=1e-6, rtol=1e-5)


def test_the_loss_is_the_contrast() -> None:
    model = table(replace(SMALL, contrast=0.7)).eval()
    rows = torch.tensor([1, 3, 4, 7, 9, N - 1])  # the last one is cold and has no part
    words, behaviour = model._modalities()
    words, behaviour = words[rows[:-1]], behaviour[rows[:-1]]
    expected = 0.7 * symmetric_contrast(words, behaviour, rows[:-1], 0.2)
    torch.testing.assert_close(model.loss(rows, 0.0), expected, rtol=1e-4, atol=1e-5)
    assert float(model.loss(rows[-1:], 0.0)) == 0


def test_the_table_passes_gradcheck() -> None:
    model = table().double().eval()
    torch.nn.init.normal_(model.map.residual, std=0.1)
    rows = torch.arange(0, N, 3)
    names = ["share", "text_in.bias", "item_attention.to_source", "users.attention.to_target", "norm.weight"]
    direction = torch.randn(N, WIDTH, dtype=torch.double)

    class Objective(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = model

        def forward(self) -> Tensor:
            return (self.table() * direction).sum() + self.table.loss(rows, 0.0)

    objective = Objective()

    def value(*parameters: Tensor) -> Tensor:
        chosen = {f"table.{name}": parameter for name, parameter in zip(names, parameters, strict=True)}
        result: Tensor = torch.func.functional_call(objective, chosen, ())
        return result

    own = dict(model.named_parameters())
    assert torch.autograd.gradcheck(value, [own[name].detach().clone().requires_grad_() for name in names], atol=1e-5)


def test_the_contrast_pulls_the_sides_of_an_item_together() -> None:
    """The released code minimises 1 - InfoNCE: there this retrieval falls."""
    model = table(replace(SMALL, contrast=1.0), replace(world(), collaborative=noise()))
    rows = torch.arange(N - 2)

    def found() -> float:
        model.eval()
        words, behaviour = (F.normalize(side[rows], dim=-1) for side in model._modalities())
        model.train()
        return float(((words @ behaviour.T).argmax(dim=1) == rows).float().mean())

    before = found()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        model.loss(rows, 0.0).backward()
        optimizer.step()
    assert before < 0.3
    assert found() > 0.9


@pytest.mark.parametrize("edges", ["item_edges", "user_item_edges", "users.edges"])
def test_every_graph_tells_something(edges: str) -> None:
    model, other = table().eval(), table().eval()
    of_model, of_other = model.get_submodule(edges), other.get_submodule(edges)
    graph = csr_array((of_model.weights, of_model.source, of_model.starts), shape=of_model.shape)
    moved = graph[:, np.random.default_rng(0).permutation(graph.shape[1])]  # the same weights over the wrong nodes
    for name, value in Edges(csr_array(moved)).named_buffers():
        of_other.register_buffer(name, value, persistent=False)
    assert float((model() - other()).detach().abs().mean()) > 0.01


def test_a_cold_item_has_its_words_alone() -> None:
    model = table()
    model().sum().backward()  # training finds a plan
    model.eval()
    before = model()
    with torch.no_grad():
        model.items.weight[-2:] = 9.0
    torch.testing.assert_close(model(), before)


@pytest.mark.parametrize("borrowed_from", [0, 4])
def test_a_new_item_hears_itself_and_the_nearest_words(borrowed_from: int) -> None:
    inputs = world()
    model = table(replace(SMALL, cold_neighbours=borrowed_from), inputs)
    model().sum().backward()
    model.double().eval()
    behaviour, known = model._modalities().collaborative, torch.from_numpy(inputs.counts > 0)
    text = torch.from_numpy(0.9 * inputs.text[:2] + 0.1)
    x = model.text_in((torch.cat([model.text, text.double()]) - model.text_mean) / model.text_scale)
    cosines = F.normalize(text, dim=-1) @ F.normalize(torch.from_numpy(inputs.text), dim=-1).T
    for row, new in enumerate(model.from_text(text.double())):
        source = [*cosines[row].argsort(descending=True)[:3].tolist(), N + row]
        one = Edges(csr_array((np.ones(4), (np.full(4, N + row), source)), shape=(N + 2, N + 2)))
        words = dense_attention(model.item_attention, one, x)[N + row]
        moved = words @ (model.map.plan + model.map.residual)
        nearest = cosines[row].masked_fill(~known, -1).argsort(descending=True)[:borrowed_from]
        borrowed = behaviour[nearest].mean(dim=0) if borrowed_from else torch.zeros(WIDTH, dtype=torch.double)
        torch.testing.assert_close(new, model.norm(model.share * moved + (1 - model.share) * borrowed))
    assert model.from_text(text[:0].double()).shape == (0, WIDTH)
    with pytest.raises(InputError, match="width 5, fitted on width 12"):
        model.from_text(torch.zeros(1, 5))


def test_forward_and_loss_of_a_step_share_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model = table(replace(SMALL, dropout=0.2))
    passes = []
    plain = RecGoatTable._propagated
    monkeypatch.setattr(RecGoatTable, "_propagated", lambda self: passes.append(1) or plain(self))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    rows = torch.arange(8)
    for step in range(3):
        (model().square().sum() + model.loss(rows, 0.0)).backward()
        if step:  # the first gradient is added to the second: the pass is gone all the same
            optimizer.step()
            optimizer.zero_grad()
    assert len(passes) == 3
    model()
    with torch.no_grad():
        model.share += 0.1  # a weight changes before the gradient was ever taken
    model()
    assert len(passes) == 5
    copy.deepcopy(model.eval())  # which a pass with its gradient would not allow
    model()
    model()
    assert len(passes) == 7  # evaluation keeps nothing


def test_a_shared_pass_has_the_gradients_of_two() -> None:
    rows = torch.arange(8)
    shared = table()
    (shared().square().sum() + shared.loss(rows, 0.0)).backward()
    apart = table()
    apart().square().sum().backward()
    apart.loss(rows, 0.0).backward()
    for (name, a), (_, b) in zip(shared.named_parameters(), apart.named_parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, msg=name)


def test_the_plan_is_found_in_training_and_kept_with_the_weights() -> None:
    inputs = replace(world(), collaborative=noise())
    model = table(SMALL, inputs)
    assert torch.equal(model.map.plan, torch.eye(WIDTH))
    model()
    plan = model.map.plan.clone()
    assert not torch.equal(plan, torch.eye(WIDTH))
    torch.testing.assert_close(plan.sum(dim=0), torch.ones(WIDTH))
    again = table(SMALL, inputs)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(), model.eval()())
    assert torch.equal(model.map.plan, plan)


def test_behaviour_starts_from_the_collaborative_vectors() -> None:
    inputs = world()
    items = table().items.weight.detach()
    known = inputs.counts > 0
    ours, theirs = (
        items[torch.from_numpy(known)],
        inputs.collaborative[known] - inputs.collaborative[known].mean(axis=0),
    )
    gram = theirs @ theirs.T
    ratio = 0.1 / np.sqrt((theirs**2).mean())  # a rotation, scaled
    np.testing.assert_allclose((ours @ ours.T).numpy(), gram * ratio**2, atol=1e-4)
    wide = AlignerInputs(inputs.text, inputs.collaborative[:, :3], inputs.counts, inputs.user_item, inputs.user_text)
    assert table(SMALL, wide).items.weight[0, 3:].abs().max() == 0
    assert table(SMALL, replace(inputs, counts=np.zeros(N, dtype=np.int64)))().isfinite().all()


def test_users_without_words() -> None:
    inputs = replace(world(), user_text=None)
    with pytest.raises(InputError, match=r"recgoat: no vectors of the users' preference texts"):
        table(SMALL, inputs)


def test_heads_divide_the_width() -> None:
    RecGoatConfig(heads=4).check_width(16)
    with pytest.raises(InputError, match="heads 3 does not divide the backbone's width 16"):
        RecGoatConfig(heads=3).check_width(16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 0}, "layers 0 must be at least 1"),
        ({"item_neighbours": 0}, "item_neighbours 0"),
        ({"temperature": 0.0}, "temperature 0.0 must be positive and finite"),
        ({"contrast": -1.0}, "contrast -1.0 must not be negative, and must be finite"),
        ({"epsilon": math.nan}, "epsilon nan"),
        ({"drawn_items": math.inf}, "drawn_items inf"),
        ({"dropout": 1.0}, r"dropout 1.0 is not in \[0, 1\)"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RecGoatConfig(**options)
