"""Fine-tunes a causal language model on histories as semantic IDs and on tasks that tie codes to words.

Every item of every history is a target, for the codes' softmax and for the dense item head on the same hidden state.
The epoch with the best validation recall wins.

Shapes: N items, L levels, W width of the item vectors.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import DistributedType, broadcast_object_list
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

from genrec.decoding.item_input import SpelledItems
from genrec.decoding.trie import CodeTrie
from genrec.semtok.errors import InputError
from genrec.semtok.folders import to_json, write_atomic
from genrec.tasks import Tasks
from genrec.training.lm.build import LanguageModel, LmInputs, build_lm
from genrec.training.lm.config import SCRATCH, LmConfig
from genrec.training.lm.data import PAD, Example, collate, history_examples, response_example
from genrec.training.lm.joint_model import JointModel, Losses
from genrec.training.lm.teacher import Teacher
from genrec.training.lm.zero import prepare_zero
from genrec.training.loop.batching import batches
from genrec.training.loop.checkpoint import load_checkpoint, save_checkpoint, whole_state, write_tensors
from genrec.training.loop.epochs import Log, Progress
from genrec.training.loop.schedule import learning_rate_factor

Validate = Callable[[LanguageModel], Mapping[str, float]]


def fit_lm(
    inputs: LmInputs,
    config: LmConfig,
    workdir: Path,
    log: Log,
    validate: Validate,
    *,
    progress: Progress = lambda done, total: None,
    stop_after: int | None = None,
) -> LanguageModel | None:
    """Fine-tune; under `accelerate launch` every process calls this.

    Args:
        workdir: holds the checkpoint of an interrupted fit, from which it goes on to the same weights; gets
            `training.json`, the log without times.
        log: gets one row an epoch.
        validate: called on the main process after each epoch; its `selection` chooses the epoch.
        progress: told (steps done, steps at most).
        stop_after: train exactly so many epochs of the schedule, validate none and keep the last (a refit).

    Returns:
        The model with the weights of the best epoch, in evaluation mode, on the main process; None on the others.

    Raises:
        InputError: the training diverged.
    """
    accelerator = Accelerator(
        mixed_precision=config.precision,
        gradient_accumulation_steps=config.gradient_accumulation,
        log_with=config.tracker,
        project_dir=workdir if config.tracker else None,
    )
    sharded = accelerator.distributed_type == DistributedType.FSDP
    if config.tracker:
        accelerator.init_trackers("genrec")
    # What is validated, stored and returned has whole weights; a sharded model is trained beside it.
    built = build_lm(inputs, config)
    model = build_lm(inputs, config).model if sharded else built.model
    parts = [part for part in (model.head, model.item_input, model.nodes) if part is not None]
    new = [p for part in parts for p in part.parameters()]
    vocabulary_rows = {id(p) for p in [model.rows, model.output_rows, *new] if p is not None}
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {
            "params": [p for p in trained if id(p) not in vocabulary_rows],
            "peak": config.peak_learning_rate,
            "begins": 0 if config.base == SCRATCH else config.warmup_steps,
        },
        {"params": [p for p in trained if id(p) in vocabulary_rows], "peak": config.head_learning_rate, "begins": 0},
    ]
    optimizer = torch.optim.AdamW(
        groups, lr=config.peak_learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay, fused=True
    )
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        prepared, prepared_optimizer = prepare_zero(accelerator, model, optimizer, config.precision)
    else:
        prepared, prepared_optimizer = accelerator.prepare(model, optimizer)
    start: dict[str, Any] = {"epoch": 0, "best": -1.0, "best_epoch": -1, "rows": []}
    state = load_checkpoint(workdir, {"model": built.model}, prepared_optimizer) or start
    if sharded:
        set_model_state_dict(prepared, built.model.state_dict(), options=StateDictOptions(full_state_dict=True))
        if accelerator.is_main_process:
            built.model.to(accelerator.device)
    histories = history_examples(inputs.split.train, inputs.semantic_ids.codes, built.vocabulary, config.max_items)
    tasks = Tasks(
        inputs.catalog,
        inputs.semantic_ids.codes,
        built.vocabulary,
        built.tokenizer,
        inputs.split.train,
        config.tasks,
        max_items=config.max_items,
    )
    teacher = _teacher(built, inputs, config, accelerator.device)
    for epoch in range(state["epoch"], stop_after or config.epochs):
        if stop_after is None and state["best_epoch"] >= 0 and epoch - state["best_epoch"] > config.patience:
            break
        started = perf_counter()
        torch.manual_seed(config.seed * 100_003 + epoch)
        rng = np.random.default_rng((config.seed, epoch))
        text_rows = tasks.rows(round(len(inputs.catalog) * config.text_share), rng)
        examples = histories + [response_example(*row) for row in text_rows]
        n_levels = len(inputs.semantic_ids.sizes)
        losses = _train_epoch(
            prepared, prepared_optimizer, accelerator, teacher, examples, n_levels, config, epoch, rng, progress
        )
        trained_at = perf_counter()
        optimizer_state = whole_state(prepared_optimizer, keep=accelerator.is_main_process)
        whole = accelerator.get_state_dict(prepared) if sharded else None
        if accelerator.is_main_process and whole is not None:
            built.model.load_state_dict(whole)
        diverged = not all(bool(weights.isfinite().all()) for weights in _weights(built.model).values())
        if broadcast_object_list([diverged])[0]:  # every process stops, or the others would wait for the main one
            rates = f"{config.peak_learning_rate:g} and --lm.head_learning_rate {config.head_learning_rate:g}"
            raise InputError(f"the language model's training diverged: lower --lm.learning_rate {rates}")
        if accelerator.is_main_process:
            built.model.eval()
            figures = dict(validate(built)) if stop_after is None else {}
            row = {"stage": "lm", "epoch": epoch, **losses, **figures}
            log(row | {"seconds": trained_at - started, "valid_seconds": perf_counter() - trained_at})
            state["rows"].append(row)
            if config.tracker:
                accelerator.log({**losses, **figures}, step=epoch)
            if stop_after is not None or figures["selection"] > state["best"]:
                write_tensors(workdir / f"best-{epoch}.safetensors", _weights(built.model))
                state |= {"best": figures.get("selection"), "best_epoch": epoch}
            state["epoch"] = epoch + 1
            save_checkpoint(workdir, {"model": built.model}, optimizer_state, state)
            for stale in workdir.glob("best-*.safetensors"):
                if stale.name != f"best-{state['best_epoch']}.safetensors":
                    stale.unlink()
        state = broadcast_object_list([state])[0]
    if not accelerator.is_main_process:
        return None
    write_atomic(workdir / "training.json", to_json(state["rows"]))
    best = load_file(workdir / f"best-{state['best_epoch']}.safetensors")
    with torch.no_grad():
        for name, value in _weights(built.model).items():
            value.copy_(best[name])
    if config.tracker:
        accelerator.end_training()
    built.model.eval()
    return built


def _teacher(built: LanguageModel, inputs: LmInputs, config: LmConfig, device: torch.device) -> Teacher | None:
    """The recommender of the run's aligner as a teacher, where the run has one and the configuration asks for it."""
    if inputs.sequential is None or config.teacher_share == 0:
        return None
    ids = inputs.semantic_ids
    spelled, trie = SpelledItems(built.vocabulary, ids.codes), CodeTrie(ids.codes, ids.sizes)
    seen = built.model.seen_rows.cpu()
    return Teacher(inputs.sequential, spelled, trie, torch.from_numpy(ids.codes), seen, config.teacher_share).to(device)


def _weights(model: JointModel) -> dict[str, Tensor]:
    """The tensors that training changes, by name, on the CPU side of the accelerator."""
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}


def _train_epoch(
    model: torch.nn.Module,
    optimizer: AcceleratedOptimizer,
    accelerator: Accelerator,
    teacher: Teacher | None,
    examples: Sequence[Example],
    n_levels: int,
    config: LmConfig,
    epoch: int,
    rng: np.random.Generator,
    progress: Progress,
) -> dict[str, float]:
    """One pass; returns mean losses. Randomness depends on (seed, epoch) alone, so a resumed epoch is the same."""
    model.train()
    lengths = np.array([len(example) for example in examples])
    groups = batches(lengths, config.batch_tokens, rng)
    world = accelerator.num_processes
    groups += groups[: -len(groups) % world]  # every process takes the same number of steps
    mine = groups[accelerator.process_index :: world]
    total = len(mine) * config.epochs
    codes = nodes = dense = text = 0.0
    n_items = n_starts = n_text = padded = 0
    for step, group in enumerate(mine, start=epoch * len(mine)):
        batch = collate([examples[i] for i in group], PAD).to(accelerator.device)
        for settings in optimizer.param_groups:
            steps, left = max(0, step - settings["begins"]), max(1, total - settings["begins"])
            factor = learning_rate_factor(steps, left, min(200, left // 20 + 1)) if step >= settings["begins"] else 0.0
            settings["lr"] = settings["peak"] * factor
        done = step + 1 - epoch * len(mine)
        # Counted within the epoch, whose last batch steps too: a checkpoint holds no gradients. Accelerate's own
        # `accumulate` counts on through the epochs.
        accelerator.sync_gradients = done % config.gradient_accumulation == 0 or done == len(mine)
        with contextlib.nullcontext() if accelerator.sync_gradients else accelerator.no_sync(model):
            losses: Losses = model(batch, None if teacher is None else teacher(batch))
            weighted = losses.codes + losses.nodes + config.dense_weight * losses.dense + losses.text
            # A word weighs as much as a code: an item is its codes.
            accelerator.backward(weighted / max(1.0, losses.n_items + losses.n_text / n_levels))
            for settings in optimizer.param_groups:
                if step < settings["begins"]:
                    for parameter in settings["params"]:
                        parameter.grad = None  # to AdamW it is not there: no step, no decay, no state
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        codes, dense, text = codes + losses.codes.item(), dense + losses.dense.item(), text + losses.text.item()
        nodes += losses.nodes.item()
        n_items, n_text = n_items + losses.n_items, n_text + losses.n_text
        n_starts, padded = n_starts + int((batch.items >= 0).sum()), padded + batch.input_ids.numel()
        progress(step + 1, total)
    return {
        "code_loss": codes / max(1, n_items),
        "node_loss": nodes / max(1, n_starts),
        "dense_loss": dense / max(1, n_starts),
        "text_loss": text / max(1, n_text),
        "padding_share": 1 - sum(int(lengths[group].sum()) for group in mine) / max(1, padded),
    }
