"""RQ-VAE: an autoencoder whose latent vector is quantised in residual steps (Lee et al. 2022, arXiv 2203.01941; for
semantic IDs TIGER, arXiv 2305.05065). Fitted by `genrec.training.quantizer.fit`.

Inputs are centred and scaled to a mean square of 1, so that the weights of the losses mean the same for any vectors.

Shapes: B vectors, D input width, W latent width, L levels, V_l codes on level l, p levels of a prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from genrec.semtok.arrays import state_spec
from genrec.semtok.errors import InputError
from genrec.semtok.quantizers.config import RqVaeConfig
from genrec.semtok.quantizers.residual import Codes, Floats, code_costs, nearest_codes, sum_codes
from genrec.semtok.quantizers.state import load_arrays, load_config, save_state


class RqVaeOutput(NamedTuple):
    """One forward pass: the parts of the loss, means over the batch, and the codes."""

    reconstruction: Tensor  # mean square error per input dimension, inputs having mean square 1
    codebook: Tensor  # sum over levels of mean ||sg[r_l] - e_l||^2 / W
    commitment: Tensor  # sum over levels of mean ||r_l - sg[e_l]||^2 / W
    codes: Tensor  # [B, L]
    residuals: list[Tensor]  # r_l, L tensors [B, W], detached
    quantised: Tensor  # [B, W], sum of the codes, through which the gradient reaches the latents

    def loss(self, commitment_weight: float) -> Tensor:
        """What is minimised: reconstruction + codebook + beta commitment."""
        return self.reconstruction + self.codebook + commitment_weight * self.commitment


class RqVae(nn.Module):
    """The network and, once fitted, a quantiser; see `semtok.quantizers.Quantizer` for what its numpy methods promise.

    Args:
        width: D.
        sizes: codes on each level.
        config: everything else.
    """

    name = "rqvae"
    mean: Tensor
    scale: Tensor

    def __init__(self, width: int, sizes: tuple[int, ...], config: RqVaeConfig) -> None:
        super().__init__()
        if not sizes:
            raise ValueError("an RQ-VAE needs sizes")
        self.width, self.sizes, self.config = width, sizes, config
        widths = [width, *config.hidden_widths, config.latent_width]
        self.encoder = _mlp(widths)
        self.decoder = _mlp(widths[::-1])
        self.books = nn.ParameterList(nn.Parameter(torch.zeros(size, config.latent_width)) for size in sizes)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(1))  # [1], as the file of arrays holds it

    def set_scale(self, vectors: Tensor) -> None:
        """Centre and scale of the inputs from all vectors [N, D]."""
        self.mean.copy_(vectors.mean(dim=0))
        self.scale.copy_((vectors - self.mean).square().mean().sqrt().clamp_min(1e-12))

    def standardise(self, vectors: Tensor) -> Tensor:
        """Vectors as the encoder takes them, [B, D]."""
        return (vectors - self.mean) / self.scale

    def forward(self, vectors: Tensor) -> RqVaeOutput:
        """Encode, quantise, decode a batch [B, D]."""
        inputs = self.standardise(vectors)
        latents = self.encoder(inputs)
        rest, quantised = latents, torch.zeros_like(latents)
        codes, residuals = [], []
        codebook = commitment = latents.new_zeros(())
        for book in self.books:
            chosen = torch.cdist(rest.detach(), book.detach()).argmin(dim=1)
            vector = functional.embedding(chosen, book)
            residuals.append(rest.detach())
            codes.append(chosen)
            codebook = codebook + (rest.detach() - vector).square().mean()
            commitment = commitment + (rest - vector.detach()).square().mean()
            quantised = quantised + vector.detach()
            rest = rest - vector.detach()
        # Straight through: the gradient passes the quantiser unchanged (van den Oord et al. 2017, arXiv 1711.00937).
        quantised = latents + (quantised - latents).detach()
        reconstruction = functional.mse_loss(self.decoder(quantised), inputs)
        return RqVaeOutput(reconstruction, codebook, commitment, torch.stack(codes, dim=1), residuals, quantised)

    @property
    def codebooks(self) -> list[Floats]:
        """The code vectors of each level, float32 [V_l, W]."""
        return [book.detach().cpu().numpy() for book in self.books]

    @torch.no_grad()
    def latents(self, vectors: Floats) -> Floats:
        """The encoder's output, float32 [N, W]."""
        if vectors.shape[1] != self.width:
            raise InputError(f"quantizer: vectors of width {vectors.shape[1]}, fitted on width {self.width}")
        inputs = self.standardise(torch.from_numpy(vectors).to(self.mean.device))
        return self.encoder(inputs).cpu().numpy()

    def encode(self, vectors: Floats) -> Codes:
        """[N, D] to codes int32 [N, L]."""
        return nearest_codes(self.codebooks, self.latents(vectors))

    def code_costs(self, latents: Floats, prefix: Codes) -> Floats:
        """Latents [N, W] and prefixes [N, p] to the cost of each code of level p, float32 [N, V_p]."""
        return code_costs(self.codebooks, latents, prefix)

    @torch.no_grad()
    def decode(self, codes: Codes) -> Floats:
        """Codes [N, L] to the decoder's reconstruction, float32 [N, D]."""
        latents = torch.from_numpy(sum_codes(self.codebooks, codes)).to(self.mean.device)
        return (self.decoder(latents) * self.scale + self.mean).cpu().numpy()

    def save(self, folder: Path) -> None:
        """Write `quantizer.safetensors` and the part `quantizer` of `config.json`."""
        tensors = {key: value.cpu().numpy() for key, value in self.state_dict().items()}
        facts = {"name": self.name, "width": self.width, "sizes": self.sizes}
        save_state(folder, facts | asdict(self.config), tensors)

    @classmethod
    def load(cls, folder: Path) -> RqVae:
        """Read what `save` wrote; raises InputError where it is missing or foreign."""
        config = load_config(folder, cls.name)
        try:
            options = {option.name: config[option.name] for option in fields(RqVaeConfig)}
            options["hidden_widths"] = tuple(options["hidden_widths"])
            model = cls(config["width"], tuple(config["sizes"]), RqVaeConfig(**options))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{folder}: not a saved {cls.name} quantiser ({str(error).splitlines()[0]})") from None
        tensors = load_arrays(folder, cls.name, state_spec(model))
        model.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in tensors.items()})
        return model.eval()


def _mlp(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
