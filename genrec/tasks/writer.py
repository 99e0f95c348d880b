"""`PromptWriter`: templates and pieces to token rows.

Words are tokenised without special tokens whatever they spell, codes become the tokens of the SID vocabulary; so what a
person or a catalogue writes never becomes a control token.

Shapes: N items, L levels.
"""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from genrec.decoding.vocabulary import SidVocabulary, encode_text
from genrec.semtok.catalog import Catalog
from genrec.tasks.templates import SEARCH_PROMPT

_SLOT = re.compile(r"\{(\w+)\}")
_TEXT_TOKENS = 48  # that an item's words are cut to


class TaskRow(NamedTuple):
    """Token ids of one example; the loss falls on the response."""

    prompt: list[int]
    response: list[int]


class PromptWriter:
    """Pieces of prompts for one catalogue, tokenizer and vocabulary.

    Args:
        catalog: supplies titles and attributes.
        codes: int32 [N, L].

    Attributes:
        titles: tokens of each item's title.
        texts: the same of title and attributes.
    """

    def __init__(
        self,
        catalog: Catalog,
        codes: NDArray[np.int32],
        vocabulary: SidVocabulary,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        self._tokenizer, self._vocabulary, self._codes = tokenizer, vocabulary, codes
        self._code_tokens = vocabulary.encode(codes)
        self.texts = [self.words(text)[:_TEXT_TOKENS] for text in catalog.texts()]
        self.titles = [self.words(title)[:_TEXT_TOKENS] for title in catalog.titles]
        self._pieces = cache(self._split)
        self._end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]

    def words(self, text: str) -> list[int]:
        """Tokens of free text that follows other text."""
        return encode_text(self._tokenizer, " " + text)

    def item(self, row: int) -> list[int]:
        """The L code tokens of an item."""
        return self._code_tokens[row].tolist()

    def history(self, rows: NDArray[np.int32]) -> list[int]:
        """A history as the canonical prompt spells it."""
        return self._vocabulary.prompt(self._codes[rows])

    def answer(self, words: list[int]) -> list[int]:
        """A response in words, which ends where the text ends."""
        return [*words, *self._end]

    def fill(self, template: str, **slots: list[int]) -> list[int]:
        """The template's tokens with each slot's tokens in its place."""
        tokens: list[int] = []
        for piece, slot in self._pieces(template):
            tokens += piece
            if slot:
                tokens += slots[slot]
        return tokens

    def _split(self, template: str) -> list[tuple[list[int], str]]:
        parts = [*_SLOT.split(template), ""]
        return [(encode_text(self._tokenizer, text), slot) for text, slot in zip(parts[::2], parts[1::2], strict=True)]


def draw(templates: tuple[str, ...], rng: np.random.Generator) -> str:
    """One of some templates."""
    return templates[rng.integers(len(templates))]


def search_prompt(tokenizer: PreTrainedTokenizerBase, query: str) -> list[int]:
    """Tokens of a prompt whose continuation is the codes of the item that `query` describes."""
    before, after = SEARCH_PROMPT.split("{text}")
    return [token for piece in (before, " " + query, after) for token in encode_text(tokenizer, piece)]
