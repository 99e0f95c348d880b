"""Search by words: BM25 over the catalogue's words, the run's text vectors, and the language model, fused.

    score = lexical * BM25 / (its maximum) + dense * cosine + language_model * log p(codes | query)

BM25 (`genrec.inference.lexical`) knows the words as they are spelled, the encoder that made the items' text vectors
what they mean, where it is a sentence encoder. The weights were found on validation queries
(docs/results/search.md). That of the language model is 0, and it is not asked: its text-to-codes task takes time and
adds nothing where it has read little. With a weight above 0 its beam proposes items beside those of the highest scores,
and one constrained search over all that were proposed gives each the log-probability of its codes after the query.

Shapes: N items, D width of the text vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from genrec.decoding.beam import beam_search
from genrec.decoding.filters import ItemFilter
from genrec.inference.lexical import LexicalIndex
from genrec.inference.opening import Opened
from genrec.run import Run
from genrec.semtok.encoders import TextEncoder, query_text
from genrec.semtok.errors import InputError
from genrec.tasks.writer import search_prompt

PROPOSED = 50  # items of the highest other scores that the language model reads


@dataclass(frozen=True)
class SearchWeights:
    """What each component scorer counts in a search; one of weight 0 is not asked.

    Attributes:
        lexical: of BM25 over its maximum, 0 to 1.
        dense: of the cosine of text vectors, -1 to 1.
        language_model: of the log-probability of an item's codes after the query.
    """

    lexical: float = 1.0
    dense: float = 0.5
    language_model: float = 0.0

    def __post_init__(self) -> None:
        for name, weight in vars(self).items():
            if not (isfinite(weight) and weight >= 0):
                raise InputError(f"search weights: {name} must be at least 0, not {weight}")
        if not any(vars(self).values()):
            raise InputError("search weights: one at least must be above 0")


def whole_characters(text: str) -> str:
    """The text with a question mark for each half of a surrogate pair, which no tokenizer, console or browser takes."""
    return text.encode("utf-8", "replace").decode()


class TextSearch:
    """The component scorers of a search that need no language model.

    Args:
        lexical: the words of the catalogue.
        encoder: that made the vectors.
        vectors: float32 [N, D], of unit length.
    """

    def __init__(self, lexical: LexicalIndex, encoder: TextEncoder, vectors: NDArray[np.float32]) -> None:
        self.lexical, self.encoder, self.vectors = lexical, encoder, vectors

    @classmethod
    def of(cls, run: Run) -> TextSearch:
        """By catalogue, text vectors and encoder of a run; raises InputError where they are not the run's."""
        encoder, vectors = run.text_encoder(), run.text_vectors().values
        width = encoder.encode([""]).shape[1]
        if width != vectors.shape[1]:
            raise InputError(f"{run}: text vectors of width {vectors.shape[1]}, their encoder gives {width}")
        return cls(LexicalIndex(run.catalog()), encoder, vectors)

    def scores(self, query: str, weights: SearchWeights) -> NDArray[np.float32]:
        """[N], without the language model's part."""
        found = np.zeros(len(self.vectors), dtype=np.float32)
        if weights.lexical:
            words = self.lexical.scores(query)
            found += weights.lexical * words / max(float(words.max()), 1e-9)
        if weights.dense:
            found += weights.dense * self.cosines(query)
        return found

    def cosines(self, query: str) -> NDArray[np.float32]:
        """[N]; zeros for a query without a word that the encoder knows."""
        return self.vectors @ self.encoder.encode([query_text(self.encoder, query)])[0]


def scores_of(
    parts: Opened, text: TextSearch, query: str, k: int, item_filter: ItemFilter, weights: SearchWeights
) -> NDArray[np.float32]:
    """Scores of the items for a query, [N], -inf of those that are not allowed; of all where it has no known word.

    Args:
        parts: the opened run.
        k: with a language model, at least k items are proposed where as many are allowed; the others are -inf too.
    """
    query = whole_characters(query)
    scores = text.scores(query, weights)
    if not weights.language_model:
        if not scores.any():  # no scorer knows a word of it: any order would be the catalogue's
            return np.full_like(scores, -np.inf)
        return item_filter.apply_to_scores(scores)
    scores = item_filter.apply_to_scores(scores)
    prompt, trie = search_prompt(parts.tokenizer, query), parts.ranker.trie
    beam = _read(parts, prompt, item_filter, max(k, parts.ranker.config.beams))
    near = np.argsort(-scores, kind="stable")[: max(k, PROPOSED) if weights.lexical or weights.dense else 0]
    proposed = np.zeros(trie.n_items, dtype=np.bool_)
    proposed[[*beam, *near[np.isfinite(scores[near])]]] = True
    read = _read(parts, prompt, ItemFilter.from_mask(trie, proposed), int(proposed.sum())) if len(near) else beam
    fused = np.full_like(scores, -np.inf)
    for row, log_prob in read.items():
        fused[row] = scores[row] + weights.language_model * log_prob
    return fused


def _read(parts: Opened, prompt: list[int], item_filter: ItemFilter, beams: int) -> dict[int, float]:
    """Log-probabilities of the codes of items after a prompt, by catalogue row; of all that are allowed, where there
    are no more than `beams`."""
    trie = parts.ranker.trie
    beams = max(1, min(beams, trie.n_items))
    found = beam_search(parts.engine, trie, [prompt], beams=beams, k=beams, filters=[item_filter])
    pairs = zip(found.rows[0].tolist(), found.scores[0].tolist(), strict=True)
    return {row: score for row, score in pairs if row >= 0}
