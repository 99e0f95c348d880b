"""One registration makes a part whole: toy parts are named in a configuration, fitted, saved and loaded; and every
option class speaks of flags that exist."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch
from worlds.small_shop import SMALL, write_shop

from genrec.cli.config import fit_class
from genrec.cli.main import main
from genrec.cli.parsing import fit_parser, flags_of, load_config
from genrec.inference import engines
from genrec.inference.engines import ENGINES, Engine, EngineModel
from genrec.inference.recommender import Recommender
from genrec.semtok import options as check
from genrec.semtok.aligners import ALIGNERS, Aligner
from genrec.semtok.aligners.base import AlignerInputs, IdTable
from genrec.semtok.encoders import ENCODERS, Encoder
from genrec.semtok.encoders.tfidf import TfidfEncoder
from genrec.semtok.errors import InputError
from genrec.semtok.quantizers import QUANTIZERS, QuantizerEntry
from genrec.semtok.quantizers.residual_kmeans import ResidualKMeans
from genrec.sequential import BACKBONES, BackboneEntry
from genrec.sequential.base import Backbone


@dataclass(frozen=True)
class ToyConfig:
    """Options of a toy.

    Attributes:
        size: of it.
    """

    size: int = 2

    def __post_init__(self) -> None:
        check.at_least_one(self, "size")


@dataclass(frozen=True)
class ToyShape:
    """Shape of a toy backbone.

    Attributes:
        width: D.
        max_items: the last items that are read.
    """

    width: int = 16
    max_items: int = 10


class ToyQuantizer(ResidualKMeans):
    name = "toy"


class ToyEncoder(TfidfEncoder):
    name = "toy"


class ToyTable(IdTable):
    def __init__(self, inputs: AlignerInputs, width: int, config: ToyConfig) -> None:
        super().__init__(len(inputs.text), width)

    def from_text(self, text: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(text), self.width)


class ToyBackbone(Backbone):
    name = "toy"

    def __init__(self, config: ToyShape) -> None:
        super().__init__()
        self.config, self.out = config, torch.nn.Linear(config.width, config.width)

    def forward(self, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.out(x)
        return hidden


def fit_toy(vectors: Any, sizes: tuple[int, ...], config: ToyConfig, seed: int) -> ToyQuantizer:
    """Codes of random code vectors, the size of the toy apart."""
    rng = np.random.default_rng(seed)
    books = [rng.normal(size=(size, vectors.shape[1])).astype(np.float32) * config.size for size in sizes]
    return ToyQuantizer(books)


def test_toy_parts_are_fitted_and_used_after_one_registration_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[EngineModel] = []
    monkeypatch.setitem(QUANTIZERS, "toy", QuantizerEntry(ToyConfig, ToyQuantizer.load, fit_toy))
    monkeypatch.setitem(ENCODERS, "toy", Encoder(lambda _: ToyEncoder(width=8), ToyEncoder.load))
    monkeypatch.setitem(ALIGNERS, "toy", Aligner(ToyConfig, ToyTable))
    monkeypatch.setitem(BACKBONES, "toy", BackboneEntry(ToyShape, ToyBackbone))
    monkeypatch.setitem(ENGINES, "toy", Engine(lambda model: built.append(model) or engines._torch(model)))
    config, run = write_shop(tmp_path), tmp_path / "run"
    chosen = ["--text.encoder=toy", "--aligner.name=toy", "--aligner.backbone=toy", "--semtok.quantizer=toy"]
    options = ["--semtok.toy.size=3", "--aligner.toy.size=4", "--toy.max_items=7", "--topk.k=0"]
    assert main(["fit", str(config), *SMALL, *chosen, *options]) == 0
    stored = load_config(run / "config.yaml")
    assert (stored.aligner.options.size, stored.semtok.options.size, stored.shape("toy").max_items) == (4, 3, 7)
    recommender = Recommender.from_pretrained(run, engine="toy")
    assert built
    assert len(recommender.recommend([[recommender.catalog.item_ids[0]]], k=3).rows[0]) == 3
    new = tmp_path / "new.jsonl"
    new.write_text('{"item_id": "new", "title": "Copper kettle"}\n')
    assert main(["add-items", str(run), str(new)]) == 0


def option_classes(kind: type[Any], path: str = "") -> list[tuple[str, type[Any]]]:
    """Every option class of a configuration with its place."""
    found = [(path, kind)]
    hints = get_type_hints(kind)
    for one in fields(kind):
        if is_dataclass(hints[one.name]):
            found += option_classes(hints[one.name], f"{path}{one.name}.")
    return found


BAD = {int: "-7", float: "-7.5", tuple: "[-7]"}


@pytest.mark.parametrize(("path", "kind"), option_classes(fit_class()))
def test_the_errors_of_every_option_class_name_flags_of_the_parser(path: str, kind: type[Any], tmp_path: Path) -> None:
    config = write_shop(tmp_path)
    known, hints, refused = flags_of(fit_parser()), get_type_hints(kind), 0
    for one in fields(kind):
        value = next((bad for held, bad in BAD.items() if held.__name__ in str(hints[one.name])), None)
        if is_dataclass(hints[one.name]) or value is None:
            continue
        flag = f"--{path}{one.name}"
        told = refusal(config, f"{flag}={value}")
        if told is not None:
            assert told.split()[0] == flag, told
            assert flag in known
            refused += 1
    numbers = [one for one in fields(kind) if "int" in str(hints[one.name]) or "float" in str(hints[one.name])]
    assert refused or not numbers or path == "data."


def refusal(config: Path, flag: str) -> str | None:
    """The line that refuses a flag; None where it is taken."""
    try:
        load_config(config, [flag])
    except InputError as error:
        return str(error)
    return None
