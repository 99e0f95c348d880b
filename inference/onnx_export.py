"""The ranking of a run's aligned recommender as one ONNX file, for runtimes without torch and without a language model.

    recommender.export_onnx("shop.onnx", k=20)

    session = onnxruntime.InferenceSession("shop.onnx")
    rows, scores = session.run(None, {"histories": rows_of_items})    # int64 [B, T], oldest first, -1 behind the end
    ids = json.loads(session.get_modelmeta().custom_metadata_map["genrec.item_ids"])

It is what the report calls "lrurec, aligned": one of the scorers that are fused, with most of the quality at a small
part of the cost; the dense head and the beam read a language model's hidden state and stay behind. Items of the
history and withdrawn ones are left out inside the graph, by whole histories; what is read is the last `max_items`.

Shapes: B histories, T their length, N items, D width, M max_items, H complex states, K items of a list.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from genrec.run import Run
from genrec.semtok.errors import InputError
from genrec.semtok.installed import lacks_extra
from genrec.sequential.base import PADDING, Backbone, SequentialModel
from genrec.sequential.lrurec import LinearRecurrence

OPSET = 20
_ROOM = 2_000_000_000  # bytes of weights beyond which the format wants them in a file of their own


class RankedList(nn.Module):
    """Histories in, the best rows and their scores out.

    Args:
        model: the recommender, its table frozen.
        withdrawn: bool [N], items that are in no list.
        k: items of a list.
        filter_viewed: leave the items of the history out.
    """

    backbone: Backbone
    read: Tensor
    rank: Tensor
    withdrawn: Tensor

    def __init__(self, model: SequentialModel, withdrawn: NDArray[np.bool_], k: int, *, filter_viewed: bool) -> None:
        super().__init__()
        read, rank, _ = model.frozen_vectors()
        self.backbone, self.k, self.filter_viewed = model.backbone, k, filter_viewed
        self.max_items: int = model.config.max_items
        self.register_buffer("read", read.clone())
        self.register_buffer("rank", self.read if torch.equal(read, rank) else rank.clone())
        self.register_buffer("withdrawn", torch.from_numpy(withdrawn.copy()))

    def forward(self, histories: Tensor) -> tuple[Tensor, Tensor]:
        """Catalogue rows int64 [B, K] and scores float32 [B, K] for histories int64 [B, T], -1 behind the end.

        After an empty history every item scores 0, as in genrec, and the first rows are given. Where fewer than K items
        may be listed the rest have -1 and minus infinity.
        """
        recent, lengths = self._recent(histories)
        rows, places = self.backbone.question(recent, lengths)
        x = F.embedding(rows.clamp(min=0), self.read) * (rows >= 0)[..., None]
        states = self.backbone(x, rows)
        hidden = states.gather(1, places[:, None, None].expand(-1, 1, states.shape[2]))[:, 0]
        scores = (hidden * (lengths > 0)[:, None]) @ self.rank.T
        scores = scores.masked_fill(self.withdrawn, -torch.inf)
        if self.filter_viewed:
            seen = torch.zeros(scores.shape[0], scores.shape[1] + 1, dtype=torch.int32)  # the last: of no item
            at = torch.where(histories >= 0, histories, scores.shape[1])
            seen = seen.scatter(1, at, torch.ones_like(at, dtype=torch.int32))
            scores = scores.masked_fill(seen[:, :-1] > 0, -torch.inf)
        best, found = scores.topk(self.k, dim=1)
        return torch.where(torch.isinf(best), PADDING, found), best

    def _recent(self, histories: Tensor) -> tuple[Tensor, Tensor]:
        """The last M items of each, [B, M], and how many they are."""
        whole = (histories >= 0).sum(dim=1)
        padded = F.pad(histories, (0, self.max_items), value=PADDING)
        first = (whole - self.max_items).clamp(min=0)
        return padded.gather(1, first[:, None] + torch.arange(self.max_items)), whole.clamp(max=self.max_items)


class _RealRecurrence(nn.Module):
    """The layer of LRURec in real numbers, which is all that ONNX has; the last steps of the same doubling."""

    scale: Tensor
    real: Tensor
    imaginary: Tensor

    def __init__(self, layer: LinearRecurrence) -> None:
        super().__init__()
        self.into, self.out = layer.into, layer.out
        decay = layer.decay().detach()
        self.register_buffer("scale", torch.exp(layer.gamma.detach()))
        self.register_buffer("real", decay.real.clone())
        self.register_buffer("imaginary", decay.imag.clone())

    def forward(self, x: Tensor) -> Tensor:  # [B, T, D]
        real, imaginary = (part * self.scale for part in self.into(x).chunk(2, dim=-1))
        a, b, reach = self.real, self.imaginary, 1
        while reach < x.shape[1]:
            before = (F.pad(part[:, :-reach], (0, 0, reach, 0)) for part in (real, imaginary))
            earlier, earlier_imaginary = before
            real, imaginary = (
                real + a * earlier - b * earlier_imaginary,
                imaginary + a * earlier_imaginary + b * earlier,
            )
            a, b, reach = a * a - b * b, 2 * a * b, 2 * reach
        return self.out(torch.cat([real, -imaginary], dim=-1))


def export(run: Run, file: Path, *, k: int, filter_viewed: bool | None = None) -> None:
    """Write the file; its metadata has the item ids by row, the titles stay in the run.

    Args:
        k: items of a list; fewer where the catalogue has fewer.
        filter_viewed: leave the items of the history out; None: as in the run's evaluation.

    Raises:
        InputError: the run has no aligned recommender, the extra is not installed, or the file cannot be written.
    """
    model, catalog = run.sequential(), run.catalog()
    if model is None:
        raise InputError(
            f"{run}: was aligned without a recommender (--aligner.name fusion), so there is none to export"
        )
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(package) is None:
            raise lacks_extra(package, "onnx")
    if k < 1:
        raise InputError(f"k must be at least 1, not {k}")
    viewed = run.exclude_seen if filter_viewed is None else filter_viewed
    ranked = RankedList(model, catalog.withdrawn, min(k, len(catalog)), filter_viewed=viewed)
    facts = {
        "item_ids": json.dumps(catalog.public_ids(np.arange(len(catalog))).to_list()),
        "filter_viewed": json.dumps(viewed),
        "max_items": str(ranked.max_items),
        "backbone": model.backbone.name,
    }
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _write(ranked, file, facts)
        _check(ranked, file)
    except OSError as error:
        raise InputError(f"{file}: cannot be written ({error.strerror or error})") from None


def _write(ranked: RankedList, file: Path, facts: dict[str, str]) -> None:
    ranked = ranked.eval()
    example = torch.tensor([[0, 0, 0], [0, PADDING, PADDING]])
    with _real_numbers(ranked), _quiet(), torch.no_grad():
        program = torch.onnx.export(
            ranked, (example,), dynamo=True, opset_version=OPSET, verbose=False,
            input_names=["histories"], output_names=["rows", "scores"],
            dynamic_shapes={"histories": {0: torch.export.Dim("histories"), 1: torch.export.Dim("items")}},
        )  # fmt: skip
    if program is None:
        raise InputError(f"{file}: torch gave no ONNX program")
    for name, value in facts.items():
        program.model.metadata_props[f"genrec.{name}"] = value
    weights = sum(tensor.nbytes for tensor in ranked.state_dict().values())
    program.save(str(file), external_data=weights > _ROOM)


def _check(ranked: RankedList, file: Path) -> None:
    """Raise InputError where onnxruntime finds other scores than torch, as it did for GRUs by onnxscript 0.7.0."""
    import onnxruntime

    n, longest, rng = len(ranked.withdrawn), ranked.max_items + 3, np.random.default_rng(0)
    histories = rng.integers(0, n, (8, longest))
    histories[np.arange(longest) >= rng.integers(0, longest + 1, 8)[:, None]] = PADDING
    with torch.inference_mode():
        expected = ranked(torch.from_numpy(histories))[1].numpy()
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    found = session.run(["scores"], {"histories": histories})[0]
    if not np.allclose(found, expected, rtol=1e-3, atol=1e-4):
        file.unlink()
        versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "onnxscript", "onnxruntime"))
        raise InputError(f"{file}: would give other lists than torch, as {versions} export it; take other versions")


@contextlib.contextmanager
def _real_numbers(ranked: RankedList) -> Iterator[None]:
    """LRURec's layers are exchanged while the block lasts: the run's own model stays as it is."""
    layers: list[tuple[nn.Module, str, nn.Module]] = [
        (parent, name, child)
        for parent in ranked.modules()
        for name, child in parent.named_children()
        if isinstance(child, LinearRecurrence)
    ]
    for parent, name, child in layers:
        setattr(parent, name, _RealRecurrence(cast(LinearRecurrence, child)))
    try:
        yield
    finally:
        for parent, name, child in layers:
            setattr(parent, name, child)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of its own parts, logs and prints what it does."""
    logs = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
