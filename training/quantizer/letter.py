"""LETTER's two regularisers of an RQ-VAE: codes that agree with collaborative vectors, and codes that spread (Wang et
al. 2024, arXiv 2405.07314). Each is off where its weight is 0.

Shapes: N items, D_c width of the collaborative vectors, W latent width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genrec.semtok.aligners.losses import code_diversity, collaborative_contrast
from genrec.semtok.aligners.principal_axes import principal_axes
from genrec.semtok.errors import InputError
from genrec.semtok.quantizers.code_clusters import CodeMates
from genrec.semtok.quantizers.config import RqVaeConfig
from genrec.semtok.quantizers.residual import Floats
from genrec.semtok.quantizers.rqvae import RqVae, RqVaeOutput


@dataclass(frozen=True)
class Collaborative:
    """What the collaborative term holds the codes to.

    Attributes:
        vectors: float32 [N, D_c], collaborative.
        seen: bool [N], items with training events; the vectors of others mean nothing.
    """

    vectors: Floats
    seen: NDArray[np.bool_]


class Letter:
    """What the two terms add to the loss of a batch.

    Collaborative vectors are centred, cut to the latent width by their main axes and scaled to a mean square of 1, as
    the RQ-VAE's inputs are. Clusters of codes are formed again once an epoch.

    Args:
        config: the RQ-VAE's.
        n_items: N.
        collaborative: needed where there is a collaborative weight.
        seed: of clusters and of the codes drawn from them.
        device: of the fit.

    Raises:
        InputError: there is a collaborative weight and there are no such vectors.
    """

    def __init__(
        self,
        config: RqVaeConfig,
        n_items: int,
        collaborative: Collaborative | None,
        seed: int,
        device: torch.device,
    ) -> None:
        self.config, self.seed = config, seed
        self.steps_an_epoch = max(1, n_items // config.batch_size)
        self.generator = torch.Generator().manual_seed(seed)
        self.mates: list[CodeMates] = []
        if config.collaborative_weight:
            if collaborative is None:
                raise InputError("--semtok.rqvae.collaborative_weight: there are no collaborative vectors to hold to")
            self._seen = torch.from_numpy(collaborative.seen).to(device)
            self.collaborative = torch.from_numpy(_main_part(collaborative, config.latent_width)).to(device)

    def __call__(self, model: RqVae, output: RqVaeOutput, rows: Tensor, step: int) -> Tensor:
        """The weighted terms, a scalar, for items `rows` and their pass through the model."""
        total = output.quantised.new_zeros(())
        seen = self._seen[rows] if self.config.collaborative_weight else None
        if seen is not None and seen.any():
            contrast = collaborative_contrast(output.quantised[seen], self.collaborative[rows[seen]])
            total = total + self.config.collaborative_weight * contrast
        if self.config.diversity_weight:
            total = total + self.config.diversity_weight * self._diversity(model, output.codes, step)
        return total

    def _diversity(self, model: RqVae, codes: Tensor, step: int) -> Tensor:
        """Sum over the levels that have two codes or more."""
        books = [(level, book) for level, book in enumerate(model.books) if len(book) > 1]
        if not self.mates or step % self.steps_an_epoch == 0:
            clusters, codebooks = self.config.diversity_clusters, model.codebooks
            self.mates = [CodeMates(codebooks[level], clusters, self.seed) for level, _ in books]
        total = codes.new_zeros((), dtype=torch.float32)
        for (level, book), mates in zip(books, self.mates, strict=True):
            drawn = mates.draw(codes[:, level].cpu(), self.generator).to(codes.device)
            total = total + code_diversity(book, codes[:, level], drawn)
        return total


def _main_part(collaborative: Collaborative, width: int) -> Floats:
    """The main components [N, width] of the collaborative vectors, by the items seen in training."""
    mean, axes = principal_axes(collaborative.vectors[collaborative.seen], width)
    main = (collaborative.vectors - mean) @ axes
    main /= np.sqrt(np.square(main[collaborative.seen]).mean()).clip(1e-12)
    return np.pad(main, ((0, 0), (0, width - main.shape[1])))
