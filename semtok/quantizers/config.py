"""The options of every quantiser; checked where they are built, and light to import."""

from __future__ import annotations

from dataclasses import dataclass

from genrec.semtok import options as check


@dataclass(frozen=True)
class ResidualKMeansConfig:
    """How to fit residual k-means.

    Attributes:
        iterations: k-means steps at most.
        codebooks: independent codebooks whose levels alternate, each of its own part of the randomly rotated vectors,
            as in Mixture-of-Codes (arXiv 2410.09560); 1: every level codes the whole vector.
    """

    iterations: int = 100
    codebooks: int = 1

    def __post_init__(self) -> None:
        check.at_least_one(self, "iterations", "codebooks")


@dataclass(frozen=True)
class RqVaeConfig:
    """How to build and fit an RQ-VAE.

    Attributes:
        latent_width: W.
        hidden_widths: widths of the encoder's hidden layers; the decoder has them in reverse.
        commitment: weight of the pull of latents towards their codes.
        collaborative_weight: alpha of LETTER (arXiv 2405.07314): quantised vectors are contrasted with the items'
            collaborative ones (`collaborative_contrast`; 0.01 in the paper). 0: off.
        diversity_weight: beta of LETTER: codes form even groups (`code_diversity`; 1e-4 in the paper). 0: off.
        diversity_clusters: even clusters that the codes of a level form for it.
        warmup_steps: optimiser steps of the bare autoencoder, before k-means on its latents gives the first codes.
        steps: optimiser steps with the quantiser after that.
        batch_size: vectors a step, at most.
        learning_rate: of AdamW, falling to 0 on a cosine.
        revive_every: steps after which a code that no vector took moves onto a vector of the batch; 0: never.
    """

    latent_width: int = 64
    hidden_widths: tuple[int, ...] = (512,)
    commitment: float = 0.25
    collaborative_weight: float = 0.0
    diversity_weight: float = 0.0
    diversity_clusters: int = 10
    warmup_steps: int = 500
    steps: int = 1500
    batch_size: int = 512
    learning_rate: float = 1e-3
    revive_every: int = 100

    def __post_init__(self) -> None:
        check.at_least_one(self, "latent_width", "diversity_clusters", "steps", "batch_size")
        check.sizes(self, "hidden_widths")
        check.not_negative(self, "commitment", "collaborative_weight", "diversity_weight")
        check.not_negative(self, "warmup_steps", "revive_every")
        check.positive(self, "learning_rate")
