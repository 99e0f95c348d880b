"""`SidVocabulary`: the tokens of a language model that spell semantic IDs.

Code 12 of the first level is the special token `<a_12>`, of the second `<b_12>`, and so on; `<history>` opens every
history. Special tokens are never produced by tokenising text that a person typed (`encode_text`).

Shapes: L levels, V_l codes on level l, n items of a history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from genrec.semtok.errors import InputError
from genrec.semtok.folders import read_json, to_json, write_atomic
from genrec.semtok.plain_words import plain_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HISTORY_TOKEN = "<history>"
FILE = "sid_vocabulary.json"


def spell(level: int, code: int) -> str:
    """The token of a code.

    >>> spell(0, 12) + spell(1, 3)
    '<a_12><b_3>'
    """
    return f"<{chr(ord('a') + level)}_{code}>"


@dataclass(frozen=True)
class SidVocabulary:
    """(level, code) to LM token id and back.

    Attributes:
        token_ids: one int64 array [V_l] a level: code to token id.
        history_token: id of the token that opens a history.
    """

    token_ids: tuple[NDArray[np.int64], ...]
    history_token: int

    def __post_init__(self) -> None:
        every = np.concatenate([*self.token_ids, [self.history_token]])
        if len(np.unique(every)) != len(every):
            raise ValueError("two codes share one token id")

    @classmethod
    def added_to(cls, tokenizer: PreTrainedTokenizerBase, sizes: Sequence[int]) -> SidVocabulary:
        """Add the tokens of `sizes[l]` codes a level to a tokenizer, which keeps those it has, and return their ids."""
        if len(sizes) > 26:
            raise InputError(f"{len(sizes)} levels: the spelling of codes has letters for 26")
        names = [spell(level, code) for level, size in enumerate(sizes) for code in range(size)]
        tokenizer.add_special_tokens({"additional_special_tokens": [HISTORY_TOKEN, *names]}, False)
        ids = np.asarray(tokenizer.convert_tokens_to_ids(names), dtype=np.int64)
        bounds = np.cumsum(sizes)[:-1]
        return cls(tuple(np.split(ids, bounds)), int(tokenizer.convert_tokens_to_ids(HISTORY_TOKEN)))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Codes on each level."""
        return tuple(len(ids) for ids in self.token_ids)

    @cached_property
    def _codes_by_token(self) -> dict[int, tuple[int, int]]:
        return {int(token): (level, code) for level, ids in enumerate(self.token_ids) for code, token in enumerate(ids)}

    def encode(self, codes: NDArray[np.int32]) -> NDArray[np.int64]:
        """Codes [..., L] to token ids of the same shape; raises IndexError for a code outside its level."""
        return np.stack([ids[codes[..., level]] for level, ids in enumerate(self.token_ids)], axis=-1)

    def decode(self, token_id: int) -> tuple[int, int] | None:
        """(level, code) of a token, or None for a token that is no code."""
        return self._codes_by_token.get(token_id)

    def prompt(self, codes: NDArray[np.int32]) -> list[int]:
        """The canonical prompt of a history [n, L]: the history token, then each item's codes, oldest first."""
        return [self.history_token, *self.encode(codes).ravel().tolist()]

    def save(self, folder: Path) -> None:
        """Write `sid_vocabulary.json`."""
        value = {"token_ids": [ids.tolist() for ids in self.token_ids], "history_token": self.history_token}
        write_atomic(folder / FILE, to_json(value))

    @classmethod
    def load(cls, folder: Path) -> SidVocabulary:
        """Read what `save` wrote; raises InputError where it is missing or foreign."""
        value = read_json(folder / FILE)
        levels = value.get("token_ids") if isinstance(value, dict) else None
        if not isinstance(levels, list) or not levels or not all(isinstance(ids, list) and ids for ids in levels):
            raise InputError(f"{folder / FILE}: not a SID vocabulary (no token ids of levels)")
        tokens = [*(token for ids in levels for token in ids), value.get("history_token")]
        if not all(type(token) is int and 0 <= token < 2**31 for token in tokens):
            raise InputError(f"{folder / FILE}: not a SID vocabulary (a token id is no number)")
        try:
            return cls(tuple(np.asarray(ids, dtype=np.int64) for ids in levels), value["history_token"])
        except ValueError as error:
            raise InputError(f"{folder / FILE}: {error}") from None

    def check_spelling(self, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
        """Raise InputError, beginning with `name`, where a tokenizer spells codes otherwise: it is another run's."""
        for level, ids in enumerate(self.token_ids):
            spelled = tokenizer.convert_ids_to_tokens(ids.tolist())
            wrong = next((code for code, one in enumerate(spelled) if one != spell(level, code)), None)
            if wrong is not None:
                raise InputError(f"{name}: its tokenizer has {spelled[wrong]!r} for {spell(level, wrong)}")
        if tokenizer.convert_ids_to_tokens(self.history_token) != HISTORY_TOKEN:
            raise InputError(f"{name}: its tokenizer has no {HISTORY_TOKEN} where the vocabulary has it")


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of free text in which no control token can appear, whatever the text spells."""
    text = plain_words(tokenizer, text)
    return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
