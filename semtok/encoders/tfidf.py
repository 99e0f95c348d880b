"""TF-IDF of words and word pairs, reduced by a truncated SVD: text vectors without any download.

Latent semantic analysis (Deerwester et al. 1990): with X [N, F] the sublinear TF-IDF matrix and X ~ U S C its truncated
SVD, a text with row x gets x C^T, scaled to unit length.

Shapes: N texts, F terms, D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.utils.extmath import randomized_svd

from genrec.semtok.arrays import Spec, read_arrays
from genrec.semtok.encoders.base import TextEncoder
from genrec.semtok.errors import InputError
from genrec.semtok.folders import read_json, to_json, write_atomic
from genrec.semtok.vectors import unit_rows

_STATE = "encoder.safetensors"


class TfidfEncoder(TextEncoder):
    """The default encoder: fitted on the catalogue, the same vectors for the same texts on every run.

    Args:
        width: D, less where the catalogue has fewer items or terms.
        max_terms: the most frequent terms are kept.
    """

    name = "tfidf"

    def __init__(self, width: int = 256, max_terms: int = 200_000) -> None:
        if width < 1 or max_terms < 1:
            raise InputError(f"text encoder tfidf: width {width} and max_terms {max_terms} must be at least 1")
        self.width = width
        self.max_terms = max_terms
        self._vectorizer: TfidfVectorizer | None = None
        self._components = np.empty((0, 0), dtype=np.float32)  # [D, F]

    def fit(self, texts: Sequence[str]) -> None:
        """Learn terms, their weights and the components.

        Raises:
            InputError: not one word in all the texts.
        """
        # A term of one item alone says nothing about likeness; in a tiny catalogue every term is rare.
        vectorizer = _vectorizer(min_df=2 if len(texts) >= 100 else 1, max_features=self.max_terms)
        try:
            matrix = vectorizer.fit_transform(texts)
        except ValueError:
            raise InputError("text encoder tfidf: the items' texts hold no words to compare them by") from None
        width = min(self.width, *matrix.shape)
        _, _, components = randomized_svd(matrix, width, n_iter=5, random_state=0)
        self._vectorizer = vectorizer
        self._components = np.ascontiguousarray(components, dtype=np.float32)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Texts to float32 [N, D] of unit length; zeros for a text without a known term."""
        if self._vectorizer is None:
            raise ValueError("fit the encoder before it encodes")
        return unit_rows(np.asarray(self._vectorizer.transform(texts) @ self._components.T, dtype=np.float32))

    def save(self, folder: Path) -> None:
        """Write `encoder.json` (terms in column order) and `encoder.safetensors` (weights, components)."""
        if self._vectorizer is None:
            raise ValueError("fit the encoder before it is saved")
        terms = self._vectorizer.get_feature_names_out().tolist()
        state = {"idf": np.asarray(self._vectorizer.idf_, dtype=np.float32), "components": self._components}
        write_atomic(folder / _STATE, save(state))
        value = {"name": self.name, "width": self.width, "max_terms": self.max_terms, "terms": terms}
        write_atomic(folder / "encoder.json", to_json(value))

    @classmethod
    def load(cls, folder: Path) -> TfidfEncoder:
        """Read what `save` wrote: the loaded encoder gives identical vectors.

        Raises:
            InputError: a file is missing or foreign.
        """
        value = read_json(folder / "encoder.json")
        try:
            encoder, terms = cls(value["width"], value["max_terms"]), value["terms"]
            if not isinstance(terms, list) or not all(isinstance(term, str) for term in terms):
                raise ValueError("terms are not a list of texts")
            if len(set(terms)) < len(terms):
                raise ValueError("a term occurs twice")
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{folder}: not a saved TF-IDF encoder ({error})") from None
        spec: Spec = {"idf": ("float32", (len(terms),)), "components": ("float32", ("D", len(terms)))}
        state = read_arrays(folder / _STATE, spec, "a saved TF-IDF encoder")
        encoder._vectorizer = _vectorizer(vocabulary=terms)
        encoder._vectorizer.idf_ = state["idf"]
        encoder._components = state["components"]
        return encoder


def _vectorizer(**options: object) -> TfidfVectorizer:
    return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, strip_accents="unicode", dtype=np.float32, **options)
