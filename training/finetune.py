"""Fine-tunes a causal language model on histories as semantic IDs and on tasks that tie codes to words.

Every item of every history is a target, for the codes' softmax and for the dense item head on the same hidden state.
The epoch with the best validation recall wins. The result opens in transformers and vLLM as it is. `genrec fit` calls
`fit_lm`; the stage alone, on many processes:

    accelerate launch -m genrec.training.finetune --config runs/mine/config.yaml

Shapes: N items, L levels, W width of the item vectors.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import DistributedType, broadcast_object_list
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from genrec.data.splits import Split
from genrec.decoding.item_input import ItemInput, SpelledItems
from genrec.decoding.torch_scorer import TorchScorer
from genrec.decoding.trie import CodeTrie
from genrec.decoding.vocabulary import SidVocabulary
from genrec.ranking.dense_head import DenseHead
from genrec.semtok.catalog import Catalog
from genrec.semtok.errors import InputError
from genrec.semtok.folders import to_json, write_atomic
from genrec.semtok.semantic_ids import SemanticIds
from genrec.semtok.vectors import ItemVectors
from genrec.sequential import SequentialModel
from genrec.tasks import Tasks
from genrec.training.lm.base import load_base, plain_generation_config, scratch_model, scratch_tokenizer
from genrec.training.lm.config import SCRATCH, LmConfig
from genrec.training.lm.data import Example, collate, history_examples, response_example
from genrec.training.lm.joint_model import JointModel, Losses
from genrec.training.lm.sid_embeddings import aligned_rows, codebook_rows, item_words, random_rows
from genrec.training.lm.teacher import Teacher
from genrec.training.lm.zero import prepare_zero
from genrec.training.loop.batching import batches
from genrec.training.loop.checkpoint import load_checkpoint, save_checkpoint, whole_state, write_tensors
from genrec.training.loop.schedule import learning_rate_factor

Log = Callable[[Mapping[str, Any]], None]
PAD = 0  # never attended to, never a target: any id will do


@dataclass(frozen=True)
class LmInputs:
    """What the stage reads of the stages before it.

    Attributes:
        catalog: N items.
        semantic_ids: codes [N, L].
        codebooks: [V_l, W] for each level of the quantiser, from which the SID rows start.
        item_vectors: [N, W], what was quantised; content of the dense head, and of items at the input.
        split: histories to train on and cases to choose the epoch on.
        identity: [N, dense_width] first identity vectors of the dense head (collaborative vectors), or None for small
            random ones.
        exclude_seen: validate without the items of the history.
        sequential: the recommender of the run's aligner, where it has one: the teacher, and a part of the fusion.
    """

    catalog: Catalog
    semantic_ids: SemanticIds
    codebooks: Sequence[NDArray[np.float32]]
    item_vectors: ItemVectors
    split: Split
    identity: NDArray[np.float32] | None
    exclude_seen: bool = True
    sequential: SequentialModel | None = None


@dataclass(frozen=True)
class Built:
    """What is trained, and what it takes to read it: the adapter is None unless the run uses LoRA."""

    model: JointModel
    tokenizer: PreTrainedTokenizerBase
    vocabulary: SidVocabulary
    adapter: PeftModel | None

    def scorer(self) -> TorchScorer:
        """Constrained decoding by the weights of this moment."""
        model = self.model
        return TorchScorer(model.export(), self.vocabulary, score_space=model.score_space, item_input=model.item_input)


def build(inputs: LmInputs, config: LmConfig) -> Built:
    """The untrained model, its tokenizer with the SID tokens, and their vocabulary."""
    sizes = inputs.semantic_ids.sizes
    lm: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    if config.base == SCRATCH:
        tokenizer = scratch_tokenizer(inputs.catalog.texts(), config.text_vocabulary)
        lm = scratch_model(tokenizer, width=config.width, layers=config.layers, heads=config.heads, seed=config.seed)
    else:
        lm, tokenizer = load_base(config.base, torch.float32)
    torch.manual_seed(config.seed)
    vocabulary = SidVocabulary.added_to(tokenizer, sizes)
    plain_generation_config(lm, tokenizer)
    rows = first_rows(lm.get_input_embeddings().weight, tokenizer, inputs, config)
    n_tokens = vocabulary.history_token + len(rows)
    if lm.get_input_embeddings().weight.shape[0] < n_tokens:
        lm.resize_token_embeddings(n_tokens, mean_resizing=False)
    adapter = None
    if config.lora_rank:
        lora = LoraConfig(
            r=config.lora_rank, lora_alpha=2 * config.lora_rank, target_modules="all-linear", task_type="CAUSAL_LM"
        )
        adapter = get_peft_model(lm, lora)
    if config.gradient_checkpointing:
        lm.gradient_checkpointing_enable({"use_reentrant": False})
    seen = np.zeros(len(inputs.catalog), dtype=bool)
    seen[inputs.split.train.values] = True
    head = DenseHead(
        rows.shape[1],
        config.dense_width,
        torch.from_numpy(inputs.semantic_ids.codes),
        sizes,
        torch.from_numpy(inputs.item_vectors.values),
        torch.from_numpy(seen),
        config.identity_dropout,
    )
    if inputs.identity is not None and inputs.identity.shape[1] == config.dense_width:
        with torch.no_grad():
            head.identity.copy_(torch.from_numpy(inputs.identity))
    item_input = None
    if config.item_input:
        spread = float(rows.std()) * float(getattr(lm.get_input_embeddings(), "embed_scale", 1.0))
        item_input = ItemInput(SpelledItems(vocabulary, inputs.semantic_ids.codes), head.content, rows.shape[1], spread)
    model = JointModel(
        lm,
        head,
        vocabulary,
        rows,
        item_input=item_input,
        score_space=config.score_space,
        dropout=config.dropout,
        train_head=config.dense_weight > 0,
    )
    return Built(model, tokenizer, vocabulary, adapter)


def first_rows(embeddings: Tensor, tokenizer: PreTrainedTokenizerBase, inputs: LmInputs, config: LmConfig) -> Tensor:
    """The SID rows [R, H] that fine-tuning starts from."""
    codebooks, codes, sizes = inputs.codebooks, inputs.semantic_ids.codes, inputs.semantic_ids.sizes
    if config.sid_init == "random":
        return random_rows(embeddings, sizes, config.seed)
    if config.sid_init == "codebook":
        return codebook_rows(embeddings, codebooks, sizes, config.seed)
    words = item_words(embeddings, tokenizer, inputs.catalog.texts())
    return aligned_rows(embeddings, codebooks, codes, words, sizes, config.seed)


Validate = Callable[[Built], Mapping[str, float]]


def fit_lm(
    inputs: LmInputs,
    config: LmConfig,
    workdir: Path,
    log: Log,
    validate: Validate,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    stop_after: int | None = None,
) -> Built | None:
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
    built = build(inputs, config)
    model = build(inputs, config).model if sharded else built.model
    new = [*model.head.parameters(), *(() if model.item_input is None else model.item_input.parameters())]
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


def save_lm(built: Built, folder: Path, facts: Mapping[str, Any]) -> None:
    """Write a folder that `transformers` and vLLM open as it is (adapters merged); head and item input go below it.

    Args:
        facts: written to `genrec.json`: score space, ranking, what else a reader of the run needs.
    """
    if built.adapter is not None:
        built.adapter.merge_and_unload()
    built.model.export().save_pretrained(folder)
    built.tokenizer.save_pretrained(folder)
    built.vocabulary.save(folder)
    write_atomic(folder / "genrec.json", to_json(dict(facts)))
    (folder / "heads").mkdir(exist_ok=True)
    built.model.head.save(folder / "heads" / "dense.safetensors")
    if built.model.item_input is not None:
        built.model.item_input.save(folder / "heads")


def load_lm(folder: Path, inputs: LmInputs, config: LmConfig) -> Built:
    """What `save_lm` wrote, to be trained further; merged adapters stay merged, and new ones stand beside them.

    Args:
        config: that it was trained with.

    Raises:
        InputError: no model is there, or it was trained otherwise.
    """
    built = build(inputs, replace(config, base=str(folder), sid_init="random"))
    model = built.model
    here = slice(model.first, model.first + len(model.rows))
    with torch.no_grad():
        model.rows.copy_(model.lm.get_input_embeddings().weight[here])
        if model.output_rows is not None:
            model.output_rows.copy_(model.lm.get_output_embeddings().weight[here])
    model.head.load_state_dict(load_file(folder / "heads/dense.safetensors"))
    if model.item_input is not None:
        saved = ItemInput.load(folder / "heads", model.item_input.spelled, model.item_input.content)
        if saved is None:
            raise InputError(f"{folder}: trained without item vectors at its input")
        model.item_input.map.load_state_dict(saved.map.state_dict())
    model.eval()
    return built


def _teacher(built: Built, inputs: LmInputs, config: LmConfig, device: torch.device) -> Teacher | None:
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
    progress: Callable[[int, int], None],
) -> dict[str, float]:
    """One pass; returns mean losses. Randomness depends on (seed, epoch) alone, so a resumed epoch is the same."""
    model.train()
    lengths = np.array([len(example) for example in examples])
    groups = batches(lengths, config.batch_tokens, rng)
    world = accelerator.num_processes
    groups += groups[: -len(groups) % world]  # every process takes the same number of steps
    mine = groups[accelerator.process_index :: world]
    total = len(mine) * config.epochs
    codes = dense = text = 0.0
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
            weighted = losses.codes + config.dense_weight * losses.dense + losses.text
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
        n_items, n_text = n_items + losses.n_items, n_text + losses.n_text
        n_starts, padded = n_starts + int((batch.items >= 0).sum()), padded + batch.input_ids.numel()
        progress(step + 1, total)
    return {
        "code_loss": codes / max(1, n_items),
        "dense_loss": dense / max(1, n_starts),
        "text_loss": text / max(1, n_text),
        "padding_share": 1 - sum(int(lengths[group].sum()) for group in mine) / max(1, padded),
    }


if __name__ == "__main__":
    from genrec.training.lm.stage import main

    main()
