"""The LM stage under FSDP2 or ZeRO-2 on CPUs, for `test_lm_processes`: run under `accelerate launch`.

    accelerate_stage.py --config RUN/config.yaml

accelerate shards on GPUs only and would quietly fall back to data parallelism; told that these processes are of the
kind that shards, it runs FSDP2 as the configuration says, over gloo. DeepSpeed itself runs on CPUs. The script dies if
nothing is spread, and with STOP_AFTER_CHECKPOINT set, after the first checkpoint.
"""

from __future__ import annotations

import os
from typing import Any

from accelerate.state import DistributedType, PartialState
from accelerate.utils import parse_flag_from_env
from torch.distributed.tensor import DTensor

from genrec.training import finetune
from genrec.training.loop import epochs, weights


def main() -> None:
    sharded = parse_flag_from_env("ACCELERATE_USE_FSDP")
    if sharded:
        PartialState(cpu=True)
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    else:
        PartialState(backend="gloo")  # which accelerate would not choose for DeepSpeed without a GPU
    gather = weights.whole_state

    def gather_shards(optimizer: Any, **options: Any) -> Any:
        if sharded:
            assert all(isinstance(one, DTensor) for group in optimizer.param_groups for one in group["params"])
        else:
            here, whole = (
                sum(one.numel() for group in groups for one in group)
                for groups in ([group["params"] for group in optimizer.param_groups], optimizer.groups)
            )
            assert whole / 2 <= here < 0.6 * whole
        return gather(optimizer, **options)

    weights.whole_state = gather_shards
    if os.environ.get("STOP_AFTER_CHECKPOINT"):
        save = epochs.save_checkpoint

        def save_and_die(*args: Any) -> None:
            save(*args)
            os._exit(1)

        epochs.save_checkpoint = save_and_die
    finetune.main()


if __name__ == "__main__":
    main()
