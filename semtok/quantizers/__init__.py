"""Quantisers: from an item's vector to its codes, level by level.

A new quantiser is one file here and one entry in `QUANTIZERS`: its options are then a section of `genrec fit`'s
configuration, and it is fitted, saved and loaded like the others. Importing this module is light: an entry imports its
quantiser where it fits or loads one.

Shapes: N vectors, D input width, W latent width, L levels, V_l codes on level l, p levels of a prefix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from genrec.semtok.errors import InputError
from genrec.semtok.quantizers.config import ResidualKMeansConfig, RqVaeConfig

if TYPE_CHECKING:
    from genrec.semtok.quantizers.residual import Codes, Floats


class Quantizer(Protocol):
    """What every quantiser can do."""

    @property
    def codebooks(self) -> list[Floats]:
        """The code vectors of each level, L arrays float32 [V_l, W]."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Codes on each level."""

    def latents(self, vectors: Floats) -> Floats:
        """Vectors [N, D] in the space that is quantised, float32 [N, W]; InputError where D is not the fitted width."""

    def encode(self, vectors: Floats) -> Codes:
        """Vectors [N, D] to codes int32 [N, L]; different vectors may get the same codes."""

    def code_costs(self, latents: Floats, prefix: Codes) -> Floats:
        """Latents [N, W] and prefixes [N, p] to the cost of each code of level p, float32 [N, V_p]."""

    def decode(self, codes: Codes) -> Floats:
        """Codes [N, L] to the vectors that they stand for, float32 [N, D]."""

    def save(self, folder: Path) -> None:
        """Write `quantizer.safetensors` and the part `quantizer` of `config.json` into an existing folder."""


@dataclass(frozen=True)
class QuantizerEntry:
    """An entry of the registry.

    Attributes:
        config: frozen dataclass of its options; `config()` are the defaults.
        load: makes it from the folder that it was saved in.
        fit: fits it: (vectors [N, D], codes on each level, config, seed). None: it is trained by gradients, which is
            the business of `genrec.training.quantizer`.
    """

    config: type[Any]
    load: Callable[[Path], Quantizer]
    fit: Callable[[Floats, tuple[int, ...], Any, int], Quantizer] | None = None


def _fit_kmeans(vectors: Floats, sizes: tuple[int, ...], config: ResidualKMeansConfig, seed: int) -> Quantizer:
    from genrec.semtok.quantizers.residual_kmeans import ResidualKMeans, fit_codebooks

    return ResidualKMeans(fit_codebooks(vectors, sizes, seed, config.iterations, config.codebooks))


def _load_kmeans(folder: Path) -> Quantizer:
    from genrec.semtok.quantizers.residual_kmeans import ResidualKMeans

    return ResidualKMeans.load(folder)


def _load_rqvae(folder: Path) -> Quantizer:
    from genrec.semtok.quantizers.rqvae import RqVae

    return RqVae.load(folder)


QUANTIZERS: dict[str, QuantizerEntry] = {
    "residual_kmeans": QuantizerEntry(ResidualKMeansConfig, _load_kmeans, _fit_kmeans),
    "rqvae": QuantizerEntry(RqVaeConfig, _load_rqvae),
}


def reads_collaborative(options: Any) -> bool:
    """Whether the codes of a quantiser of these options are held to collaborative vectors."""
    return getattr(options, "collaborative_weight", 0) > 0


def load_quantizer(folder: Path) -> Quantizer:
    """The quantiser that was saved in a folder.

    Raises:
        InputError: there is none, or its name is unknown.
    """
    from genrec.semtok.quantizers.state import CONFIG, read_part

    config = read_part(folder, "quantizer")
    name = config.get("name") if isinstance(config, dict) else None
    if not isinstance(name, str) or name not in QUANTIZERS:
        raise InputError(f"{folder / CONFIG}: quantizer {name!r}, known are {', '.join(QUANTIZERS)}")
    return QUANTIZERS[name].load(folder)
