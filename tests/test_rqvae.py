"""RQ-VAE: losses against their equations, fitting a small world, files."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from genrec.semtok.errors import InputError
from genrec.semtok.quantizers import load_quantizer
from genrec.semtok.quantizers.config import RqVaeConfig
from genrec.semtok.quantizers.rqvae import RqVae
from genrec.training.quantizer.fit import _revive, fit_quantizer, fit_rqvae

SIZES = (4, 4)
SMALL = RqVaeConfig(latent_width=8, hidden_widths=(32,), warmup_steps=100, steps=200, batch_size=64, revive_every=20)


def world() -> np.ndarray:
    """16 clusters in 12 dimensions: 4 coarse directions, each with the same 4 fine ones."""
    rng = np.random.default_rng(0)
    centres = (4 * rng.normal(size=(4, 1, 12)) + rng.normal(size=(1, 4, 12))).reshape(16, 12)
    return (centres[np.arange(320) % 16] + 0.05 * rng.normal(size=(320, 12))).astype(np.float32)


def relative_error(model: RqVae, vectors: np.ndarray) -> float:
    decoded = model.decode(model.encode(vectors))
    return float(np.square(vectors - decoded).sum() / np.square(vectors - vectors.mean(axis=0)).sum())


def test_a_small_world_is_learned() -> None:
    vectors = world()
    model = fit_rqvae(vectors, SIZES, SMALL, seed=0)
    assert relative_error(model, vectors) < 0.1
    assert len(np.unique(model.encode(vectors)[:, 0])) == 4


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_one_alone() -> None:
    vectors = world()
    state = torch.random.get_rng_state()
    first, second = fit_rqvae(vectors, SIZES, SMALL, seed=1), fit_rqvae(vectors, SIZES, SMALL, seed=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name
    other = fit_rqvae(vectors, SIZES, SMALL, seed=2)
    assert not torch.equal(other.books[0], first.books[0])


def test_the_gradient_goes_straight_through_and_the_value_is_the_codes_sum() -> None:
    vectors = torch.from_numpy(world()[:8])
    torch.manual_seed(0)
    model = RqVae(12, SIZES, SMALL).train()
    for book in model.books:
        torch.nn.init.normal_(book)
    output = model(vectors)
    expected = sum(book[output.codes[:, level]] for level, book in enumerate(model.books))
    torch.testing.assert_close(output.quantised, expected)
    upstream = torch.randn(output.quantised.shape)
    through = torch.autograd.grad(output.quantised, model.encoder[-1].weight, upstream, retain_graph=True)
    latents = model.encoder(model.standardise(vectors))
    torch.testing.assert_close(through, torch.autograd.grad(latents, model.encoder[-1].weight, upstream))


def test_loss_terms_follow_their_equations_and_reach_the_right_weights() -> None:
    vectors = torch.from_numpy(world()[:32])
    torch.manual_seed(0)
    model = RqVae(12, SIZES, SMALL).train()
    for book in model.books:
        torch.nn.init.normal_(book)
    model.set_scale(vectors)
    output = model(vectors)
    books = [book.detach() for book in model.books]
    rest = model.encoder(model.standardise(vectors)).detach()
    expected = 0.0
    for level, book in enumerate(books):
        distances = ((rest[:, None] - book) ** 2).sum(dim=-1)
        assert torch.equal(output.codes[:, level], distances.argmin(dim=1))
        torch.testing.assert_close(output.residuals[level], rest)
        expected += distances.min(dim=1).values.mean().item() / 8
        rest = rest - book[output.codes[:, level]]
    assert output.codebook.item() == pytest.approx(expected, rel=1e-5)
    assert output.commitment.item() == pytest.approx(expected, rel=1e-5)
    total = output.reconstruction + output.codebook + 0.25 * output.commitment
    torch.testing.assert_close(output.loss(0.25), total)
    output.codebook.backward(retain_graph=True)
    assert all(parameter.grad is None for parameter in model.encoder.parameters())
    model.zero_grad()
    output.commitment.backward(retain_graph=True)
    assert all(book.grad is None or not book.grad.any() for book in model.books)
    output.reconstruction.backward()
    assert all(book.grad is None or not book.grad.any() for book in model.books)
    assert all(parameter.grad is not None for parameter in model.encoder.parameters())


def test_dead_codes_are_moved_onto_residuals_and_forget_their_momentum() -> None:
    vectors = torch.from_numpy(world())
    model = RqVae(12, SIZES, SMALL).train()
    model.set_scale(vectors)
    with torch.no_grad():
        model.books[0].fill_(1e3)
        model.books[0][0] = 0  # everything takes code 0
    optimizer = torch.optim.AdamW(model.parameters())
    output = model(vectors)
    output.loss(0.25).backward()
    optimizer.step()
    optimizer.state[model.books[0]]["exp_avg"].fill_(1.0)
    used = [torch.zeros(4, dtype=torch.bool) for _ in range(2)]
    used[0][0] = True
    used[1][:] = True
    _revive(model, used, output, optimizer, torch.Generator().manual_seed(0))
    residuals = output.residuals[0]
    for code in (1, 2, 3):
        assert (residuals == model.books[0][code]).all(dim=1).any()
    assert optimizer.state[model.books[0]]["exp_avg"][1:].eq(0).all()
    assert optimizer.state[model.books[0]]["exp_avg"][0].eq(1).all()
    assert not used[0].any()
    assert not used[1].any()


def test_a_saved_rqvae_is_found_by_its_name(tmp_path: Path) -> None:
    vectors = world()
    model = fit_quantizer("rqvae", vectors, SIZES, SMALL)
    model.save(tmp_path)
    loaded = load_quantizer(tmp_path)
    assert isinstance(loaded, RqVae)
    assert loaded.config == SMALL
    np.testing.assert_array_equal(loaded.encode(vectors), model.encode(vectors))
    np.testing.assert_array_equal(loaded.decode(loaded.encode(vectors)), model.decode(model.encode(vectors)))
    with pytest.raises(InputError, match="width 3, fitted on width 12"):
        loaded.encode(np.zeros((1, 3), dtype=np.float32))
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"width": 12', '"width": 13'))
    with pytest.raises(InputError, match="not a saved rqvae"):
        load_quantizer(tmp_path)
    (tmp_path / "config.json").write_text(text.replace('"steps"', '"stairs"'))
    with pytest.raises(InputError, match="not a saved rqvae"):
        load_quantizer(tmp_path)


@pytest.mark.parametrize("warmup_steps", [0, 20])
def test_a_fit_that_diverged_is_refused(warmup_steps: int) -> None:
    config = replace(SMALL, learning_rate=1e30, warmup_steps=warmup_steps, steps=20)
    with pytest.raises(InputError, match=r"diverged: lower --semtok\.rqvae\.learning_rate"):
        fit_quantizer("rqvae", world(), SIZES, config)


def test_sizes_follow_the_catalogue_where_none_are_given() -> None:
    config = RqVaeConfig(**{**vars(SMALL), "warmup_steps": 1, "steps": 1})
    assert fit_quantizer("rqvae", world()[:5], (), config).sizes == (16, 16, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_widths": (8, 0)}, r"hidden_widths \[8, 0\] must be at least 1 each"),
        ({"latent_width": 0}, r"^latent_width"),
        ({"steps": 0}, r"^steps 0"),
        ({"commitment": -1.0}, r"^commitment -1\.0"),
        ({"collaborative_weight": -0.1}, r"^collaborative_weight -0\.1"),
        ({"diversity_weight": -0.1}, r"^diversity_weight -0\.1"),
        ({"diversity_clusters": 0}, r"^diversity_clusters 0"),
        ({"learning_rate": 0.0}, r"^learning_rate 0\.0"),
        ({"learning_rate": math.nan}, r"^learning_rate nan"),
        ({"commitment": math.inf}, r"^commitment inf"),
    ],
)
def test_a_bad_configuration_names_its_flag(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RqVaeConfig(**options)  # type: ignore[arg-type]
