"""Decoders that take their cache under a name of our choice, as another release of transformers would have them."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from genrec.decoding.cache_argument import NAMES, cache_argument


def rename_cache(model: PreTrainedModel, module: torch.nn.Module, name: str, *, swallow: bool) -> None:
    """Let `module`, the model or its decoder, know its cache as `name`; the other is swallowed or a TypeError."""
    known = cache_argument(model, input_ids=torch.tensor([[0]]))
    forward = module.forward
    (other,) = set(NAMES) - {name}

    def renamed(*args: Any, **inputs: Any) -> Any:
        if inputs.pop(other, None) is not None and not swallow:
            raise TypeError(f"forward() got an unexpected keyword argument '{other}'")
        return forward(*args, **{known: inputs.pop(name, None)}, **inputs)

    module.forward = renamed
