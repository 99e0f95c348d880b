"""The LM stage under FSDP2 on CPUs, for `test_pipeline`: run under `accelerate launch`.

    accelerate_stage.py --config RUN/config.yaml

accelerate shards on GPUs only and would quietly fall back to data parallelism; told that these processes are of the
kind that shards, it runs FSDP2 as the configuration says, over gloo. It dies if nothing is sharded, and with
STOP_AFTER_CHECKPOINT set, after the first checkpoint.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from accelerate.state import DistributedType, PartialState
from torch.distributed.tensor import DTensor

from training import finetune, lm_stage


def main() -> None:
    PartialState(cpu=True)
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    gather = finetune.whole_state

    def gather_shards(optimizer: torch.optim.Optimizer, **options: Any) -> Any:
        assert all(isinstance(one, DTensor) for group in optimizer.param_groups for one in group["params"])
        return gather(optimizer, **options)

    finetune.whole_state = gather_shards
    if os.environ.get("STOP_AFTER_CHECKPOINT"):
        save = finetune.save_checkpoint

        def save_and_die(*args: Any) -> None:
            save(*args)
            os._exit(1)

        finetune.save_checkpoint = save_and_die
    lm_stage.main()


if __name__ == "__main__":
    main()
