"""The language model before fine-tuning: a base by path or id, or a small one from scratch, and the first rows of its
SID tokens.

Shapes: H hidden width, V_l codes on level l, W width of the codebooks, R = 1 + sum V_l.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from semtok.errors import InputError

END = "<|end|>"
MAX_POSITIONS = 4096


def scratch_tokenizer(texts: Sequence[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on the catalogue's text: any text can be spelled, `<|end|>` ends and pads."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)


def scratch_model(
    tokenizer: PreTrainedTokenizerBase, *, width: int, layers: int, heads: int, seed: int
) -> PreTrainedModel:
    """A small Qwen3-shaped decoder with random weights and tied embeddings."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=width // heads,
        intermediate_size=2 * width,
        tie_word_embeddings=True,
        max_position_embeddings=MAX_POSITIONS,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    return Qwen3ForCausalLM(config)


def load_base(base: str, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A Hugging Face causal LM and its tokenizer, by folder or hub id.

    Raises:
        InputError: neither a folder with a model nor an id that can be had from here.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(base)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    except (OSError, ValueError) as error:
        where = "not a model folder" if Path(base).exists() else "no such folder, and not to be had as a hub id"
        raise InputError(f"--lm.base {base}: {where} ({str(error).splitlines()[0]})") from None
    if not tokenizer.is_fast:
        raise InputError(f"--lm.base {base}: needs a fast tokenizer (tokenizer.json)")
    return model, tokenizer


def plain_generation_config(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Drop every sampling default that the base brings: they would silently turn a beam search into sampling."""
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        do_sample=False,
    )


def initial_rows(words: Tensor, codebooks: Sequence[NDArray[np.float32]], seed: int) -> Tensor:
    """First embeddings of the SID tokens [R, H]: E_new = mean(E) + s P c (Semantic Convergence, stage 1, as we read
    it).

    P is a random map with orthogonal rows or columns, so that codes that are near in the codebook are near in the LM; s
    gives the new rows the spread of the old ones. The history token starts at the mean.

    Args:
        words: the LM's embedding matrix [., H].
        codebooks: [V_l, W] a level.
    """
    words = words.detach().float()
    mean, spread = words.mean(0), words.std(0).mean()
    generator = torch.Generator().manual_seed(seed)
    rows = [mean[None]]
    for codebook in codebooks:
        vectors = torch.as_tensor(codebook, dtype=torch.float32)
        projection = torch.empty(vectors.shape[1], words.shape[1])
        torch.nn.init.orthogonal_(projection, generator=generator)
        mapped = (vectors - vectors.mean(0)) @ projection
        rows.append(mean + mapped * (spread / mapped.std().clamp(min=1e-8)))
    return torch.cat(rows)
