"""Fine-tunes a causal language model on histories as semantic IDs and on tasks that tie codes to words.

Every item of every history is a target, for the codes' softmax and for the dense item head on the same hidden state.
The epoch with the best validation recall wins.

Shapes: N items, L levels.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor
from torch.optim import Optimizer

from genrec.decoding.item_input import SpelledItems
from genrec.decoding.trie import CodeTrie
from genrec.semtok.errors import InputError
from genrec.tasks.mixture import Tasks
from genrec.training.lm.build import LanguageModel, LmInputs, build_lm
from genrec.training.lm.config import SCRATCH, LmConfig
from genrec.training.lm.data import Example, collate, history_examples, response_example
from genrec.training.lm.joint_model import JointModel, Losses
from genrec.training.lm.teacher import Teacher
from genrec.training.loop.batching import batches_by_length
from genrec.training.loop.epochs import FitContext, Objective, Passes, Plan, Row, fit_epochs
from genrec.training.loop.schedule import adamw
from genrec.training.loop.weights import Launched

_log = logging.getLogger(__name__)

Validate = Callable[[LanguageModel], Mapping[str, float]]


def fit_lm(inputs: LmInputs, config: LmConfig, validate: Validate, context: FitContext) -> LanguageModel | None:
    """Fine-tune; under `accelerate launch` every process calls this.

    Args:
        validate: called on the main process after each epoch; its `selection` chooses the epoch.

    Returns:
        The model with the weights of the best epoch, in evaluation mode, on the main process; None on the others.

    Raises:
        InputError: the training diverged.
    """
    accelerator = Accelerator(
        mixed_precision=config.precision,
        gradient_accumulation_steps=config.gradient_accumulation,
        log_with=config.tracker,
        project_dir=context.workdir if config.tracker else None,
    )
    # What is validated, stored and returned has whole weights; a sharded model is trained beside it.
    lm = build_lm(inputs, config)
    sharded = accelerator.distributed_type == DistributedType.FSDP
    trained = build_lm(inputs, config).model if sharded else lm.model
    weights = Launched(accelerator, trained, _optimizer(trained, config), lm.model, config.precision)
    rates = f"{config.peak_learning_rate:g} and --lm.head_learning_rate {config.head_learning_rate:g}"
    plan = Plan(
        stage="lm",
        length=Passes(config.epochs),
        seed=config.seed,
        diverged=f"the language model's training diverged: lower --lm.learning_rate {rates}",
        selection="selection",
        patience=config.patience,
    )
    if config.tracker:
        _begin_tracking(accelerator, config)
        context = replace(context, log=_tracked(accelerator, context))
    fit_epochs(_FineTuning(lm, inputs, config, weights, validate), weights, plan, context)
    if not weights.main:
        return None
    if config.tracker:
        accelerator.end_training()
    return lm


def _optimizer(model: JointModel, config: LmConfig) -> Optimizer:
    """One rate for the base, whose warm-up may come first, and one for what is new to it."""
    parts = [part for part in (model.head, model.item_input, model.nodes) if part is not None]
    new = {id(parameter) for part in parts for parameter in part.parameters()}
    new |= {id(model.rows), id(model.output_rows)}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = adamw(
        ([p for p in trained if id(p) not in new], config.peak_learning_rate),
        ([p for p in trained if id(p) in new], config.head_learning_rate),
        weight_decay=config.weight_decay,
    )
    optimizer.param_groups[0]["begins"] = 0 if config.base == SCRATCH else config.warmup_steps
    return optimizer


def _begin_tracking(accelerator: Accelerator, config: LmConfig) -> None:
    """A run of the tracker, with the options of the training; where it stands is the tracker's own setting."""
    options = {name: value for name, value in asdict(config).items() if isinstance(value, str | int | float)}
    try:
        accelerator.init_trackers("genrec", config=options)
    except Exception as error:  # whatever a tracker raises: no server, no key, no place to write
        told = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"--lm.tracker {config.tracker}: cannot begin ({told})") from None


def _tracked(accelerator: Accelerator, context: FitContext) -> Callable[[Row], None]:
    """The log of the fit, and a tracker beside it; one that fails later costs its figures and not the training."""

    def log(row: Row) -> None:
        context.log(row)
        # MLflow takes no @ in a name
        figures = {name.replace("@", "_at_"): value for name, value in row.items() if name != "stage"}
        try:
            accelerator.log(figures, step=row["epoch"])
        except Exception as error:
            _log.warning("--lm.tracker %s: epoch %d is lost to it (%s)", accelerator.log_with, row["epoch"] + 1, error)

    return log


def _teacher(lm: LanguageModel, inputs: LmInputs, config: LmConfig, device: torch.device) -> Teacher | None:
    """The recommender of the run's aligner as a teacher, where the run has one and the configuration asks for it.

    Its probabilities are of all items, so where the dense head's softmax runs over a sample there is none.
    """
    if inputs.sequential is None or config.teacher_share == 0 or lm.model.probability is not None:
        return None
    ids = inputs.semantic_ids
    spelled, trie = SpelledItems(lm.vocabulary, ids.codes), CodeTrie(ids.codes, ids.sizes)
    seen = lm.model.seen_rows.cpu()
    return Teacher(inputs.sequential, spelled, trie, torch.from_numpy(ids.codes), seen, config.teacher_share).to(device)


class _FineTuning(Objective):
    """Histories and text tasks, a loss over codes, items and words, and real decoding as validation."""

    def __init__(
        self, lm: LanguageModel, inputs: LmInputs, config: LmConfig, weights: Launched, validate: Validate
    ) -> None:
        self._lm, self._config, self._weights, self._validate = lm, config, weights, validate
        self._device = weights.accelerator.device
        catalog, codes, train = inputs.catalog, inputs.semantic_ids.codes, inputs.split.train
        self._n_items, self._n_levels = codes.shape
        self._histories = history_examples(train, codes, lm.vocabulary, config.max_items)
        parts = (catalog, codes, lm.vocabulary, lm.tokenizer, train, config.tasks)
        self._tasks = Tasks(*parts, max_items=config.max_items)
        self._teacher = _teacher(lm, inputs, config, self._device)

    def batches(self, epoch: int, rng: np.random.Generator) -> Sequence[Sequence[Example]]:
        """Every process takes the same number of batches."""
        self._weights.module.train()
        texts = self._tasks.rows(round(self._n_items * self._config.text_share), rng)
        examples = self._histories + [response_example(*row) for row in texts]
        lengths = np.array([len(example) for example in examples])
        groups = batches_by_length(lengths, self._config.batch_tokens, rng)
        here, processes = self._weights.accelerator.process_index, self._weights.accelerator.num_processes
        groups += groups[: -len(groups) % processes]
        return [[examples[i] for i in group] for group in groups[here::processes]]

    def loss(self, batch: Sequence[Example], moment: float) -> tuple[Tensor, Mapping[str, Tensor | float]]:
        """A word weighs as much as a code: an item is its codes."""
        rows = collate(batch).to(self._device)
        losses: Losses = self._weights.module(rows, None if self._teacher is None else self._teacher(rows))
        weighted = losses.codes + losses.items + losses.text
        sums: dict[str, Tensor | float] = {
            "codes": losses.codes,
            "nodes": losses.nodes,
            "dense": losses.dense,
            "text": losses.text,
            "items": losses.n_items,
            "starts": (rows.items >= 0).sum(),
            "words": losses.n_text,
            "tokens": sum(len(example) for example in batch),
            "padded": rows.input_ids.numel(),
        }
        return weighted / max(1.0, losses.n_items + losses.n_text / self._n_levels), sums

    def figures(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Mean losses of a code's item, of an item and of a word."""
        return {
            "code_loss": sums["codes"] / max(1, sums["items"]),
            "node_loss": sums["nodes"] / max(1, sums["starts"]),
            "dense_loss": sums["dense"] / max(1, sums["starts"]),
            "text_loss": sums["text"] / max(1, sums["words"]),
            "padding_share": 1 - sums["tokens"] / max(1, sums["padded"]),
        }

    def validate(self, rows: Sequence[Row]) -> Mapping[str, Any]:
        """See `fit_lm`."""
        return self._validate(self._lm)
