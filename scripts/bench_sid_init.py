"""What the start of the SID rows and their warm-up save: steps of fine-tuning until a validation loss is reached.

    python scripts/bench_sid_init.py            # two bases, three seeds
    python scripts/bench_sid_init.py --quick    # the base that has read, one seed
    python scripts/bench_sid_init.py --json FILE

On the built-in sample shop, `lm.sid_init` random and aligned take turns, with all else the same. `scratch` is
a small language model with random words; `read` is the same after it has read the catalogue's texts, so that its words
mean something, as a pretrained model's do, and here each start also has its turn with `lm.warmup_steps` (an eighth of
all steps, in which nothing but the new rows and the heads is trained). The loss is that of the codes of validation
targets, after each epoch; the goal is the loss that the random start ends with, and steps between two epochs are
interpolated.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from genrec.cli.parsing import load_config
from genrec.cli.pipeline import data_stages, vector_stages
from genrec.data.sample_shop import make_sample_shop
from genrec.run import Run
from genrec.semtok.folders import to_json, write_atomic
from genrec.stages import bring_up_to_date
from genrec.training.lm.base import scratch_model, scratch_tokenizer
from genrec.training.lm.build import LanguageModel, LmInputs
from genrec.training.lm.config import LmConfig, SidInit
from genrec.training.lm.data import collate, response_example
from genrec.training.lm.fit import fit_lm
from genrec.training.lm.stage import lm_inputs
from genrec.training.loop.epochs import FitContext

SHOP = ["--sasrec.width=64", "--collaborative.epochs=8", "--aligner.name=fusion", "--fusion.width=64"]
WIDTH = 64
READING_EPOCHS = 6


def shop_inputs(folder: Path, users: int) -> LmInputs:
    """The stages before the language model, on a sample shop."""
    make_sample_shop(0, users=users).write(folder)
    data = f"data:\n  items: {folder / 'items.jsonl'}\n  interactions: {folder / 'interactions.csv'}\n"
    (folder / "config.yaml").write_text(f"{data}run: {folder / 'run'}\n")
    run = Run(folder / "run")
    with run.locked():
        config = load_config(folder / "config.yaml", SHOP)
        for stage in [*data_stages(config), *vector_stages(config)]:
            bring_up_to_date(run, stage)
    return lm_inputs(run)


def read_catalogue(texts: list[str], folder: Path) -> None:
    """A small model whose words mean something: trained to continue the texts, saved as a base."""
    tokenizer: PreTrainedTokenizerBase = scratch_tokenizer(texts, 1024)
    model: PreTrainedModel = scratch_model(tokenizer, width=WIDTH, layers=2, heads=2, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    ids = [torch.as_tensor(row) for row in tokenizer(texts)["input_ids"]]
    for _ in range(READING_EPOCHS):
        for rows in torch.randperm(len(ids), generator=generator).split(16):
            batch = torch.nn.utils.rnn.pad_sequence([ids[row] for row in rows], batch_first=True, padding_value=-100)
            loss = model(input_ids=batch.clamp(min=0), labels=batch, attention_mask=(batch >= 0).long()).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def validation_loss(inputs: LmInputs, built: LanguageModel) -> float:
    """Mean loss of the codes of the validation targets, summed over levels, in the run's score space."""
    codes, cases, total = inputs.semantic_ids.codes, inputs.split.valid, 0.0
    examples = [
        response_example(built.vocabulary.prompt(codes[history]), built.vocabulary.encode(codes[target]).tolist())
        for history, target in zip(cases.histories.last(20), cases.targets, strict=True)
    ]
    with torch.inference_mode():
        for start in range(0, len(examples), 64):
            total += built.model(collate(examples[start : start + 64])).codes.item()
    return total / len(examples)


def curve(inputs: LmInputs, config: LmConfig) -> tuple[list[float], float]:
    """The validation loss after each epoch, and steps an epoch."""
    losses: list[float] = []
    steps = 0

    def validate(built: LanguageModel) -> dict[str, float]:
        losses.append(validation_loss(inputs, built))
        return {"selection": float(np.exp(-losses[-1]))}

    def told(done: int, total: int) -> None:
        nonlocal steps
        steps = total

    with tempfile.TemporaryDirectory() as work:
        fit_lm(inputs, config, validate, FitContext(Path(work), progress=told))
    return losses, steps / config.epochs


def steps_to(losses: list[float], steps_an_epoch: float, goal: float) -> float:
    """Steps until the goal is reached, between epochs by a straight line; beyond the last epoch there is none."""
    for epoch, loss in enumerate(losses):
        if loss <= goal:
            if epoch == 0:
                return steps_an_epoch
            before = losses[epoch - 1]
            return steps_an_epoch * (epoch + (before - goal) / (before - loss))
    return float("inf")


def measure(*, quick: bool) -> tuple[dict[str, float], dict[str, object]]:
    """Print the table; figures and conditions."""
    seeds, users, epochs, warmup = ((0,), 400, 6, 10) if quick else ((0, 1, 2), 1000, 8, 32)
    bases = ("read",) if quick else ("scratch", "read")
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        inputs = shop_inputs(Path(folder), users)
        read_catalogue(inputs.catalog.texts(), Path(folder) / "read")
        print(f"{'base':8} {'start':14} {'loss after 1':>13} {'after all':>10} {'steps to goal':>14}   (least to most)")
        for base in bases:
            starts: dict[str, dict[str, Any]] = {init: {"sid_init": init} for init in get_args(SidInit)}
            if base == "read":
                starts |= {f"{init}_warm": {"sid_init": init, "warmup_steps": warmup} for init in get_args(SidInit)}
            curves: dict[str, list[tuple[list[float], float]]] = {start: [] for start in starts}
            for seed in seeds:
                common = LmConfig(
                    width=WIDTH, text_vocabulary=1024, epochs=epochs, patience=epochs, dense_width=64, seed=seed,
                    learning_rate=1e-3, base="scratch" if base == "scratch" else str(Path(folder) / "read"),
                )  # fmt: skip
                for start, found in curves.items():
                    found.append(curve(inputs, replace(common, **starts[start])))
            goals = [losses[-1] for losses, _ in curves["random"]]
            for start, found in curves.items():
                needed = [steps_to(*one, goal) for one, goal in zip(found, goals, strict=True)]
                first, last = (statistics.mean(losses[at] for losses, _ in found) for at in (0, -1))
                middle = statistics.median(needed)
                spread = f"({min(needed):.0f} to {max(needed):.0f})"
                print(f"{base:8} {start:14} {first:13.3f} {last:10.3f} {middle:14.0f}   {spread}")
                figures |= {f"sid_init_{base}_{start}_steps": middle, f"sid_init_{base}_{start}_loss": last}
    cell = f"sample shop, {users} users, width {WIDTH}, {epochs} epochs"
    return figures, {"sid_init_cell": cell, "seeds": len(seeds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the base that has read, one seed")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    parser.add_argument("--json", type=Path, help="write figures and conditions here")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(options.threads)
    load = os.getloadavg()[0]
    figures, conditions = measure(quick=options.quick)
    conditions |= {"threads": options.threads, "cores": os.cpu_count(), "load_at_start": load}
    if options.json:
        write_atomic(options.json, to_json({"figures": figures, "conditions": conditions}))


if __name__ == "__main__":
    main()
