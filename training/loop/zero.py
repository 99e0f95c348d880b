"""ZeRO-2 (DeepSpeed): each process keeps the gradients and the optimiser's moments of its part of the weights.

    accelerate launch --config_file configs/accelerate/deepspeed_zero2.yaml -m genrec.training.finetune --config FILE

The weights stay whole everywhere, so validation and saving are as in data parallelism. Only the moments have to be put
together for a checkpoint and spread again: it is the file that every other way of training writes, and DeepSpeed's own
checkpoints, which are pickles, are not used. To spread the weights too, launch with FSDP2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from genrec.semtok.errors import InputError

STAGE = 2
MOMENTS = ("exp_avg", "exp_avg_sq")


def prepare_zero(
    accelerator: Accelerator, model: nn.Module, optimizer: Optimizer, precision: str
) -> tuple[nn.Module, ZeroOptimizer]:
    """`accelerator.prepare` under DeepSpeed: weights stay float32, bf16 means `torch.autocast` as everywhere else.

    Raises:
        InputError: the launch asks for another stage of ZeRO, or for offloading.
    """
    settings = accelerator.deepspeed_plugin.deepspeed_config
    zero = settings["zero_optimization"]
    offloading = [name for name in ("offload_optimizer", "offload_param") if _device(zero.get(name)) != "none"]
    if zero["stage"] != STAGE or offloading:
        asked = ", ".join([f"ZeRO-{zero['stage']}", *offloading])
        raise InputError(
            f"DeepSpeed was launched with {asked}; this stage runs under ZeRO-2 without offloading, and "
            "configs/accelerate/fsdp2.yaml spreads the weights too"
        )
    settings["train_micro_batch_size_per_gpu"] = 1  # rows differ in length; DeepSpeed only counts with it
    settings["bf16"] = {"enabled": False}  # it would round the weights themselves
    if precision == "bf16":
        settings["torch_autocast"] = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
    groups = [list(group["params"]) for group in optimizer.param_groups]
    prepared, prepared_optimizer = accelerator.prepare(model, optimizer)
    return prepared, ZeroOptimizer(prepared_optimizer, groups, keep=accelerator.is_main_process)


def _device(offload: Mapping[str, Any] | None) -> str:
    return str((offload or {}).get("device", "none"))


class ZeroOptimizer:
    """What DeepSpeed made of an AdamW, with the state of an ordinary one to save and load.

    Args:
        prepared: accelerate's wrapper of DeepSpeed's optimiser. It steps in `accelerator.backward`.
        groups: the parameters, by the optimiser's groups before it was prepared.
        keep: whether this process is the one that writes checkpoints.
    """

    def __init__(self, prepared: Any, groups: Sequence[Sequence[nn.Parameter]], *, keep: bool) -> None:
        self.prepared, self.groups, self.keep = prepared, groups, keep

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Settings of the groups; each one's only parameter is this process's part of them all, one after the other."""
        return self.prepared.param_groups

    def step(self) -> None:
        """Nothing: `accelerator.backward` has stepped."""

    def zero_grad(self) -> None:
        """Nothing: `accelerator.backward` has dropped the gradients."""

    def state_dict(self) -> dict[str, Any]:
        """As of an AdamW that nothing was spread of, on the CPU; every process calls it, and the main one keeps it."""
        states: list[dict[str, Tensor]] = []
        for group, settings in zip(self.groups, self.param_groups, strict=True):
            own = self._base.state.get(settings["params"][0])
            if own is None:  # before the first step
                break
            for parameter in group:
                whole = {key: torch.zeros_like(parameter, dtype=torch.float32).flatten() for key in MOMENTS}
                for key, moment in whole.items():
                    for here, there in _piece(parameter):
                        moment[there].copy_(own[key][here])
                    torch.distributed.all_reduce(moment)
                if self.keep:
                    moments = {key: moment.view_as(parameter).cpu() for key, moment in whole.items()}
                    states.append({**moments, "step": own["step"].cpu()})
        return {"state": dict(enumerate(states)), "param_groups": self.param_groups}

    def load_state_dict(self, value: Mapping[str, Any]) -> None:
        """Take this process's part of the moments; the model's weights must be those of the same moment by now."""
        self.prepared.optimizer.refresh_fp32_params()
        first = 0
        for group, settings in zip(self.groups, self.param_groups, strict=True):
            (flat,) = settings["params"]
            own = {key: torch.zeros_like(flat) for key in MOMENTS} | {"step": torch.zeros((), device=flat.device)}
            for index, parameter in enumerate(group, start=first):
                state = value["state"].get(index)
                if state is None:  # another way of training had not stepped it yet
                    continue
                own["step"].copy_(state["step"])
                for here, there in _piece(parameter):
                    for key in MOMENTS:
                        own[key][here].copy_(state[key].flatten()[there])
            self._base.state[flat] = own
            first += len(group)

    @property
    def _base(self) -> Optimizer:
        """The AdamW itself, of this process's part."""
        return self.prepared.optimizer.optimizer


def _piece(parameter: Any) -> list[tuple[slice, slice]]:
    """Where this process's piece of a parameter lies in its part of the group, and in the parameter; none, or one."""
    mapping = parameter._hp_mapping  # which DeepSpeed adds
    if mapping is None:
        return []
    here, there = mapping.hp_fragment_address, mapping.lp_fragment_address
    return [(slice(here.start, here.start + here.numel), slice(there.start, there.start + there.numel))]
