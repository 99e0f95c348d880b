"""The shipped accelerate configurations: all are parsed; those that can run without a GPU run, and train the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from safetensors import safe_open

FOLDER = Path(__file__).parent.parent / "configs" / "accelerate"
SCRIPT = Path(__file__).parent / "accelerate_steps.py"


@pytest.mark.parametrize(
    ("name", "kind", "processes", "precision"),
    [
        ("cpu", "NO", 1, "no"),
        ("multi_cpu", "MULTI_GPU", 2, "no"),
        ("gpu", "NO", 1, "bf16"),
        ("multi_gpu", "MULTI_GPU", 8, "bf16"),
        ("fsdp2", "FSDP", 8, "bf16"),
        ("deepspeed_zero2", "DEEPSPEED", 8, "bf16"),
    ],
)
def test_every_configuration_is_parsed(name: str, kind: str, processes: int, precision: str) -> None:
    """accelerate refuses keys that it doesn't know."""
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    assert (config.distributed_type.value, config.num_processes, config.mixed_precision) == (kind, processes, precision)


def test_none_is_left_out() -> None:
    assert len(list(FOLDER.glob("*"))) == 6


def launch(name: str, out: Path, *options: str, script_options: tuple[str, ...] = ()) -> dict[str, torch.Tensor]:
    """Run the steps under a configuration; tensors, and the file's notes as attributes of the key `notes`."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(FOLDER / f"{name}.yaml")]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command += [*options, str(SCRIPT), str(out), *script_options]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    with safe_open(out, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def notes(out: Path) -> dict[str, str]:
    with safe_open(out, "pt") as file:
        return dict(file.metadata())


@pytest.mark.slow
def test_processes_train_as_one_does(tmp_path: Path) -> None:
    """Two gloo processes, data parallel and fully sharded, end at the weights of one process."""
    alone = launch("cpu", tmp_path / "one")
    pair = launch("multi_cpu", tmp_path / "two", "--main_process_port", "0")
    sharded = launch(
        "fsdp2",
        tmp_path / "sharded",
        *("--num_processes", "2", "--mixed_precision", "no", "--main_process_port", "0"),
        script_options=("--fsdp-on-cpu",),
    )
    assert [int(run["processes"]) for run in (alone, pair, sharded)] == [1, 2, 2]
    assert notes(tmp_path / "two") == {"kind": "MULTI_CPU", "backend": "gloo", "sharded": "False"}
    assert notes(tmp_path / "sharded") == {"kind": "FSDP", "backend": "gloo", "sharded": "True"}
    assert alone["losses"][-1] < alone["losses"][0]
    for run in (pair, sharded):
        assert run.keys() == alone.keys()
        for name, tensor in alone.items():
            if name != "processes":
                assert torch.allclose(run[name], tensor, atol=2e-4), name
