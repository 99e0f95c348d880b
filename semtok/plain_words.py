"""Text that people wrote, so spelled that no tokenizer finds a control token in it.

`split_special_tokens=True` keeps special tokens out of a text, but base models add some control tokens as ordinary
ones (Qwen 3's `<think>` and `<tool_call>`): those are broken up before the text is tokenised.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def plain_words(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """The text with a space inside whatever spells a token that was added to the vocabulary as no special one."""
    added = _added(tokenizer, len(tokenizer))
    return text if added is None else added.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)


@lru_cache(maxsize=16)
def _added(tokenizer: PreTrainedTokenizerBase, size: int) -> re.Pattern[str] | None:
    """Finds the tokens, or None where there are none; `size` tells a tokenizer from itself before it grew."""
    names = [
        token.content
        for token in tokenizer.added_tokens_decoder.values()
        if not token.special and len(token.content.strip()) > 1  # runs of spaces are no control tokens
    ]
    names.sort(key=len, reverse=True)
    return re.compile("|".join(map(re.escape, names)), re.IGNORECASE) if names else None
