"""`TextSearch`: how near each item's words are to a query's, by the text vectors of the run.

The encoder that made the items' text vectors reads the query too, which takes no training: it knows every word of the
catalogue (TF-IDF) or of the language (a sentence encoder).

`Recommender.search` has two scorers: the LM's text-to-codes task, and cosines of these vectors. Either proposes items;
one constrained search over all that were proposed gives each the log-probability of its codes after the query, and

    score = log p(codes | query) + cosine / TEMPERATURE

so a language model that has read little leaves the order to the words.

Shapes: N items, D width of the text vectors.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from genrec.decoding.beam import beam_search
from genrec.decoding.filters import ItemFilter
from genrec.inference.opening import Opened
from genrec.run import Run
from genrec.semtok.encoders import TextEncoder, query_text
from genrec.semtok.errors import InputError
from genrec.tasks.writer import search_prompt

TEMPERATURE = 0.01  # of cosines: a difference of 0.01 weighs as much as one of 1 in log-probability
PROPOSED = 50  # items that the cosines propose


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
        found: NDArray[np.float32] = self.vectors @ self.encoder.encode([query_text(self.encoder, query)])[0]
        return found


def scores_of(parts: Opened, text: TextSearch | None, query: str, k: int, item_filter: ItemFilter) -> dict[int, float]:
    """Scores of the items that were proposed for a query, at least k where as many are allowed, by catalogue row.

    Args:
        parts: the opened run.
        text: lets the text vectors propose and weigh; None leaves the LM alone.
    """
    query = whole_characters(query)
    prompt, trie = search_prompt(parts.tokenizer, query), parts.ranker.trie
    scores = _read(parts, prompt, item_filter, max(k, parts.ranker.config.beams))
    if text is None:
        return scores
    cosines = item_filter.apply_to_scores(text.cosines(query))
    near = np.argsort(-cosines, kind="stable")[: max(k, PROPOSED)]
    proposed = np.zeros(trie.n_items, dtype=np.bool_)
    proposed[[*scores, *near[np.isfinite(cosines[near])]]] = True
    read = _read(parts, prompt, ItemFilter.from_mask(trie, proposed), int(proposed.sum()))
    return {row: score + float(cosines[row]) / TEMPERATURE for row, score in read.items()}


def _read(parts: Opened, prompt: list[int], item_filter: ItemFilter, beams: int) -> dict[int, float]:
    """Log-probabilities of the codes of items after a prompt, by catalogue row; of all that are allowed, where there
    are no more than `beams`."""
    trie = parts.ranker.trie
    beams = max(1, min(beams, trie.n_items))
    found = beam_search(parts.engine, trie, [prompt], beams=beams, k=beams, filters=[item_filter])
    pairs = zip(found.rows[0].tolist(), found.scores[0].tolist(), strict=True)
    return {row: score for row, score in pairs if row >= 0}
