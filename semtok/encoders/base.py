"""What every text encoder can do; light to import.

Shapes: N texts, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from genrec.semtok.folders import to_json, write_atomic

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class TextEncoder:
    """What every encoder can do.

    Attributes:
        name: what `make_encoder` makes it from.
    """

    name: str

    def fit(self, texts: Sequence[str]) -> None:
        """Learn what the encoder needs of the catalogue's texts; pretrained models need nothing."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Texts to float32 [N, D], in their order; a text's vector does not depend on its neighbours."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Write `encoder.json` and, where there is any, the fitted state into an existing folder; weights of pretrained
        models stay where they are and are found again by name.
        """
        write_atomic(folder / "encoder.json", to_json({"name": self.name}))
