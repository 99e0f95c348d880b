"""Quantisers: from an item's vector to its codes, level by level. A new one is one more file and one more line here.

Shapes: N vectors, D input width, W latent width, L levels, V_l codes on level l, p levels of a prefix.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from genrec.semtok.errors import InputError
from genrec.semtok.quantizers.residual import Codes, Floats
from genrec.semtok.quantizers.residual_kmeans import ResidualKMeans
from genrec.semtok.quantizers.rqvae import RqVae
from genrec.semtok.quantizers.state import CONFIG, read_part


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


QUANTIZERS: dict[str, Callable[[Path], Quantizer]] = {
    "residual_kmeans": ResidualKMeans.load,
    "rqvae": RqVae.load,
}


def load_quantizer(folder: Path) -> Quantizer:
    """The quantiser that was saved in a folder.

    Raises:
        InputError: there is none, or its name is unknown.
    """
    config = read_part(folder, "quantizer")
    name = config.get("name") if isinstance(config, dict) else None
    if not isinstance(name, str) or name not in QUANTIZERS:
        raise InputError(f"{folder / CONFIG}: quantizer {name!r}, known are {', '.join(QUANTIZERS)}")
    return QUANTIZERS[name](folder)
