"""The LM stage alone, in one process and in several, between two calls of `genrec fit`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from worlds.small_shop import SMALL, contents

from genrec import Recommender
from genrec.cli.main import main
from genrec.run import Run
from genrec.semtok.folders import read_json
from genrec.training.lm import stage as lm_stage


@pytest.fixture
def run(tiny_run: Path) -> Path:
    return tiny_run


def lm_stage_alone(monkeypatch: pytest.MonkeyPatch, config: Path) -> int:
    """`python -m genrec.training.finetune --config CONFIG`; its exit status."""
    monkeypatch.setattr(sys, "argv", ["finetune", "--config", str(config)])
    with pytest.raises(SystemExit) as ended:
        lm_stage.main()
    return int(str(ended.value.code or 0))


def launched_lm_stage(
    run: Path, copy: Path, configuration: str, *command: str, precision: str = "no", **variables: str
) -> int:
    """The LM stage of a copy of a run under accelerate, on two processes; its exit status."""
    if not copy.exists():
        shutil.copytree(run, copy)
        shutil.rmtree(copy / "lm")
        settings = (copy / "config.yaml").read_text()
        settings = settings.replace("  precision: 'no'", f"  precision: '{precision}'")
        (copy / "config.yaml").write_text(settings)
    file = Path(__file__).parents[1] / f"configs/accelerate/{configuration}.yaml"
    launcher = [str(Path(sys.executable).with_name("accelerate")), "launch", "--config_file", str(file)]
    launcher += ["--num_processes", "2", "--mixed_precision", precision, "--main_process_port", "0"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", **variables}
    stage = [*launcher, *command, "--config", str(copy / "config.yaml")]
    return subprocess.run(stage, env=environment, check=False, timeout=240).returncode


def test_the_lm_stage_alone_is_of_the_folder_of_its_configuration(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A copied run trains its own model, to the bytes of `genrec fit`, once; the run that it was copied from stays."""
    before, copy = contents(run), tmp_path / "copy"
    started = [path.stat().st_mtime_ns for path in sorted((run / "lm").iterdir())]
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "lm")
    with Run(copy).locked():
        assert lm_stage_alone(monkeypatch, copy / "config.yaml") == 2
    assert "another genrec process is working on this run" in capsys.readouterr().err
    assert not (copy / "lm").exists()
    assert lm_stage_alone(monkeypatch, copy / "config.yaml") == 0
    assert contents(copy) == before
    made = (copy / "lm/manifest.json").stat().st_mtime_ns
    assert lm_stage_alone(monkeypatch, copy / "config.yaml") == 0
    assert "lm is up to date" in capsys.readouterr().err
    assert (copy / "lm/manifest.json").stat().st_mtime_ns == made
    assert contents(run) == before
    assert [path.stat().st_mtime_ns for path in sorted((run / "lm").iterdir())] == started


@pytest.mark.parametrize("text", ["a: [\n", "", "- 1\n", "run: x\n", "\udcff"])
def test_the_lm_stage_alone_names_a_bad_configuration(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_bytes(text.encode(errors="surrogateescape"))
    assert lm_stage_alone(monkeypatch, config) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{config}: not " in line


def test_fit_ends_before_the_language_model_where_asked(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For the LM stage under `accelerate launch`; another fit then does what is left."""
    other, reuse = tmp_path / "other", f"--reuse={run}"
    options = [str(run.parent / "my.yaml"), *SMALL, "--topk.k=0", f"--run={other}", reuse]
    assert main(["fit", *options, "--before_lm"]) == 0
    assert f"training.finetune --config {other}/config.yaml" in capsys.readouterr().out
    assert (other / "semtok/manifest.json").is_file()
    assert not (other / "lm").exists()
    assert main(["fit", *options]) == 0
    assert (other / "report/metrics.json").is_file()


@pytest.mark.slow
def test_the_lm_stage_alone_on_two_processes(run: Path, tmp_path: Path) -> None:
    """Data parallel and fully sharded, undisturbed and killed between two epochs: one model."""
    script = str(Path(__file__).with_name("accelerate_stage.py"))
    stage = ("-m", "genrec.training.finetune")
    assert launched_lm_stage(run, tmp_path / "parallel", "multi_cpu", *stage) == 0
    with Run(tmp_path / "parallel").locked():  # refused in every process: none waits for the others
        assert launched_lm_stage(run, tmp_path / "parallel", "multi_cpu", *stage) != 0
    assert launched_lm_stage(run, tmp_path / "parallel", "multi_cpu", *stage) == 0  # up to date
    assert launched_lm_stage(run, tmp_path / "sharded", "fsdp2", script) == 0
    assert launched_lm_stage(run, tmp_path / "killed", "fsdp2", script, STOP_AFTER_CHECKPOINT="1") != 0
    assert not (tmp_path / "killed/lm").exists()
    assert launched_lm_stage(run, tmp_path / "killed", "fsdp2", script) == 0
    assert launched_lm_stage(run, tmp_path / "half", "fsdp2", script, precision="bf16") == 0
    assert contents(tmp_path / "killed/lm") == contents(tmp_path / "sharded/lm")
    rows = [read_json(tmp_path / name / "lm/training.json") for name in ("parallel", "sharded", "half")]
    for parallel, sharded, half in zip(*rows, strict=True):
        for loss in ("code_loss", "dense_loss", "text_loss"):
            assert sharded[loss] == pytest.approx(parallel[loss], rel=2e-3)
            assert half[loss] == pytest.approx(parallel[loss], rel=2e-2)
            assert half[loss] != sharded[loss]
    for name in ("parallel", "sharded"):
        assert len(Recommender.from_pretrained(tmp_path / name).recommend([[]], k=3).rows[0]) == 3


@pytest.mark.slow
def test_the_lm_stage_under_deepspeed(run: Path, tmp_path: Path) -> None:
    """ZeRO-2 on two processes loses what data parallelism does, also when it is killed and either of them goes on."""
    pytest.importorskip("deepspeed")
    script = str(Path(__file__).with_name("accelerate_stage.py"))
    on_cpu = {"ACCELERATE_USE_CPU": "false", "DS_ACCELERATOR": "cpu"}
    assert launched_lm_stage(run, tmp_path / "parallel", "multi_cpu", "-m", "genrec.training.finetune") == 0
    assert launched_lm_stage(run, tmp_path / "zero", "deepspeed_zero2", script, **on_cpu) == 0
    killed = {**on_cpu, "STOP_AFTER_CHECKPOINT": "1"}
    assert launched_lm_stage(run, tmp_path / "killed", "deepspeed_zero2", script, **killed) != 0
    assert not (tmp_path / "killed/lm").exists()
    shutil.copytree(tmp_path / "killed", tmp_path / "crossed")
    assert launched_lm_stage(run, tmp_path / "killed", "deepspeed_zero2", script, **on_cpu) == 0
    assert launched_lm_stage(run, tmp_path / "crossed", "multi_cpu", "-m", "genrec.training.finetune") == 0
    assert launched_lm_stage(run, tmp_path / "half", "deepspeed_zero2", script, precision="bf16", **on_cpu) == 0
    assert contents(tmp_path / "killed/lm") == contents(tmp_path / "zero/lm")
    rows = [read_json(tmp_path / name / "lm/training.json") for name in ("parallel", "zero", "crossed", "half")]
    assert len(rows[0]) > 1
    for parallel, zero, crossed, half in zip(*rows, strict=True):
        for loss in ("code_loss", "dense_loss", "text_loss"):
            assert zero[loss] == pytest.approx(parallel[loss], rel=2e-3)
            assert crossed[loss] == pytest.approx(parallel[loss], rel=2e-3)
            assert half[loss] == pytest.approx(parallel[loss], rel=2e-2)
            assert half[loss] != zero[loss]
    assert len(Recommender.from_pretrained(tmp_path / "zero").recommend([[]], k=3).rows[0]) == 3
