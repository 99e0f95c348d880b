"""Fit a quantiser on item vectors: `fit_quantizer("rqvae", vectors, (), RqVaeConfig(), seed=0)`.

Shapes: N items, D input width, L levels, V_l codes on level l.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import trange

from genrec.semtok.device import default_device
from genrec.semtok.errors import InputError
from genrec.semtok.quantizers import QUANTIZERS, Quantizer
from genrec.semtok.quantizers.config import RqVaeConfig
from genrec.semtok.quantizers.residual import Floats, default_sizes
from genrec.semtok.quantizers.residual_kmeans import fit_codebooks
from genrec.semtok.quantizers.rqvae import RqVae, RqVaeOutput
from genrec.training.quantizer.letter import Collaborative, Letter

# Codes must keep up with latents that move as the encoder learns: at the encoder's own rate they fall behind.
_CODE_RATE = 10.0


def fit_quantizer(
    name: str,
    vectors: Floats,
    sizes: tuple[int, ...],
    config: Any,
    seed: int = 0,
    collaborative: Collaborative | None = None,
) -> Quantizer:
    """Fit a quantiser; the same seed gives the same one.

    Args:
        name: of `genrec.semtok.quantizers.QUANTIZERS`.
        vectors: float32 [N, D].
        sizes: codes on each level; empty: by the size of the catalogue (`quantizers.residual.default_sizes`).
        config: its options.
        collaborative: of the same items; needed where the configuration has a collaborative weight.

    Raises:
        InputError: it has one and no such vectors are given, or the fit diverged.
    """
    entry, sizes = QUANTIZERS[name], sizes or default_sizes(len(vectors))
    if entry.fit is not None:
        return entry.fit(vectors, sizes, config, seed)
    return fit_rqvae(vectors, sizes, config, seed, collaborative)


def fit_rqvae(
    vectors: Floats,
    sizes: tuple[int, ...],
    config: RqVaeConfig,
    seed: int = 0,
    collaborative: Collaborative | None = None,
) -> RqVae:
    """Fit an RQ-VAE: the autoencoder alone first, k-means codes on its latents, then everything together."""
    device = default_device()
    letter = Letter(config, len(vectors), collaborative, seed, device)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = RqVae(vectors.shape[1], sizes, config).to(device).train()
    data = torch.from_numpy(vectors).to(device)
    generator = torch.Generator().manual_seed(seed)
    model.set_scale(data)
    _warm_up(model, data, generator)
    latents = model.latents(vectors)
    _refuse_divergence(latents)
    for book, centres in zip(model.books, fit_codebooks(latents, sizes, seed), strict=True):
        book.data.copy_(torch.from_numpy(centres))
    networks = [*model.encoder.parameters(), *model.decoder.parameters()]
    groups: list[dict[str, Any]] = [
        {"params": networks, "lr": config.learning_rate},
        {"params": list(model.books.parameters()), "lr": _CODE_RATE * config.learning_rate},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    used = [torch.zeros(size, dtype=torch.bool, device=device) for size in sizes]
    batches = _endless_batches(data, config.batch_size, generator)
    for step in trange(1, config.steps + 1, desc="fitting the quantiser", unit="step", disable=None):
        rows = next(batches)
        output: RqVaeOutput = model(data[rows])
        loss = output.loss(config.commitment) + letter(model, output, rows, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        for level, seen in enumerate(used):
            seen[output.codes[:, level]] = True
        # Codes that move late have no time to settle: the last fifth of the steps leaves them where they are.
        if config.revive_every and step % config.revive_every == 0 and step <= 0.8 * config.steps:
            _revive(model, used, output, optimizer, generator)
    _refuse_divergence(model.latents(vectors), *model.codebooks)
    return model.eval().cpu()


def _refuse_divergence(*arrays: Floats) -> None:
    """Raise InputError for what is not finite: to NaN every code is as near, and every item would get the first."""
    if not all(np.isfinite(array).all() for array in arrays):
        raise InputError("the fit of the RQ-VAE diverged: lower --semtok.rqvae.learning_rate")


def _warm_up(model: RqVae, data: Tensor, generator: torch.Generator) -> None:
    """Steps of the autoencoder without the quantiser, so that the first codes are centres of meaningful latents."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=model.config.learning_rate, weight_decay=0.0)
    batches = _endless_batches(data, model.config.batch_size, generator)
    for _ in range(model.config.warmup_steps):
        inputs = model.standardise(data[next(batches)])
        loss = torch.nn.functional.mse_loss(model.decoder(model.encoder(inputs)), inputs)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _revive(
    model: RqVae,
    used: list[Tensor],
    output: RqVaeOutput,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
) -> None:
    """Move every code that was not used since the last time onto a residual of the batch, and forget its momentum."""
    for book, seen, residuals in zip(model.books, used, output.residuals, strict=True):
        dead = torch.nonzero(~seen).squeeze(1)
        picked = torch.randint(len(residuals), (len(dead),), generator=generator).to(dead.device)
        book.data[dead] = residuals[picked]
        for value in optimizer.state[book].values():
            if value.shape == book.shape:
                value[dead] = 0
        seen.zero_()


def _endless_batches(data: Tensor, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Rows of batches for ever, in a new order each epoch; a last batch of less than half the size is left out."""
    while True:
        order = torch.randperm(len(data), generator=generator).to(data.device)
        for batch in order.split(size):
            if 2 * len(batch) >= min(size, len(data)):
                yield batch
