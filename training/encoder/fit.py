"""Supervised contrastive fine-tuning of a text encoder on an item table (LLMEmb, Liu et al. 2024, arXiv 2409.19925,
stage 1): two random views of an item's attributes shall be nearer to each other than to the views of other items.

Shapes: B items of a batch, T tokens of the longest view, D width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from torch import Tensor

from genrec.semtok.catalog import Catalog
from genrec.semtok.encoders.attribute_prompt import Attribute, disjoint_views, item_attributes, random_view
from genrec.semtok.errors import InputError
from genrec.semtok.folders import check_replaceable, hash_file, new_folder, to_json, write_atomic
from genrec.training.encoder.config import ScftConfig
from genrec.training.encoder.view_encoder import Tunable, ViewEncoder, load_tunable
from genrec.training.loop.checkpoint import remove_work
from genrec.training.loop.epochs import FitContext, Log, Objective, Plan, Progress, Row, Steps, fit_epochs
from genrec.training.loop.schedule import adamw
from genrec.training.loop.weights import Launched, main_process

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
    check_replaceable(target, lambda inputs: inputs.get("stage") == "scft", f"output {target}")
    writes = main_process()  # asked before anything else asks for the process's device
    catalog = Catalog.from_file(Path(config.items), config.columns)
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
        if writes:
            scratch = stack.enter_context(new_folder(target, inputs, resume=True))
            (scratch / "work").mkdir(exist_ok=True)
        PartialState().wait_for_everyone()
        context = FitContext(scratch / "work", log, progress)
        if not _train(tuned, item_attributes(catalog), config, context):
            return
        tuned.export(scratch)
        (scratch / "work/training.json").rename(scratch / "training.json")
        remove_work(scratch / "work")
        write_atomic(scratch / "scft.json", to_json({"encoder": config.encoder, "pooling": tuned.views.pooling}))


def _train(tuned: Tunable, items: Sequence[Sequence[Attribute]], config: ScftConfig, context: FitContext) -> bool:
    """Optimise the adapters; returns whether this is the main process."""
    accelerator = Accelerator(mixed_precision=config.precision)
    optimizer = adamw((tuned.adapters(), config.learning_rate), ([tuned.views.log_temperature], _TEMPERATURE_RATE))
    weights = Launched(accelerator, tuned.views, optimizer, tuned.views, config.precision)
    plan = Plan(
        stage="scft",
        length=Steps(config.steps, config.save_every),
        seed=config.seed,
        diverged=f"the encoder's training diverged: lower --learning_rate {config.learning_rate:g}",
        from_start=True,
    )
    fit_epochs(_ViewContrast(tuned, items, config, weights), weights, plan, context)
    return weights.main


class _ViewContrast(Objective):
    """Two random views of each item, and retrieval of one half of a held-out item's attributes by the other."""

    def __init__(
        self, tuned: Tunable, items: Sequence[Sequence[Attribute]], config: ScftConfig, weights: Launched
    ) -> None:
        self._tuned, self._items, self._config, self._weights = tuned, items, config, weights
        self._device, self._processes = weights.accelerator.device, weights.accelerator.num_processes
        shuffled = np.random.default_rng((config.seed, 0)).permutation(len(items))
        self._held, self._kept = np.split(shuffled, [min(config.held_items, max(1, len(items) // 10))])
        self._size = min(config.batch, len(self._kept) // self._processes)
        if self._size < 2:
            raise InputError(f"{config.items}: {len(items)} items are too few for {self._processes} processes")

    def batches(self, epoch: int, rng: np.random.Generator) -> range:
        """Steps."""
        self._tuned.only_adapters_drop()
        return Steps(self._config.steps, self._config.save_every).numbers(epoch)

    def loss(self, batch: int, moment: float) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        """Of this process's items in one step."""
        process, seed = self._weights.accelerator.process_index, self._config.seed
        rows = _batch_rows(self._kept, batch, self._size, process, self._processes, seed)
        rng = np.random.default_rng((seed, 2, batch, process))
        texts = [random_view(self._items[row], self._config.drop_rate, rng) for _ in range(2) for row in rows]
        loss = self._weights.module(*self._tuned.tokens(texts, self._config.max_tokens, self._device))
        return loss, {"loss": loss, "steps": 1}

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        """The mean loss of a step."""
        return {"loss": sums["loss"] / sums["steps"]}

    def validate(self, rows: Sequence[Row]) -> Mapping[str, float]:
        """The temperature, and the share of held-out items whose halves find each other."""
        rng = np.random.default_rng((self._config.seed, 1))
        firsts, seconds = zip(*(disjoint_views(self._items[row], rng) for row in self._held), strict=True)
        views = self._tuned.tokens([*firsts, *seconds], self._config.max_tokens, self._device)
        model = self._tuned.views
        return {"temperature": model.temperature.item(), "retrieval": _retrieval(model, views)}


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
