"""What a decoder calls its key-value cache: `cache` from transformers 5.24 on, `past_key_values` before.

    name = cache_argument(model, input_ids=torch.tensor([[0]]))
    model(input_ids=tokens, use_cache=True, **{name: cache})

Nothing is read off a signature, which proves neither: a decorator may translate an argument, and `**kwargs` may swallow
one. One forward of one token tells: the name is right under which the cache has been written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import DynamicCache

from genrec.semtok.errors import InputError

NAMES = ("cache", "past_key_values")  # the newer first: what still takes the older one warns of it


@torch.inference_mode()
def cache_argument(forward: Callable[..., Any], **inputs: torch.Tensor) -> str:
    """The name of the cache in `forward`, which is called with `inputs` of one token, all by keyword.

    Raises:
        InputError: it doesn't take these inputs, or writes to no cache that it is given.
    """
    said = ""
    for name in NAMES:
        cache = DynamicCache()
        try:
            forward(**inputs, use_cache=True, **{name: cache})
        except (TypeError, ValueError) as error:  # what models raise at an argument that they do not understand
            said = f" ({error})"
            continue
        if cache.get_seq_length() == 1:
            return name
    raise InputError(f"it fills no key-value cache that it is given{said}")
