"""Supervised contrastive fine-tuning of a text encoder on an item table (LLMEmb, Liu et al. 2024, arXiv 2409.19925,
stage 1): two random views of an item's attributes shall be nearer to each other than to the views of other items.

    accelerate launch -m genrec.training.scft --config scft.yaml

with, for example,

    items: data/items.jsonl
    output: runs/scft
    encoder: minilm        # or hf:MODEL, hf-last:MODEL: any Hugging Face encoder or causal LM
    steps: 150

The output is a Hugging Face folder with the adapters merged, for `make_encoder("hf:runs/scft")` (`hf-last:` where the
last token is the vector; `scft.json` says which), and `vectors/text.safetensors`, the items' vectors. Under several
processes each contrasts a batch of its own.

Shapes: B items of a batch, T tokens of the longest view, D width.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np
import torch
import yaml
from accelerate import Accelerator, PartialState
from accelerate.utils import parse_flag_from_env
from torch import Tensor

from genrec.semtok.catalog import Catalog
from genrec.semtok.encoders.attribute_prompt import (
    Attribute,
    attribute_prompts,
    disjoint_views,
    item_attributes,
    random_view,
)
from genrec.semtok.encoders.hf import HFEncoder
from genrec.semtok.errors import InputError
from genrec.semtok.folders import check_replaceable, hash_file, new_folder, to_json, write_atomic
from genrec.semtok.vectors import ItemVectors
from genrec.training.encoder.view_encoder import LEAST_TEMPERATURE, Tunable, ViewEncoder, load_tunable
from genrec.training.loop.checkpoint import load_checkpoint, remove_work, save_checkpoint, whole_state
from genrec.training.loop.options import MOST_SEED, typed_options
from genrec.training.loop.schedule import learning_rate_factor

Log = Callable[[Mapping[str, Any]], None]
# The temperature is one number on a logarithmic scale: at the adapters' rate it would hardly move.
_TEMPERATURE_RATE = 1e-2


@dataclass(frozen=True)
class ScftConfig:
    """What is tuned, on what, and how.

    Attributes:
        items: the item table (see `Catalog.from_file`).
        output: folder for the tuned encoder.
        encoder: minilm, hf:MODEL (mean of the tokens) or hf-last:MODEL (last token).
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

    def __post_init__(self) -> None:
        for name in ("steps", "lora_rank", "max_tokens", "held_items", "save_every"):
            if getattr(self, name) < 1:
                raise InputError(f"--scft.{name} {getattr(self, name)}: must be at least 1")
        if self.batch < 2:
            raise InputError(f"--scft.batch {self.batch}: must be at least 2, or there is nothing to contrast")
        if not 0 < self.learning_rate < math.inf:
            raise InputError(f"--scft.learning_rate {self.learning_rate}: must be finite and above 0")
        if not LEAST_TEMPERATURE <= self.temperature < math.inf:
            raise InputError(f"--scft.temperature {self.temperature}: must be finite and at least {LEAST_TEMPERATURE}")
        for name in ("drop_rate", "lora_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"--scft.{name} {getattr(self, name)}: must lie in [0, 1)")
        if not 0 <= self.seed <= MOST_SEED:
            raise InputError(f"--scft.seed {self.seed}: must not be negative or above {MOST_SEED}")


def fit_scft(
    config: ScftConfig,
    log: Log = lambda row: None,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Tune the encoder and write `config.output`; under `accelerate launch` every process calls this.

    An interrupted fit goes on from its last checkpoint and ends with the bytes of an undisturbed one.

    Args:
        log: gets a row at every checkpoint: mean loss, temperature, and the share of held-out items of which one half
            of the attributes finds the other half among those of all held-out items.
        progress: told (steps done, steps at most).

    Raises:
        InputError: the table or the encoder cannot be read, there are too few items, or `config.output` holds
            something else.
    """
    target = Path(config.output)
    check_replaceable(target, lambda inputs: inputs.get("stage") == "scft", f"--scft.output {target}")
    # Unlike `Accelerator`, `PartialState` does not read by itself that the launcher asked for CPUs.
    main_process = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU")).is_main_process
    catalog = Catalog.from_file(Path(config.items))
    if len(catalog) < 3:
        raise InputError(f"{config.items}: {len(catalog)} items are too few to contrast")
    tuned = load_tunable(
        config.encoder,
        rank=config.lora_rank,
        dropout=config.lora_dropout,
        temperature=config.temperature,
        seed=config.seed,
    )
    inputs = {"stage": "scft", "config": asdict(config), "items": hash_file(Path(config.items))}
    with contextlib.ExitStack() as stack:
        scratch = target.with_name(f".{target.name}.new")
        if main_process:
            scratch = stack.enter_context(new_folder(target, inputs, resume=True))
            (scratch / "work").mkdir(exist_ok=True)
        PartialState().wait_for_everyone()
        rows = _train(tuned, item_attributes(catalog), config, scratch / "work", log, progress)
        if not main_process:
            return
        tuned.export(scratch)
        remove_work(scratch / "work")
        write_atomic(scratch / "training.json", to_json(rows))
        write_atomic(scratch / "scft.json", to_json({"encoder": config.encoder, "pooling": tuned.views.pooling}))
        encoder = HFEncoder(scratch, name="scft", pooling=tuned.views.pooling)
        vectors = ItemVectors(encoder.encode(attribute_prompts(catalog)), f"scft({config.encoder})")
        (scratch / "vectors").mkdir(exist_ok=True)
        vectors.save(scratch / "vectors/text.safetensors")


def _train(
    tuned: Tunable,
    items: Sequence[Sequence[Attribute]],
    config: ScftConfig,
    workdir: Path,
    log: Log,
    progress: Callable[[int, int], None],
) -> list[dict[str, Any]]:
    """Optimise the adapters; returns the log without times."""
    accelerator = Accelerator(mixed_precision=config.precision)
    model, adapters = tuned.views, tuned.adapters()
    groups = [
        {"params": adapters, "peak": config.learning_rate},
        {"params": [model.log_temperature], "peak": _TEMPERATURE_RATE},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=0.0)
    state = load_checkpoint(workdir, {"model": model}, optimizer) or {"step": 0, "rows": [], "losses": []}
    prepared, prepared_optimizer = accelerator.prepare(model, optimizer)
    shuffled = np.random.default_rng((config.seed, 0)).permutation(len(items))
    held, kept = np.split(shuffled, [min(config.held_items, max(1, len(items) // 10))])
    size = min(config.batch, len(kept) // accelerator.num_processes)
    if size < 2:
        raise InputError(f"{config.items}: {len(items)} items are too few for {accelerator.num_processes} processes")

    def measure(step: int) -> None:
        if not accelerator.is_main_process:
            return
        rng = np.random.default_rng((config.seed, 1))
        firsts, seconds = zip(*(disjoint_views(items[row], rng) for row in held), strict=True)
        found = _retrieval(model, tuned.tokens([*firsts, *seconds], config.max_tokens, accelerator.device))
        loss = float(np.mean(state["losses"])) if state["losses"] else None
        row = {"stage": "scft", "step": step, "loss": loss, "temperature": model.temperature.item(), "retrieval": found}
        state.update(step=step, losses=[], rows=[*state["rows"], row])
        log(row | {"seconds": perf_counter() - started})

    started = perf_counter()
    if not state["step"]:
        measure(0)
    for step in range(state["step"], config.steps):
        torch.manual_seed(config.seed * 100_003 + step)
        tuned.only_adapters_drop()
        rows = _batch_rows(kept, step, size, accelerator.process_index, accelerator.num_processes, config.seed)
        factor = learning_rate_factor(step, config.steps, max(1, config.steps // 10))
        for settings in prepared_optimizer.param_groups:
            settings["lr"] = settings["peak"] * factor
        rng = np.random.default_rng((config.seed, 2, step, accelerator.process_index))
        texts = [random_view(items[row], config.drop_rate, rng) for _ in range(2) for row in rows]
        loss = prepared(*tuned.tokens(texts, config.max_tokens, accelerator.device))
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(adapters, 1.0)
        prepared_optimizer.step()
        prepared_optimizer.zero_grad()
        state["losses"].append(loss.item())
        progress(step + 1, config.steps)
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            measure(step + 1)
            if accelerator.is_main_process:
                save_checkpoint(workdir, {"model": model}, whole_state(optimizer), state)
            accelerator.wait_for_everyone()
    result: list[dict[str, Any]] = state["rows"]
    return result


def _batch_rows(
    kept: np.ndarray[Any, np.dtype[np.int64]], step: int, size: int, process: int, processes: int, seed: int
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The items of one process in one step: every item once an epoch, as far as whole batches reach."""
    epoch, place = divmod(step, len(kept) // (size * processes))
    order = np.random.default_rng((seed, 3, epoch)).permutation(kept)
    start = (place * processes + process) * size
    return order[start : start + size]


@torch.no_grad()
def _retrieval(model: ViewEncoder, views: tuple[Tensor, Tensor]) -> float:
    """Share of items whose second view is the nearest of all second views to their first."""
    model.eval()
    parts = zip(*(part.split(64) for part in views), strict=True)
    first, second = torch.cat([model.encode(*part) for part in parts]).chunk(2)
    nearest = (first @ second.T).argmax(dim=1)
    return float((nearest == torch.arange(len(first), device=nearest.device)).float().mean())


def main() -> None:
    """`accelerate launch -m genrec.training.scft --config FILE`."""
    parser = argparse.ArgumentParser(prog="genrec.training.scft", description="Tune a text encoder on an item table.")
    parser.add_argument("--config", type=Path, required=True, help="YAML with the fields of ScftConfig")
    path: Path = parser.parse_args().config
    try:
        config = read_config(path)

        def log(row: Mapping[str, Any]) -> None:
            if PartialState().is_main_process:
                sys.stderr.write(json.dumps(dict(row)) + "\n")

        fit_scft(config, log)
        PartialState().wait_for_everyone()
        if PartialState().num_processes > 1:
            os._exit(0)  # gloo's threads can keep an interpreter from ending; everything is written
    except InputError as error:
        sys.exit(f"genrec.training.scft: {error}")


def read_config(path: Path) -> ScftConfig:
    """Read a configuration; raises InputError where it is missing, no YAML mapping, or has a wrong field."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not a configuration of this stage ({' '.join(str(error).split())})") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: not a configuration of this stage (no fields by name)")
    return ScftConfig(**typed_options(ScftConfig, value, f"{path}: not a configuration of this stage"))


if __name__ == "__main__":
    main()
