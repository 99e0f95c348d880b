"""Supervised contrastive fine-tuning of a text encoder on an item table (LLMEmb, Liu et al. 2024, arXiv 2409.19925,
stage 1): two random views of an item's attributes shall be nearer to each other than to the views of other items.

Shapes: B items of a batch, T tokens of the longest view, D width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
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
from genrec.training.encoder.config import ScftConfig
from genrec.training.encoder.view_encoder import Tunable, ViewEncoder, load_tunable
from genrec.training.loop.checkpoint import load_checkpoint, remove_work, save_checkpoint, whole_state
from genrec.training.loop.epochs import Log, Progress
from genrec.training.loop.schedule import learning_rate_factor

# The temperature is one number on a logarithmic scale: at the adapters' rate it would hardly move.
_TEMPERATURE_RATE = 1e-2


def fit_scft(
    config: ScftConfig,
    log: Log = lambda row: None,
    *,
    progress: Progress = lambda done, total: None,
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
    progress: Progress,
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
