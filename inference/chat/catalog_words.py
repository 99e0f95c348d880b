"""`CatalogWords`: which of a person's words name something in this catalogue: a category, a brand, a title.

Words are compared folded: without case, accents, plural endings and British spelling ("Moisturisers" is "moisturizer").
A category matches as a whole or by a part of its name ("creams" finds "Creams & Moisturizers" where no category is
called just that). A brand's name means the brand only where most titles with it are that brand's, so that "simple" and
"clear" stay words; after "by" or "from", or with a capital letter, it and the beginning of it always do.

Shapes: N items.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import log

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rapidfuzz.distance import OSA

from genrec.inference import lexical
from genrec.semtok.catalog import Catalog

WORD = re.compile(r"\w+(?:'\w+)*")
NAMES = frozenset({"brand", "manufacturer", "maker", "artist", "author", "publisher", "store", "seller"})
IMAGES = frozenset({"image", "image_url", "imageurl", "img", "picture", "photo", "thumbnail"})  # nothing to talk about
LONGEST_VALUE = 40  # characters of a value that somebody would say; longer ones are descriptions
OWN_SHARE = 0.8  # of the titles with a word must be a brand's for the word to mean the brand
_IRREGULAR = {"knives": "knife", "leaves": "leaf", "shelves": "shelf", "feet": "foot", "teeth": "tooth"}
_PART = re.compile(r"\s*(?:&|,|/|\band\b|\bplus\b)\s*", re.IGNORECASE)

Phrase = tuple[str, ...]


@lru_cache(maxsize=1 << 16)
def fold(word: str) -> str:
    """A word as words are compared here, as the search does it and a little more: `fold("Colours") == "color"`."""
    word = "".join(c for c in unicodedata.normalize("NFKD", word.casefold()) if not unicodedata.combining(c))
    return re.sub(r"our$", "or", lexical.fold(_IRREGULAR.get(word, word)))


def words_of(text: str) -> list[str]:
    """The folded words of a text, in order."""
    return [fold(word) for word in WORD.findall(text.replace("’", "'"))]


@dataclass(frozen=True)
class Meaning:
    """What a phrase names."""

    attribute: str  # a column of the catalogue
    values: tuple[str, ...]  # the values of it, in the catalogue's spelling
    bare: bool = True  # whether the phrase means this without "by" or "from" before it and without a capital letter


@dataclass(frozen=True)
class Match:
    """A phrase found at words `start` to `end` (exclusive) of a text."""

    start: int
    end: int
    meanings: tuple[Meaning, ...]


@dataclass(frozen=True)
class TitleMatch:
    """A title that shares words with a text."""

    row: int  # of the catalogue
    of_text: float  # share of the text's weight that the title holds
    of_title: float  # share of the title's weight that the text holds


class CatalogWords:
    """The words of one catalogue. Build it with `words_of_catalog`, which keeps it.

    Attributes:
        price: the column that holds prices, or None.
        kinds: columns of categories and the like, those with several values an item first.
        names: columns of brands and the like.
        numeric_columns: columns of numbers.
        vocabulary: every folded word of the items' texts.
        columns: those that can be spoken of: all but pictures.
        telling: folded words of titles, which say something about an item.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._titles = [tuple(words_of(title)) for title in catalog.titles]
        columns = catalog.attributes.get_columns()
        spoken = [column for column in columns if _is_spoken(column)]
        lists = [column.name for column in spoken if column.dtype == pl.List(pl.String)]
        single = [column.name for column in spoken if column.dtype == pl.String]
        self.kinds = (*lists, *(name for name in single if name.lower() not in NAMES))
        self.names = tuple(name for name in single if name.lower() in NAMES)
        numeric = [column.name for column in columns if column.dtype.is_numeric()]
        self.price = next((name for name in numeric if "price" in name.lower()), None)
        self.columns = tuple(column.name for column in columns if column.name.lower() not in IMAGES)
        self.numeric_columns = tuple(numeric)

        self._rows: dict[str, list[int]] = defaultdict(list)
        for row, title in enumerate(self._titles):
            for word in set(title):
                self._rows[word].append(row)
        self.telling = frozenset(self._rows)
        texts = Counter(word for text in catalog.texts() for word in set(words_of(text)))
        self.vocabulary = frozenset(texts)
        self._meanings: dict[Phrase, list[Meaning]] = defaultdict(list)
        for name in self.kinds:
            self._add_kinds(name, catalog.attributes[name])
        for name in self.names:
            self._add_names(name, catalog.attributes[name])
        spoken_words = {word for phrase in self._meanings for word in phrase}
        self._common = sorted({word for word, count in texts.items() if count > 1} | spoken_words)
        self._longest = max(map(len, self._meanings), default=0)
        self.correct = lru_cache(maxsize=1024)(self._correct)

    def _add_kinds(self, name: str, column: pl.Series) -> None:
        """A phrase means the values that are called so, else those of which it is a part."""
        wholes: dict[Phrase, list[str]] = defaultdict(list)
        parts: dict[Phrase, list[str]] = defaultdict(list)
        for value in _values(column):
            wholes[tuple(words_of(value))].append(value)
            for part in _PART.split(value):
                parts[tuple(words_of(part))].append(value)
        for phrase in (wholes | parts).keys() - {()}:
            self._meanings[phrase].append(Meaning(name, tuple(wholes.get(phrase) or parts[phrase])))

    def _add_names(self, name: str, column: pl.Series) -> None:
        """A phrase means the brands that are called so, else those whose name begins so where it is in their titles."""
        spelled: dict[Phrase, list[str]] = defaultdict(list)
        for value in _values(column):
            spelled[tuple(words_of(value))].append(value)
        begins: dict[Phrase, list[str]] = defaultdict(list)
        for phrase, values in spelled.items():
            for length in range(1, len(phrase)):
                begins[phrase[:length]].extend(values)
        brands = column.to_list()
        for phrase in (spelled | begins).keys() - {()}:
            values = spelled.get(phrase) or begins[phrase]
            rows = self._rows_with(phrase)
            own = Counter(brands[row] in values for row in rows)[True]
            theirs = own >= OWN_SHARE * len(rows) if rows else len(phrase) > 1
            if phrase in spelled or (theirs and own > 1):
                self._meanings[phrase].append(Meaning(name, tuple(values), theirs and phrase in spelled))

    def numeric(self, words: Sequence[str]) -> str | None:
        """The first column of numbers whose name has one of the words: "rating" finds `average_rating`."""
        return next((name for word in words for name in self.numeric_columns if word in name.lower()), None)

    def holds(self, rows: NDArray[np.bool_], wanted: Iterable[str]) -> bool:
        """Whether some item of `rows`, bool [N], has one of the folded words in its title."""
        return any(bool(rows[self._rows[word]].any()) for word in wanted if word in self._rows)

    def matches(self, words: Sequence[str]) -> list[Match]:
        """Phrases of the catalogue in folded words: from the left, the longest first, without overlap."""
        found, start = [], 0
        while start < len(words):
            for end in range(min(len(words), start + self._longest), start, -1):
                meanings = self._meanings.get(tuple(words[start:end]))
                if meanings:
                    found.append(Match(start, end, tuple(meanings)))
                    break
            start = found[-1].end if found and found[-1].start == start else start + 1
        return found

    def find_titles(self, text: str) -> list[TitleMatch]:
        """Titles that hold the most of a text's words, best first; of equal ones the shorter, then the lower row.

        A word weighs log(1 + N / titles with it), a word of no title as much as the rarest. A typo counts as the
        word that it is nearest to.
        """
        asked = {word if word in self._rows else self.correct(word) or word for word in words_of(text)}
        held: dict[int, float] = defaultdict(float)
        for word in sorted(asked):
            for row in self._rows.get(word, ()):
                held[row] += self._weight(word)
        total = sum(map(self._weight, sorted(asked)))
        found = [
            TitleMatch(row, value / total, value / sum(map(self._weight, sorted(set(self._titles[row])))))
            for row, value in held.items()
        ]
        return sorted(found, key=lambda match: (-round(match.of_text, 9), -round(match.of_title, 9), match.row))

    def _weight(self, word: str) -> float:
        return log(1 + len(self._titles) / max(1, len(self._rows.get(word, ()))))

    def titles_with(self, phrase: str) -> NDArray[np.bool_]:
        """Which titles hold a phrase, bool [N]; "sulfate free" does not hold "sulfate"."""
        mask = np.zeros(len(self._titles), dtype=np.bool_)
        mask[self._rows_with(tuple(words_of(phrase)))] = True
        return mask

    def _rows_with(self, phrase: Phrase) -> list[int]:
        if not phrase:
            return []
        rarest, *others = sorted((self._rows.get(word, []) for word in phrase), key=len)
        return [row for row in sorted(set(rarest).intersection(*others)) if contains(self._titles[row], phrase)]

    def _correct(self, word: str) -> str | None:
        """The known word that an unknown one looks like, or None."""
        if len(word) < 4 or not word.isalpha():
            return None
        most = 1 if len(word) < 8 else 2
        near = [(OSA.distance(word, known, score_cutoff=most), known) for known in self._common if _may_be(word, known)]
        distance, best = min(near, default=(most + 1, ""))
        return best if distance <= most else None


@lru_cache(maxsize=8)
def words_of_catalog(catalog: Catalog) -> CatalogWords:
    """The words of a catalogue; conversations about one run share them."""
    return CatalogWords(catalog)


def _may_be(word: str, known: str) -> bool:
    """Whether a known word may be meant by an unknown one: a typo is seldom in the first letter, and in a short word a
    letter is left out, doubled or swapped rather than another one."""
    if word[0] != known[0] and sorted(word[:2]) != sorted(known[:2]):
        return False
    return len(word) > 5 or len(word) != len(known) or sorted(word) == sorted(known)


def contains(words: Phrase, phrase: Phrase) -> bool:
    """Whether a phrase stands in words, not followed by "free"."""
    n = len(phrase)
    return any(
        words[i : i + n] == phrase and (i + n == len(words) or words[i + n] != "free")
        for i in range(len(words) - n + 1)
    )


def unwanted_rows(
    catalog: Catalog, words: CatalogWords, unwanted: Mapping[str, Sequence[str]]
) -> Iterator[NDArray[np.bool_]]:
    """For each attribute with refused values, which items have one of them: bool [N]."""
    for attribute, values in unwanted.items():
        if attribute == "title" and "title" not in catalog.attributes.columns:
            for value in values:
                yield words.titles_with(value)
            continue
        column, wanted = pl.col(attribute), pl.Series(values=list(values), dtype=pl.String).implode()
        if isinstance(catalog.attributes.schema[attribute], pl.List):
            has = column.list.eval(pl.element().is_in(wanted)).list.any()
        else:
            has = column.is_in(wanted)
        yield catalog.attributes.select(has.fill_null(False)).to_series().to_numpy()


def flat(column: pl.Series) -> pl.Series:
    """A column of texts, or the texts of a column of lists."""
    return column.explode(empty_as_null=False) if isinstance(column.dtype, pl.List) else column


def commonest(values: Iterable[str], most: int) -> list[str]:
    """The values that are there most often, of equal ones the first by name."""
    counts = Counter(values)
    return sorted(counts, key=lambda value: (-counts[value], value))[:most]


def _values(column: pl.Series) -> list[str]:
    """The different values of a column of texts or lists of texts, sorted."""
    return sorted(value for value in flat(column).unique().to_list() if value and value.strip())


def _is_spoken(column: pl.Series) -> bool:
    """Whether the values are such as somebody says: short texts that are no identifiers."""
    if column.dtype not in (pl.String, pl.List(pl.String)):
        return False
    values = _values(column)
    if not values or np.quantile([len(value) for value in values], 0.95) > LONGEST_VALUE:
        return False
    one_each = column.dtype == pl.String and len(values) > max(0.5 * column.count(), 50)
    return not (one_each and not any(" " in value for value in values))
