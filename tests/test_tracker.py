"""The trackers of accelerate: what MLflow is told; skipped where the extra `mlflow` is not installed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from worlds.small_shop import SMALL, contents

from genrec.cli.main import main

mlflow = pytest.importorskip("mlflow")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file store of MLflow."""
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "mlruns").as_uri()
    monkeypatch.setattr("mlflow.tracking._tracking_service.utils._tracking_uri", None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


@pytest.mark.slow
def test_mlflow_has_every_epoch_and_the_model_is_the_same(tiny_run: Path, tmp_path: Path, store: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    plain = ["fit", str(tiny_run.parent / "my.yaml"), *SMALL, f"--run={run}"]
    command = [*plain, "--lm.tracker=mlflow"]
    assert main(command) == 0
    assert not (tmp_path / "mlruns").exists()  # a tracker alone makes nothing anew
    shutil.rmtree(run / "lm")  # which another number of threads may have made, and other bytes
    assert main(plain) == 0
    before = {name: made for name, made in contents(run).items() if name.startswith("lm/")}
    shutil.rmtree(run / "lm")
    assert main(command) == 0
    assert {name: made for name, made in contents(run).items() if name.startswith("lm/")} == before

    client = mlflow.MlflowClient(store)
    (experiment,) = client.search_experiments(filter_string="name = 'genrec'")
    (tracked,) = client.search_runs([experiment.experiment_id])
    assert tracked.info.status == "FINISHED"
    assert (tracked.data.params["epochs"], tracked.data.params["width"]) == ("2", "16")
    rows = [row for row in json.loads((run / "lm/training.json").read_text()) if "code_loss" in row]
    assert len(rows) == 2
    for name in ("code_loss", "valid_beam_recall@10"):
        history = client.get_metric_history(tracked.info.run_id, name.replace("@", "_at_"))
        assert [point.value for point in history] == [row[name] for row in rows]
        assert [point.step for point in history] == [row["epoch"] for row in rows]


@pytest.mark.slow
def test_a_tracker_that_cannot_begin_is_one_line(
    tiny_run: Path, tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    shutil.rmtree(run / "lm")
    (tmp_path / "mlruns").write_text("a file")
    command = ["fit", str(tiny_run.parent / "my.yaml"), *SMALL, f"--run={run}", "--lm.tracker=mlflow"]
    assert main(command) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("genrec fit: ")]
    assert "--lm.tracker mlflow: cannot begin" in line
    assert not (run / "lm").exists()
