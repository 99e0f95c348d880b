"""Language-model tasks that tie codes to words (LC-Rec, Zheng et al. 2023; Semantic Convergence, Li et al. 2024, stage
2).

A prompt is a list of pieces: plain text, which is tokenised without special tokens whatever it spells, and codes, which
become the tokens of the SID vocabulary. A task gives a prompt and the response that the loss falls on.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from genrec.vocabulary import SidVocabulary, encode_text
from semtok.catalog import Catalog

TEXT_TO_CODES = ("Item: {text}\nCodes:", "Which item is this? {text}\nCodes:", "Find: {text}\nCodes:")
CODES_TO_TEXT = ("Codes: {codes}\nItem:", "What is {codes}?\nItem:", "Describe {codes}\nItem:")
SEARCH_PROMPT = TEXT_TO_CODES[2]


class Tasks:
    """Token rows of the text tasks for one catalogue, tokenizer and vocabulary.

    Args:
        catalog: supplies titles and attributes.
        codes: int32 [N, L].
        max_text_tokens: an item's words are cut to this many tokens.
    """

    def __init__(
        self,
        catalog: Catalog,
        codes: NDArray[np.int32],
        vocabulary: SidVocabulary,
        tokenizer: PreTrainedTokenizerBase,
        max_text_tokens: int = 48,
    ) -> None:
        self._tokenizer, self._code_tokens = tokenizer, vocabulary.encode(codes)
        self._texts = [encode_text(tokenizer, " " + text)[:max_text_tokens] for text in catalog.texts()]
        self._titles = [encode_text(tokenizer, " " + title)[:max_text_tokens] for title in catalog.titles]
        self._templates = {
            template: [encode_text(tokenizer, part) for part in template.replace("{codes}", "{text}").split("{text}")]
            for template in TEXT_TO_CODES + CODES_TO_TEXT
        }

    def text_to_codes(self, row: int, rng: np.random.Generator) -> tuple[list[int], list[int]]:
        """(prompt, response) from an item's words to its codes; half the time from its title alone."""
        before, after = self._templates[TEXT_TO_CODES[rng.integers(len(TEXT_TO_CODES))]]
        words = self._titles[row] if rng.random() < 0.5 else self._texts[row]
        return [*before, *words, *after], self._code_tokens[row].tolist()

    def codes_to_text(self, row: int, rng: np.random.Generator) -> tuple[list[int], list[int]]:
        """(prompt, response) from an item's codes to its title."""
        before, after = self._templates[CODES_TO_TEXT[rng.integers(len(CODES_TO_TEXT))]]
        end = [self._tokenizer.eos_token_id] if self._tokenizer.eos_token_id is not None else []
        return [*before, *self._code_tokens[row].tolist(), *after], [*self._titles[row], *end]


def search_prompt(tokenizer: PreTrainedTokenizerBase, query: str) -> list[int]:
    """Tokens of a prompt whose continuation is the codes of the item that `query` describes."""
    before, after = SEARCH_PROMPT.split("{text}")
    pieces: Sequence[str] = (before, " " + query, after)
    return [token for piece in pieces for token in encode_text(tokenizer, piece)]
