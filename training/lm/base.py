"""The language model before fine-tuning: a base by path or id, or a small one from scratch."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from genrec.semtok import smollm2
from genrec.semtok.pretrained import open_folder
from genrec.semtok.smollm2 import smollm2_folder

END = "<|end|>"
MAX_POSITIONS = 4096
# The trainer's time grows with the square of a word: what is longer than this teaches it nothing about words.
_LONG = re.compile(r"(\S{256})\S+|(\s{256})\s+")


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
    tokenizer.train_from_iterator((_LONG.sub(r"\1\2", text) for text in texts), trainer)
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
    """A Hugging Face causal LM and its tokenizer, by folder or hub id; `smollm2` is that of an installed package.

    Raises:
        InputError: neither a folder with a model nor an id that can be had from here.
    """
    asked = f"--lm.base {base}"
    folder = open_folder(smollm2_folder(asked) if base == smollm2.NAME else base, asked)
    return folder.model("causal", dtype), folder.tokenizer()


def plain_generation_config(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Drop every sampling default that the base brings: they would silently turn a beam search into sampling."""
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        do_sample=False,
    )
