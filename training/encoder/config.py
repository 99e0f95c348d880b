"""`ScftConfig`: what contrastive fine-tuning of a text encoder does, read from a YAML file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import yaml

from genrec.semtok import options as check
from genrec.semtok.columns import Columns
from genrec.semtok.errors import InputError, OptionError
from genrec.training.encoder.view_encoder import LEAST_TEMPERATURE
from genrec.training.loop.options import typed_options


@dataclass(frozen=True)
class ScftConfig:
    """What is tuned, on what, and how.

    Attributes:
        items: the item table (see `Catalog.from_file`).
        columns: what it calls its columns.
        output: folder for the tuned encoder.
        encoder: minilm or hf:MODEL (mean of the tokens), smollm2 or hf-last:MODEL (last token).
        steps: optimiser steps (4,000 in the paper).
        batch: B, a process (64 in the paper).
        learning_rate: peak of AdamW's.
        lora_rank: of the adapters on every linear layer; their scale is 4, as in the paper.
        lora_dropout: on the adapters' inputs; the model's own dropout is off.
        drop_rate: share of an item's attributes that a view leaves out.
        temperature: of the contrast at the start; it is learned.
        max_tokens: a view is cut to this length.
        held_items: items kept out of training, on which retrieval of views is measured; at most a tenth of the table.
        save_every: steps between checkpoints and measurements.
        precision: mixed precision of accelerate: no, bf16 or fp16.
        seed: of batches, views, adapters and dropout.
    """

    items: str
    output: str
    encoder: str = "minilm"
    steps: int = 150
    batch: int = 64
    learning_rate: float = 2e-4
    lora_rank: int = 8
    lora_dropout: float = 0.1
    drop_rate: float = 0.4
    temperature: float = 0.05
    max_tokens: int = 128
    held_items: int = 256
    save_every: int = 25
    precision: Literal["no", "bf16", "fp16"] = "no"
    seed: int = 0
    columns: Columns = field(default_factory=Columns)

    def __post_init__(self) -> None:
        check.path(self, "items", "output")
        check.at_least_one(self, "steps", "lora_rank", "max_tokens", "held_items", "save_every")
        if self.batch < 2:
            raise OptionError("batch", f"{self.batch} must be at least 2, or there is nothing to contrast")
        check.positive(self, "learning_rate")
        if not LEAST_TEMPERATURE <= self.temperature < math.inf:
            raise OptionError("temperature", f"{self.temperature} must be finite and at least {LEAST_TEMPERATURE}")
        check.below_one(self, "drop_rate", "lora_dropout")
        check.seed(self, "seed")


def read_config(path: Path, overrides: Mapping[str, str] | None = None) -> ScftConfig:
    """Read a configuration.

    Args:
        overrides: values of the command line, by field, which go before those of the file.

    Raises:
        InputError: the file is missing or no YAML mapping, or a field is wrong; named by file or flag.
    """
    overrides = overrides or {}
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not a configuration of this stage ({' '.join(str(error).split())})") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: not a configuration of this stage (no fields by name)")
    try:
        columns = value.pop("columns", None) or {}
        if not isinstance(columns, dict):
            raise OptionError("columns", f"{columns!r}: names by option, such as {{title: name}}")
        options = typed_options(ScftConfig, {**value, **overrides})
        return ScftConfig(**options, columns=_columns(columns))
    except InputError as error:
        if isinstance(error, OptionError) and error.field in overrides:
            raise error.as_flag() from None
        raise InputError(f"{path}: {error}") from None


def _columns(names: Mapping[str, str]) -> Columns:
    try:
        return Columns(**typed_options(Columns, names))
    except OptionError as error:
        raise error.within("columns") from None
