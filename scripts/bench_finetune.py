"""What fine-tuning a decoder takes here: tokens a second, and memory beside what `memory_table.py` computes.

    python scripts/bench_finetune.py --data data/amazon18_scientific                     # Qwen3-0.6B-shaped, on a GPU
    python scripts/bench_finetune.py --data data/amazon18_scientific --base DIR --tokens 2048 --json FILE

The folder holds `items.jsonl` and `interactions.csv`. Every row of the table is a process of its own that trains real
histories through the whole of fine-tuning's step: codes, text rows, item input, dense head, and node vectors where
asked. `share` is of what the model's own products of matrices would allow: 6 operations a parameter and token (8 with
checkpointing, 4 for the frozen part of LoRA), over the speed of a large product in the same precision.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_decode import GPU_TEXT, device_name, make_model
from bench_training import read
from memory_table import SHAPES, memory

from genrec.semtok.device import default_device
from genrec.semtok.folders import to_json, write_atomic
from genrec.tasks.mixture import Tasks
from genrec.training.lm.build import LmInputs, build_lm
from genrec.training.lm.config import LmConfig
from genrec.training.lm.data import Example, collate, history_examples, response_example
from genrec.training.loop.batching import batches_by_length
from genrec.training.loop.schedule import adamw

COMPUTED = next(shape for shape in SHAPES if shape.name == "Qwen3-0.6B")


@dataclass(frozen=True)
class Way:
    """A row of the table."""

    lora_rank: int = 0
    checkpointing: bool = False
    node_vectors: bool = False


WAYS = (
    Way(),
    Way(checkpointing=True),
    Way(node_vectors=True),
    Way(lora_rank=16),
    Way(lora_rank=16, checkpointing=True),
)


def batches(inputs: LmInputs, config: LmConfig, built: Any) -> Iterator[Sequence[Example]]:
    """Batches of histories and text tasks, epoch after epoch."""
    codes, train = inputs.semantic_ids.codes, inputs.split.train
    parts = (inputs.catalog, codes, built.vocabulary, built.tokenizer, train, config.tasks)
    histories = history_examples(train, codes, built.vocabulary, config.max_items)
    tasks, rng = Tasks(*parts, max_items=config.max_items), np.random.default_rng(0)
    while True:
        texts = [response_example(*row) for row in tasks.rows(round(len(codes) * config.text_share), rng)]
        examples = histories + texts
        for group in batches_by_length(np.array([len(e) for e in examples]), config.batch_tokens, rng):
            yield [examples[i] for i in group]


def measure(data: Path, base: str, way: Way, tokens: int, steps: int, answer: SimpleQueue[dict[str, float]]) -> None:
    """Train some steps as `genrec.training.lm.fit` does, and answer with what was seen."""
    device = default_device()
    inputs = read(data)
    config = LmConfig(
        base=base,
        lora_rank=way.lora_rank,
        gradient_checkpointing=way.checkpointing,
        node_vectors=way.node_vectors,
        batch_tokens=tokens,
    )
    built = build_lm(inputs, config)
    model = built.model.to(device).train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = adamw((trained, 1e-4), weight_decay=0.01)
    done, started, padded = 0, 0.0, 0
    for number, examples in enumerate(batches(inputs, config, built)):
        if number == steps // 4:  # what came before warms up
            _wait(device)
            started, done, padded = time.perf_counter(), 0, 0
        if number == steps:
            break
        rows = collate(examples).to(device)
        with torch.autocast(device.type, torch.bfloat16):
            losses = model(rows)
        loss = losses.codes + losses.items + losses.text
        (loss / max(1, losses.n_items)).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        done, padded = done + sum(map(len, examples)), padded + rows.input_ids.numel()
    _wait(device)
    seconds = time.perf_counter() - started
    whole, ours = sum(p.numel() for p in built.model.lm.parameters()), sum(p.numel() for p in trained)
    passes = (6 if not way.lora_rank else 4) + (2 if way.checkpointing else 0)
    answer.put(
        {
            "tokens_per_second": done / seconds,
            "step_ms": seconds / (steps - steps // 4) * 1e3,
            "padding": 1 - done / padded,
            "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else 0.0,
            "flops": passes * whole * padded / seconds,
            "parameters": whole,
            "trained": ours,
        }
    )


def in_a_process(data: Path, base: str, way: Way, tokens: int, steps: int) -> dict[str, float] | None:
    """What `measure` saw, in a process of its own; None where it failed."""
    context = get_context("spawn")
    answer: SimpleQueue[dict[str, float]] = context.SimpleQueue()
    worker = context.Process(target=measure, args=(data, base, way, tokens, steps, answer))
    worker.start()
    worker.join()
    return None if worker.exitcode else answer.get()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def product_speed(device: torch.device, n: int) -> float:
    """Operations a second of a bfloat16 product of n x n matrices."""
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    for repeat in range(12):
        if repeat == 2:
            _wait(device)
            started = time.perf_counter()
        a @ b
    _wait(device)
    return 10 * 2 * n**3 / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with items.jsonl and interactions.csv")
    parser.add_argument("--base", help="a model folder; by default one of random weights in the shape of Qwen3-0.6B")
    parser.add_argument("--tokens", type=int, default=8192, help="padded tokens of a batch")
    parser.add_argument("--steps", type=int, default=40, help="of which the first quarter warms up")
    parser.add_argument("--json", type=Path, help="write figures and conditions here")
    options = parser.parse_args()
    if options.steps < 4:
        parser.error("--steps must be at least 4")
    device = default_device()
    table: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        base = options.base
        if base is None:
            base = f"{scratch}/base"
            make_model(Path(base), GPU_TEXT, "cuda")
        peak = product_speed(device, 8192 if device.type == "cuda" else 512)
        print(f"{device_name(device.type)}: {peak / 1e12:,.1f} TFLOP/s in a large product")
        for way in WAYS:
            seen = in_a_process(options.data, base, way, options.tokens, options.steps)
            if seen is None:
                print(f"{way}: failed", file=sys.stderr)
                continue
            computed = memory(COMPUTED, tokens=options.tokens, lora_rank=way.lora_rank, checkpointing=way.checkpointing)
            row = asdict(way) | seen | {"share_of_product": seen["flops"] / peak}
            row["computed_gb"] = computed.total / 1e9 if options.base is None else None
            table.append(row)
            print(
                ", ".join(
                    f"{name} {value:,.3f}" if isinstance(value, float) else f"{name} {value}"
                    for name, value in row.items()
                ),
                flush=True,
            )
    if options.json:
        conditions = {"device": device_name(device.type), "torch": torch.__version__, "product_tflops": peak / 1e12}
        conditions |= {"tokens": options.tokens, "steps": options.steps, "base": options.base or COMPUTED.name}
        write_atomic(options.json, to_json({"rows": table, "conditions": conditions}))


if __name__ == "__main__":
    main()
