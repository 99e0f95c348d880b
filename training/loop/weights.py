"""How the weights of a fit are stepped, stored and read back: by this process alone, or by all that accelerate runs.

Both keep the same checkpoint, so that a fit may go on under another launch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, broadcast_object_list, parse_flag_from_env
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from genrec.training.loop.checkpoint import OptimizerState, load_checkpoint, whole_state
from genrec.training.loop.zero import prepare_zero

_MOST_NORM = 1.0  # of all gradients together; longer ones are cut to it


def main_process() -> bool:
    """Whether this process is the one that writes."""
    # Unlike `Accelerator`, `PartialState` does not read by itself that the launcher asked for CPUs.
    return bool(PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU")).is_main_process)


class OneProcess:
    """Weights that this process trains, on the device where they lie.

    Attributes:
        model: what is trained, validated and stored.
        module: what the loss calls: the same.
        main: whether this process validates and writes.
        accumulation: batches an optimiser step.
    """

    main, accumulation = True, 1

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self.model = self.module = model
        self.optimizer = optimizer

    def load(self, workdir: Path) -> dict[str, Any] | None:
        """Put an interrupted fit's weights and moments back and return its progress; None where there is none."""
        return load_checkpoint(workdir, self.model, self.optimizer)

    def batch(self, *, steps: bool) -> contextlib.AbstractContextManager[None]:
        """The context of a batch's two passes; `steps`: whether the optimiser steps after it."""
        return contextlib.nullcontext()

    def backward(self, loss: Tensor) -> None:
        """The backward pass."""
        loss.backward()

    def step(self) -> None:
        """Clip the gradients and step."""
        clip_grad_norm_(self.model.parameters(), _MOST_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def gather(self) -> OptimizerState:
        """Make `model` whole, and return the optimiser's state for a checkpoint; every process calls it."""
        return whole_state(self.optimizer)

    def agree(self, value: Any) -> Any:
        """The main process's value, in every process."""
        return value


class Launched:
    """Weights that all processes of `accelerate launch` train: in data parallelism, or sharded (FSDP2, ZeRO-2).

    Args:
        accelerator: of this process; says the precision, and how many batches are accumulated to a step.
        model: what is trained.
        optimizer: of its parameters.
        whole: what is validated and stored; under FSDP2 another of the same build, which the shards are gathered in.
        precision: the accelerator's, which does not tell it under DeepSpeed.
    """

    def __init__(
        self, accelerator: Accelerator, model: nn.Module, optimizer: Optimizer, whole: nn.Module, precision: str
    ) -> None:
        self.accelerator, self.model, self.main = accelerator, whole, bool(accelerator.is_main_process)
        self.accumulation = int(accelerator.gradient_accumulation_steps)
        self.module: nn.Module
        self.optimizer: Any
        if accelerator.distributed_type == DistributedType.DEEPSPEED:
            self.module, self.optimizer = prepare_zero(accelerator, model, optimizer, precision)
        else:
            self.module, self.optimizer = accelerator.prepare(model, optimizer)

    @property
    def _sharded(self) -> bool:
        return bool(self.accelerator.distributed_type == DistributedType.FSDP)

    def load(self, workdir: Path) -> dict[str, Any] | None:
        """See `OneProcess`; every process reads the file."""
        progress = load_checkpoint(workdir, self.model, self.optimizer)
        if self._sharded:
            whole = StateDictOptions(full_state_dict=True)
            set_model_state_dict(self.module, self.model.state_dict(), options=whole)
            if self.main:
                self.model.to(self.accelerator.device)
        return progress

    @contextlib.contextmanager
    def batch(self, *, steps: bool) -> Iterator[None]:
        """See `OneProcess`. Accelerate's own `accumulate` counts on through the epochs; here each ends with a step."""
        self.accelerator.sync_gradients = steps
        with contextlib.nullcontext() if steps else self.accelerator.no_sync(self.module):
            yield

    def backward(self, loss: Tensor) -> None:
        """The backward pass, scaled by accumulation and precision."""
        self.accelerator.backward(loss)

    def step(self) -> None:
        """Clip the gradients and step, where the batch ends one."""
        if self.accelerator.sync_gradients:
            self.accelerator.clip_grad_norm_(self.module.parameters(), _MOST_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def gather(self) -> OptimizerState:
        """See `OneProcess`."""
        state = whole_state(self.optimizer, keep=self.main)
        if self._sharded:
            whole = self.accelerator.get_state_dict(self.module)
            if self.main:
                self.model.load_state_dict(whole)
        return state

    def agree(self, value: Any) -> Any:
        """See `OneProcess`."""
        return broadcast_object_list([value])[0]


Weights = OneProcess | Launched
