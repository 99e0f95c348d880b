"""Text vectors from any sentence-transformers model, with the pooling and prompts that it was trained with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genrec.semtok.encoders.base import TextEncoder
from genrec.semtok.plain_words import plain_words
from genrec.semtok.pretrained import open_folder


class SentenceTransformerEncoder(TextEncoder):
    """A sentence-transformers model by folder or hub id.

    Raises:
        InputError: the library is not installed, or the model cannot be loaded.
    """

    def __init__(self, model: str | Path) -> None:
        self.name = f"st:{model}"
        self._model = open_folder(model, f"text encoder {self.name}").sentence_transformer()
        self._model.tokenizer.split_special_tokens = True  # as in `HFEncoder`

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Texts to float32 [N, D] of unit length, in their order."""
        # One text more than asked for: without any, the model could not say how wide its vectors are.
        words = [plain_words(self._model.tokenizer, text) for text in [*texts, ""]]
        rows = self._model.encode(words, normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(rows[:-1], dtype=np.float32)
