"""Checkpoints that resume to the same bytes: one safetensors file, replaced atomically, nothing pickled.

Weights, optimiser state and progress travel in one file, so a kill can never leave halves of two moments.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from genrec.training.loop.zero import ZeroOptimizer

CHECKPOINT = "checkpoint.safetensors"

OptimizerState = Mapping[int, Mapping[str, torch.Tensor]]


def whole_state(optimizer: Optimizer | ZeroOptimizer, *, keep: bool = True) -> OptimizerState:
    """The optimiser's state by the parameters' places, copied to the CPU; that of sharded parameters is put together.

    Args:
        keep: where parameters are sharded, every process calls this; those that write nothing need not keep anything.
    """
    states: dict[int, dict[str, torch.Tensor]] = {}
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            whole = value.full_tensor() if isinstance(value, DTensor) else torch.as_tensor(value)
            if keep:
                states.setdefault(index, {})[key] = whole.detach().cpu().clone()
    return states


def save_checkpoint(folder: Path, model: nn.Module, optimizer: OptimizerState, progress: Mapping[str, Any]) -> None:
    """Write weights, optimiser state and `progress` (JSON-able) to `checkpoint.safetensors`.

    Only parameters that train and buffers are stored: what is frozen comes from its own source again.

    Args:
        optimizer: of `whole_state`.
    """
    tensors = {f"model.{name}": value for name, value in _trained_state(model).items()}
    for index, state in optimizer.items():
        tensors |= {f"optimizer.{index}.{key}": value for key, value in state.items()}
    _write(folder / CHECKPOINT, tensors, {"progress": json.dumps(dict(progress), sort_keys=True)})


def load_checkpoint(folder: Path, model: nn.Module, optimizer: Optimizer | ZeroOptimizer) -> dict[str, Any] | None:
    """Put a checkpoint's state back and return its progress, or return None where there is no checkpoint.

    The optimiser's parameters may be sharded (every process then calls this), those of the model may not.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        return None
    with safe_open(path, framework="pt") as file:
        progress: dict[str, Any] = json.loads(file.metadata()["progress"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    _copy(tensors, model, "model.")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    sharded = {index: parameter for index, parameter in enumerate(parameters) if isinstance(parameter, DTensor)}
    states: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, field = key.split(".", 2)
            states.setdefault(int(index), {})[field] = _spread(value, like=sharded.get(int(index)))
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    return progress


def write_best(folder: Path, model: nn.Module, epochs: int) -> None:
    """Keep the weights that so many epochs have made."""
    _write(folder / f"best-{epochs}.safetensors", _trained_state(model))


def read_best(folder: Path, model: nn.Module, epochs: int) -> None:
    """Put the weights back that `write_best` kept."""
    _copy(load_file(folder / f"best-{epochs}.safetensors"), model)


def remove_best(folder: Path, *, but: int) -> None:
    """Remove the weights of all other epochs."""
    for stale in folder.glob("best-*.safetensors"):
        if stale.name != f"best-{but}.safetensors":
            stale.unlink()


@contextlib.contextmanager
def work_folder(folder: Path) -> Iterator[Path]:
    """The folder for the checkpoints of a stage that is made in `folder`; its log outlives it as `training.json`.

    Leave it when everything else is saved: what an interrupted stage would go on from is then gone.
    """
    work = folder / "work"
    work.mkdir(exist_ok=True)
    yield work
    (work / "training.json").rename(folder / "training.json")
    remove_work(work)


def remove_work(folder: Path) -> None:
    """Remove the folder that a finished fit kept its checkpoints in, and the work folders inside it.

    Checkpoints go first: one that outlived the best weights that it speaks of could never be gone on from.
    """
    for checkpoint in list(folder.rglob(CHECKPOINT)):
        checkpoint.unlink()
    shutil.rmtree(folder)


def _write(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file atomically."""
    scratch = path.with_name(f".{path.name}.tmp")
    here = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(here, scratch, metadata=dict(metadata or {}))
    with open(scratch, "rb+") as written:
        os.fsync(written.fileno())
    os.replace(scratch, path)


@torch.no_grad()
def _copy(tensors: Mapping[str, torch.Tensor], model: nn.Module, prefix: str = "") -> None:
    for name, value in _trained_state(model).items():
        value.copy_(tensors[f"{prefix}{name}"])


def _spread(tensor: torch.Tensor, *, like: DTensor | None) -> torch.Tensor:
    """Sharded as a parameter is, if it is and they have one shape."""
    if like is None or tensor.shape != like.shape:
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)


def _trained_state(module: nn.Module) -> dict[str, torch.Tensor]:
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    persistent = {
        name for name in module.state_dict() if name not in dict(module.named_parameters(remove_duplicate=False))
    }
    return {**trained, **{name: value for name, value in module.named_buffers() if name in persistent}}
