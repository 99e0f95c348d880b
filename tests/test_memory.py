"""The memory arithmetic against real decoders: parameters, adapters, and the tensors that a forward pass keeps."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
table = importlib.import_module("memory_table")
SHAPES, Shape, markdown, memory = table.SHAPES, table.Shape, table.markdown, table.memory

SMALL = Shape("small", 64, 3, 4, 2, 16, 160, 300, tied=True)


def decoder(shape: Any) -> PreTrainedModel:
    settings = {
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "intermediate_size": shape.intermediate,
        "tie_word_embeddings": shape.tied,
    }
    if shape.qkv_bias:
        return Qwen2ForCausalLM(Qwen2Config(**settings))
    return Qwen3ForCausalLM(Qwen3Config(**settings, head_dim=shape.head_width))


@pytest.mark.parametrize(
    "shape", [SMALL, replace(SMALL, tied=False), replace(SMALL, qkv_bias=True, head_norm=False)], ids=str
)
def test_parameters_are_those_of_the_model(shape: Any) -> None:
    assert shape.parameters == sum(p.numel() for p in decoder(shape).parameters())


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_the_shapes_of_the_table_have_the_size_of_their_names(shape: Any) -> None:
    with torch.device("meta"):
        assert shape.parameters == sum(p.numel() for p in decoder(shape).parameters())
    billions = float(shape.name.split("-")[1].removesuffix("B"))
    assert shape.parameters / 1e9 == pytest.approx(billions, rel=0.04)


def test_adapters_are_those_of_peft() -> None:
    config = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = get_peft_model(decoder(SMALL), config)
    assert SMALL.lora_parameters(8) == sum(p.numel() for p in adapted.parameters() if p.requires_grad)


def kept_bytes(shape: Any, tokens: int) -> int:
    """Bytes that one training forward in bf16 keeps for each token: tensors one side of which counts tokens."""
    model = decoder(shape).train()
    kept: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)  # held to the end, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        model.base_model(inputs_embeds=torch.randn(1, tokens, shape.hidden), use_cache=False)
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept if tokens in t.shape}
    return sum(storages.values())


def test_activations_are_near_what_a_forward_pass_keeps() -> None:
    wide = replace(SMALL, hidden=128, head_width=32, intermediate=384, layers=4)
    tokens = 1000  # no weight has this size
    estimate = tokens * wide.activations_per_token(checkpointing=False)
    assert estimate == pytest.approx(kept_bytes(wide, tokens), rel=0.25)


def test_sharding_divides_and_adapters_save() -> None:
    shape = SHAPES[-1]
    alone, sharded = memory(shape, tokens=8192), memory(shape, tokens=8192, devices=8)
    assert alone.weights + alone.gradients + alone.optimizer == 16 * shape.parameters
    assert sharded.gradients == alone.gradients / 8
    assert sharded.weights == alone.weights / 8 + 4 * shape.layer_parameters
    assert sharded.activations == alone.activations
    adapted = memory(shape, tokens=8192, lora_rank=16)
    assert adapted.optimizer < 0.01 * alone.optimizer
    saved = memory(shape, tokens=8192, checkpointing=True)
    assert saved.activations < 0.2 * alone.activations
    assert saved.total == saved.weights + saved.gradients + saved.optimizer + saved.activations


def test_the_table_has_a_row_for_every_way() -> None:
    lines = markdown(tokens=8192, lora_rank=16, devices=8).splitlines()
    assert len(lines) == 2 + len(SHAPES) * 2 * 2 * 2
    assert len({line.count("|") for line in lines}) == 1
