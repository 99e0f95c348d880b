"""`LexicalIndex`: BM25 over the words of a catalogue, which forgives typing errors.

With f the count of a word in an item's text (title words count `TITLE` times), l the text's length and l' the mean one,
an item's score for a query is

    sum over the query's words of  idf * f / (f + k1 (1 - b + b l / l')),  idf = log(1 + (N - n + 0.5) / (n + 0.5))

(Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework: BM25 and Beyond", with the idf of Lucene, never
negative). Words are compared in lower case, without accents, plural endings and British spelling. A word that no item
has stands for the nearest known ones, each by how common it is: query words have weights, which libraries of BM25
(bm25s) don't take, so the scores are a sparse matrix here.

The index is built from the catalogue when it is first asked, so that items added later are in it.

Shapes: N items, V words.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rapidfuzz import process
from rapidfuzz.distance import OSA
from scipy.sparse import coo_array, csc_array

from genrec.semtok.catalog import Catalog

K1, B = 1.2, 0.75  # the paper's
TITLE = 2  # how often a word of the title counts
MISSPELT = 0.8  # what a word that no item has counts
_WORD = r"\w+(?:['’]\w+)*"
_ACCENTS = re.compile("[\u0300-\u036f]+")  # as they stand behind their letters after NFKD
_BRITISH = re.compile(r"is(e|er|ed|ing)$")


class LexicalIndex:
    """The words of one catalogue.

    Args:
        catalog: N items.
    """

    def __init__(self, catalog: Catalog) -> None:
        size, found = len(catalog), _words(catalog.texts() + list(catalog.titles) * (TITLE - 1))
        spelled = found["word"].unique()
        folded = [fold(word) for word in spelled]
        self._words = sorted(set(folded))
        self._columns = {word: column for column, word in enumerate(self._words)}
        columns = pl.Series([self._columns[word] for word in folded], dtype=pl.Int32)
        of_word = found["word"].replace_strict(spelled, columns, return_dtype=pl.Int32).to_numpy()
        of_item = found["place"].to_numpy() % max(size, 1)
        ones, shape = np.ones(len(found), dtype=np.float32), (size, len(self._words))
        counts = coo_array((ones, (of_item, of_word)), shape=shape).tocsr()
        self._held = np.bincount(counts.indices, minlength=len(self._words))  # [V] items with each word
        idf = np.log1p((size - self._held + 0.5) / (self._held + 0.5)).astype(np.float32)
        length = np.asarray(counts.sum(axis=1), dtype=np.float32)
        norm = K1 * (1 - B + B * length / max(float(length.mean()), 1e-9)) if size else length
        counts.data = idf[counts.indices] * counts.data / (counts.data + np.repeat(norm, np.diff(counts.indptr)))
        self._weights: csc_array = counts.tocsc()  # [N, V]
        self._corrected = lru_cache(maxsize=4096)(self._correct)

    def scores(self, query: str) -> NDArray[np.float32]:
        """[N], at least 0; zeros for a query without a word that is known or looks like a known one."""
        found = np.zeros(self._weights.shape[0], dtype=np.float32)
        for column, weight in self._of_query(query).items():
            start, end = self._weights.indptr[column : column + 2]
            found[self._weights.indices[start:end]] += weight * self._weights.data[start:end]
        return found

    def _of_query(self, query: str) -> dict[int, float]:
        """Weights of the columns that a query asks for; a word that stands twice counts once."""
        words = dict.fromkeys(map(fold, _words([query])["word"]))
        asked = {self._columns[word]: 1.0 for word in words if word in self._columns}
        for word in words:
            if word not in self._columns:
                for known, weight in self._corrected(word):
                    asked.setdefault(self._columns[known], weight)
        return asked

    def _correct(self, word: str) -> tuple[tuple[str, float], ...]:
        """The known words that an unknown one looks like, with their weights.

        By one error, or by two from eight letters on where none is nearer; the first letter is the same, or the first
        two stand in the other order. `MISSPELT` is divided among them by how many items have each.
        """
        if len(word) < 4 or not word.isalpha():
            return ()
        most = 1 if len(word) < 8 else 2
        near = process.extract(word, self._words, scorer=OSA.distance, score_cutoff=most, limit=50)
        alike = [(known, distance) for known, distance, _ in near if word[0] == known[0] or word[:2] == known[1::-1]]
        least = min((distance for _, distance in alike), default=0)
        items = {known: int(self._held[self._columns[known]]) for known, distance in alike if distance == least}
        return tuple((known, MISSPELT * count / sum(items.values())) for known, count in items.items())


def _words(texts: Sequence[str]) -> pl.DataFrame:
    """The words of texts, in order and in lower case, each with the place of its text."""
    table = pl.DataFrame({"word": texts}, schema={"word": pl.String}).with_row_index("place")
    return table.with_columns(pl.col("word").str.to_lowercase().str.extract_all(_WORD)).explode("word").drop_nulls()


def fold(word: str) -> str:
    """A word in lower case as it is compared: `fold("moisturisers") == "moisturizer"`."""
    word = _ACCENTS.sub("", unicodedata.normalize("NFKD", word.replace("’", "'")))
    word = word.removesuffix("'s").replace("'", "")
    if word.endswith("ies") and len(word) > 4:
        word = word[:-3] + "y"
    elif word.endswith(("sses", "ches", "shes", "xes", "zes")):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3:
        word = word[:-1]
    return _BRITISH.sub(r"iz\1", word)
