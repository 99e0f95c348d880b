"""The exported ranking gives genrec's own lists in onnxruntime; skipped where the extra `onnx` is not installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from genrec import InputError, Recommender
from genrec.cli.main import main
from genrec.data.sequences import Sequences
from genrec.inference import onnx_export
from genrec.run import Run
from genrec.semtok.aligners.base import FrozenTable
from genrec.sequential import BACKBONES
from genrec.sequential.base import SequentialModel, padded_rows
from genrec.sequential.lrurec import LinearRecurrence

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

N = 90


def random_model(name: str, seed: int = 0) -> SequentialModel:
    """Of two different tables, reading the last 6 items."""
    torch.manual_seed(seed)
    config = BACKBONES[name].config(width=16, max_items=6)
    return SequentialModel(FrozenTable(torch.randn(N, 16), torch.randn(N, 16)), BACKBONES[name].build(config)).eval()


def some_histories(n_items: int) -> Sequences:
    """Of 0 to 40 items: longer than what is read, and empty."""
    rng = np.random.default_rng(1)
    return Sequences.from_lists([rng.integers(0, n_items, length).tolist() for length in (1, 0, 3, 6, 7, 40, 2)])


def best(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Rows of the k best by brute force, -1 where there is none."""
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.where(np.isinf(np.take_along_axis(scores, order, axis=1)), -1, order)


def asked(file: Path, histories: Sequences) -> tuple[NDArray[Any], NDArray[Any]]:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    rows, scores = session.run(None, {"histories": padded_rows(histories).numpy()})
    return rows, scores


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_gives_the_lists_of_torch(name: str, tmp_path: Path) -> None:
    model, file = random_model(name), tmp_path / "model.onnx"
    withdrawn = np.isin(np.arange(N), [3, 50])
    histories = some_histories(N)
    ranked = onnx_export.RankedList(model, withdrawn, N, filter_viewed=True)
    onnx_export._write(ranked, file, {})
    scores = model.score(histories)
    scores[:, withdrawn] = -np.inf
    for row, history in enumerate(histories):
        scores[row, history] = -np.inf
    rows, found = asked(file, histories)
    assert (rows == best(scores, N)).all()
    listed = rows >= 0
    assert np.allclose(np.take_along_axis(scores, rows.clip(0), axis=1)[listed], found[listed], atol=1e-5)
    assert (listed.sum(axis=1) < N).all()
    assert [(one.domain, one.version) for one in onnx.load(file).opset_import] == [("", onnx_export.OPSET)]
    assert [type(part) for part in model.modules()].count(onnx_export._RealRecurrence) == 0  # as it was
    onnx_export._check(ranked, file)
    other = onnx_export.RankedList(random_model(name, seed=1), withdrawn, N, filter_viewed=True)
    with pytest.raises(InputError, match="would give other lists than torch"):
        onnx_export._check(other, file)
    assert not file.exists()
    assert (name == "lrurec") == any(isinstance(part, LinearRecurrence) for part in model.modules())


@pytest.mark.slow
def test_a_run_in_one_file(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its item ids are in the file; of the history nothing is listed unless asked for."""
    file = tmp_path / "exports/shop.onnx"
    assert main(["export", str(tiny_run), str(file), "--k=7"]) == 0
    assert capsys.readouterr().out == f"{file}\n"
    run = Run(tiny_run)
    model, catalog = run.sequential(), run.catalog()
    assert model is not None
    facts = onnxruntime.InferenceSession(file).get_modelmeta().custom_metadata_map
    assert json.loads(facts["genrec.item_ids"]) == list(catalog.item_ids)
    assert json.loads(facts["genrec.filter_viewed"]) is run.exclude_seen is True
    histories = some_histories(len(catalog))
    scores = model.score(histories)
    for row, history in enumerate(histories):
        scores[row, history] = -np.inf
    rows, _ = asked(file, histories)
    assert (rows == best(scores, 7)).all()
    assert [path.name for path in file.parent.iterdir()] == ["shop.onnx"]

    Recommender.from_pretrained(tiny_run).export_onnx(file, k=7, filter_viewed=False)
    rows, _ = asked(file, histories)
    assert (rows == best(model.score(histories), 7)).all()


def test_what_cannot_be_exported(tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tiny_run)
    with pytest.raises(InputError, match="k must be at least 1"):
        onnx_export.export(run, tmp_path / "x.onnx", k=0)
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="the extra onnx"):
        onnx_export.export(run, tmp_path / "x.onnx", k=5)
    monkeypatch.setattr(Run, "sequential", lambda run: None)
    with pytest.raises(InputError, match="without a recommender"):
        onnx_export.export(run, tmp_path / "x.onnx", k=5)
    assert not (tmp_path / "x.onnx").exists()
