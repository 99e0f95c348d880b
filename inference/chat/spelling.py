"""The words that rules go by, put right where they are misspelt: "undr 20 dolars" is "under 20 dollars".

Words of the catalogue are put right elsewhere (`Draft.folded`). A word is changed only where the catalogue and the
rules don't know it, and none of the catalogue's is nearer.
"""

from __future__ import annotations

import re

from rapidfuzz.distance import OSA

from genrec.inference.chat.catalog_words import CatalogWords, fold
from genrec.inference.chat.phrases import CHATTY, FILLER, SPELLED

_LONGEST = 16  # letters of a word that may be one of the rules'
_TYPED = re.compile(r"(?<![\w'])[A-Za-z]{3,}(?![\w'])")
_FORM = re.compile(r"\b(not|nothing|anything|everything|something|only) form\b", re.IGNORECASE)


def tidy(text: str, words: CatalogWords) -> tuple[str, list[str]]:
    """A text with the rules' own words put right, and a note on each."""
    notes: list[str] = []

    def right(match: re.Match[str]) -> str:
        word = match[0].lower()
        key = fold(word)
        known = key in words.vocabulary or key in FILLER or word in FILLER or word in CHATTY or word in SPELLED
        name = match[0][0].isupper() and match.start() > 0
        if known or name:
            return match[0]
        distance, best = _nearest(word)
        if best is None:
            return match[0]
        sold = words.correct(key)
        if sold is not None and OSA.distance(key, sold) < distance:
            return match[0]
        notes.append(f"'{match[0]}' read as '{best}'")
        return best

    return _FORM.sub(r"\1 from", _TYPED.sub(right, text)), notes


def _nearest(word: str) -> tuple[int, str | None]:
    if len(word) > _LONGEST:
        return 0, None
    most = 0 if len(word) < 4 else 1 if len(word) < 8 else 2  # edits that are forgiven
    best: tuple[int, str | None] = (_LONGEST, None)
    for known in sorted(SPELLED):
        swapped = sorted(word) == sorted(known)
        if swapped or (word[0] == known[0] and min(len(word), len(known)) > 3):
            # of a longer word a letter may be another one, of a short one it is left out, doubled or swapped
            if not swapped and len(word) == len(known) and len(word) < 6:
                continue
            distance = OSA.distance(word, known, score_cutoff=max(most, 1))
            if distance <= max(most, int(swapped)) and distance < best[0]:
                best = (distance, known)
    return best
