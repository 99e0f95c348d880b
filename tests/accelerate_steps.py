"""A few training steps of a small decoder, for `test_accelerate_configs`: run under `accelerate launch`.

    accelerate_steps.py OUT [--fsdp-on-cpu]

The first process writes the losses and the weights to OUT. Every process takes its share of one fixed batch, so that
any number of them must end at the same weights.

accelerate shards models on GPUs only: on the CPU it would quietly fall back to data parallelism. `--fsdp-on-cpu` tells
it that these processes are of the kind that shards, after which it runs FSDP2 as the configuration says, over gloo.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import DistributedType, PartialState
from safetensors.torch import save_file
from transformers import Qwen3Config, Qwen3ForCausalLM

BATCH, LENGTH, STEPS = 8, 12, 4


def main(out: Path, *, fsdp_on_cpu: bool) -> None:
    if fsdp_on_cpu:
        PartialState(cpu=True)
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
    )
    model = Qwen3ForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    tokens = torch.randint(50, (BATCH, LENGTH))
    accelerator = Accelerator()
    model, optimizer = accelerator.prepare(model, optimizer)
    mine = tokens[accelerator.process_index :: accelerator.num_processes].to(accelerator.device)
    losses = []
    for _ in range(STEPS):
        loss = model(input_ids=mine, labels=mine).loss
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(accelerator.reduce(loss.detach(), reduction="mean"))
    weights = {f"weights.{name}": tensor.clone() for name, tensor in accelerator.get_state_dict(model).items()}
    if accelerator.is_main_process:
        facts = {"losses": torch.stack(losses), "processes": torch.tensor(accelerator.num_processes)}
        notes = {"kind": accelerator.distributed_type.value, "backend": str(accelerator.state.backend)}
        notes["sharded"] = str(any(type(p).__name__ == "DTensor" for p in model.parameters()))
        save_file({**weights, **facts}, out, metadata=notes)
    accelerator.wait_for_everyone()
    os._exit(0)  # gloo's threads can keep an interpreter from ending; everything is written


if __name__ == "__main__":
    main(Path(sys.argv[1]), fsdp_on_cpu="--fsdp-on-cpu" in sys.argv)
