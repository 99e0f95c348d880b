"""An encoder that `genrec.training.scft` tuned. A run keeps it beside the vectors that it made, so that new items and
queries are encoded by the same weights wherever the run lies, and whatever becomes of the folder that it was tuned in.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from genrec.semtok.encoders.hf import HFEncoder
from genrec.semtok.errors import InputError
from genrec.semtok.folders import link_files, read_json

_MODEL = "model"


class TunedEncoder(HFEncoder):
    """The tuned model of a folder, pooled as it was in training.

    Args:
        folder: that `genrec.training.scft` wrote, or a run's copy of it.
        name: what `make_encoder` calls it.

    Raises:
        InputError: the folder is another, or the model cannot be loaded.
    """

    def __init__(self, folder: Path, name: str) -> None:
        facts = read_json(folder / "scft.json")
        pooling = facts.get("pooling") if isinstance(facts, dict) else None
        if pooling not in ("mean", "last"):
            raise InputError(f"text encoder {name}: {folder} is not a folder that genrec.training.scft wrote")
        super().__init__(folder, name=name, pooling=pooling)
        self._folder = folder

    def save(self, folder: Path) -> None:
        """Write `encoder.json` and the model, which shares its files with the tuned folder where the disk can."""
        super().save(folder)
        shutil.rmtree(folder / _MODEL, ignore_errors=True)  # of an attempt that was interrupted
        link_files(self._folder, folder / _MODEL)

    @classmethod
    def load(cls, folder: Path) -> TunedEncoder:
        """Read what `save` wrote; raises InputError where it is not there."""
        return cls(folder / _MODEL, read_json(folder / "encoder.json")["name"])
