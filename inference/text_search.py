"""`TextSearch`: how near each item's words are to a query's, by the text vectors of the run.

The encoder that made the items' text vectors reads the query too, which takes no training: it knows every word of the
catalogue (TF-IDF) or of the language (a sentence encoder). `Recommender.search` lets it propose and weigh what the
language model says.

Shapes: N items, D width of the text vectors.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from genrec.run import Run
from genrec.semtok.encoders import TextEncoder
from genrec.semtok.errors import InputError


def whole_characters(text: str) -> str:
    """The text with a question mark for each half of a surrogate pair, which no tokenizer, console or browser takes."""
    return text.encode("utf-8", "replace").decode()


class TextSearch:
    """Queries against the items' text vectors.

    Args:
        encoder: that made the vectors.
        vectors: float32 [N, D], of unit length.
    """

    def __init__(self, encoder: TextEncoder, vectors: NDArray[np.float32]) -> None:
        self.encoder, self.vectors = encoder, vectors

    @classmethod
    def of(cls, run: Run) -> TextSearch:
        """By the text vectors and the encoder of a run; raises InputError where they are not the run's."""
        encoder, vectors = run.text_encoder(), run.text_vectors().values
        width = encoder.encode([""]).shape[1]
        if width != vectors.shape[1]:
            raise InputError(f"{run}: text vectors of width {vectors.shape[1]}, their encoder gives {width}")
        return cls(encoder, vectors)

    def cosines(self, query: str) -> NDArray[np.float32]:
        """[N]; zeros for a query without a known word."""
        found: NDArray[np.float32] = self.vectors @ self.encoder.encode([query])[0]
        return found
