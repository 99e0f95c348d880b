"""Small random models of the families that the torch scorer reads."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

N_TOKENS = 120
BASE: dict[str, Any] = {
    "vocab_size": N_TOKENS,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": 0,
}
GPT2: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "vocab_size": N_TOKENS}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": BASE,
    "qwen2": BASE,
    "qwen3": BASE | {"tie_word_embeddings": True},
    "mistral": BASE | {"sliding_window": None},
    "gemma": BASE,
    "gemma2": BASE | {"sliding_window": 64, "final_logit_softcapping": 2.0},
    "gemma3_text": BASE | {"sliding_window": 64},
    "gpt2": GPT2 | {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0},
    "cohere": BASE | {"logit_scale": 0.5},
    "granite": BASE | {"logits_scaling": 3.0},
}


def make_model(family: str, **changes: Any) -> PreTrainedModel:
    """A random model whose scores depend strongly on every token that it reads."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **(FAMILIES[family] | changes)))
    with torch.no_grad():
        for weights in model.parameters():
            if weights.ndim > 1:
                weights.normal_(0, 0.25)
    return model.eval()
