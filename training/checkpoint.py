"""Checkpoints that resume to the same bytes: one safetensors file, replaced atomically, nothing pickled.

Weights, optimiser state and progress travel in one file, so a kill can never leave halves of two moments.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.optim import Optimizer

CHECKPOINT = "checkpoint.safetensors"


def save_checkpoint(
    folder: Path, modules: Mapping[str, nn.Module], optimizer: Optimizer, progress: Mapping[str, Any]
) -> None:
    """Write weights, optimiser state and `progress` (JSON-able) to `checkpoint.safetensors`.

    Only parameters that train and buffers are stored: what is frozen comes from its own source again.
    """
    tensors = {
        f"{name}.{key}": value.detach().contiguous().clone()
        for name, module in modules.items()
        for key, value in _trained_state(module).items()
    }
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value).clone() for key, value in state.items()}
    write_tensors(folder / CHECKPOINT, tensors, {"progress": json.dumps(dict(progress), sort_keys=True)})


def load_checkpoint(folder: Path, modules: Mapping[str, nn.Module], optimizer: Optimizer) -> dict[str, Any] | None:
    """Put a checkpoint's state back and return its progress, or return None where there is no checkpoint."""
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    with safe_open(path, framework="pt") as file:
        progress: dict[str, Any] = json.loads(file.metadata()["progress"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    for name, module in modules.items():
        with torch.no_grad():
            for key, value in _trained_state(module).items():
                value.copy_(tensors[f"{name}.{key}"])
    states: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, field = key.split(".", 2)
            states.setdefault(int(index), {})[field] = value
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    return progress


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file atomically."""
    scratch = path.with_name(f".{path.name}.tmp")
    save_file(dict(tensors), scratch, metadata=dict(metadata or {}))
    with open(scratch, "rb+") as written:
        os.fsync(written.fileno())
    os.replace(scratch, path)


def _trained_state(module: nn.Module) -> dict[str, torch.Tensor]:
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    persistent = {
        name for name in module.state_dict() if name not in dict(module.named_parameters(remove_duplicate=False))
    }
    return {**trained, **{name: value for name, value in module.named_buffers() if name in persistent}}
