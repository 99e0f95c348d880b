"""The configuration of a comparison: which aligners, through which backbones, by which seeds, on which data.

    data: {items: items.jsonl, interactions: log.csv, cold_share: 0.05}
    run: runs/compare
    aligners:
      plain: {}
      faerec: {temperature: 0.1}
      faerec_hot: {aligner: faerec, temperature: 0.5}
      plain_longer: {aligner: plain, training: {epochs: 48}}
    backbones: [sasrec]
    seeds: [0, 1, 2]

A line of `aligners` is a name and its options. The name says what is built, unless `aligner` among the options says it;
so one aligner may stand in the table several times. `training` among them changes that of this line.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser  # type: ignore[attr-defined]

from genrec.cli.config import DataConfig, TextConfig, plain, values_of
from genrec.semtok.aligners import RecGoatConfig, aligner_config
from genrec.semtok.errors import InputError
from genrec.sequential import (
    BACKBONES,
    Bert4RecConfig,
    Gru4RecConfig,
    LightGcnConfig,
    LruRecConfig,
    SasRecConfig,
)
from genrec.training.loop.options import MOST_SEED, typed_options
from genrec.training.sequential.fit import SequentialTrainingConfig

PLAIN = "plain"  # one free vector an item: what every other line is measured against unless `reference` says otherwise
LIGHTGCN = "lightgcn"


@dataclass(frozen=True)
class CompareConfig:
    """A comparison.

    Attributes:
        run: the folder that everything is written to.
        data: see `DataConfig`.
        text: see `TextConfig`.
        aligners: names and options, in the order of the table; `plain` comes first whether it is named or not.
        backbones: sasrec, gru4rec, bert4rec, lrurec or lightgcn, each run with every aligner.
        seeds: each draws every cell's initialisation, dropout and batches; the split is the same for all.
        collaborative: the plain model whose vectors aligners may look at: sasrec, or lightgcn.
        training: of every cell whose line does not say otherwise; its own seed is not read.
        negatives: classes that the softmax samples for a batch; null: the whole catalogue.
        sasrec: shape of the backbone.
        gru4rec: shape of the backbone.
        bert4rec: shape of the backbone.
        lrurec: shape of the backbone.
        lightgcn: shape of the model.
        split_seed: draws the cold items.
        reference: the line that every other is measured against, by paired intervals.
    """

    run: str
    data: DataConfig
    text: TextConfig = field(default_factory=TextConfig)
    aligners: dict[str, dict[str, Any]] = field(default_factory=lambda: {PLAIN: {}, "text": {}, "concatenation": {}})
    backbones: tuple[str, ...] = ("sasrec",)
    seeds: tuple[int, ...] = (0, 1, 2)
    collaborative: Literal["sasrec", "lightgcn"] = "sasrec"
    training: SequentialTrainingConfig = field(default_factory=SequentialTrainingConfig)
    negatives: int | None = None
    sasrec: SasRecConfig = field(default_factory=SasRecConfig)
    gru4rec: Gru4RecConfig = field(default_factory=Gru4RecConfig)
    bert4rec: Bert4RecConfig = field(default_factory=Bert4RecConfig)
    lrurec: LruRecConfig = field(default_factory=LruRecConfig)
    lightgcn: LightGcnConfig = field(default_factory=LightGcnConfig)
    split_seed: int = 0
    reference: str = PLAIN

    def __post_init__(self) -> None:
        if not self.run:
            raise InputError("--run is missing: the folder to write the comparison to")
        for name in self.backbones:
            if name not in (*BACKBONES, LIGHTGCN):
                raise InputError(f"--backbones {name!r}: choose of {', '.join([*BACKBONES, LIGHTGCN])}")
        for flag, values in (("backbones", self.backbones), ("seeds", self.seeds)):
            if not values or len(set(values)) < len(values):
                raise InputError(f"--{flag} {list(values)}: at least one, and none twice")
        for flag, seeds in (("seeds", self.seeds), ("split_seed", (self.split_seed,))):
            for seed in seeds:
                if not 0 <= seed <= MOST_SEED:
                    raise InputError(f"--{flag} {seed} must not be negative or above {MOST_SEED}")
        if self.negatives is not None and self.negatives < 1:
            raise InputError(f"--negatives {self.negatives} must be at least 1")
        for name in self.aligners:
            if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_.]+", name):
                raise InputError(f"--aligners {name!r}: a name is of letters, digits, _ and .")
            _, options = self.aligner(name)
            if isinstance(options, RecGoatConfig):
                for backbone in self.backbones:
                    options.check_width(self.backbone(backbone).width, backbone)
            self.training_of(name)
        if self.reference not in self.lines:
            raise InputError(f"--reference {self.reference!r}: choose one of the lines, {', '.join(self.lines)}")

    @property
    def lines(self) -> list[str]:
        """Names of the table's lines, `plain` first."""
        return [PLAIN, *(name for name in self.aligners if name != PLAIN)]

    def aligner(self, name: str) -> tuple[str, Any]:
        """What is built for a line: `plain` and None, or a name of `ALIGNERS` and its configuration.

        Raises:
            InputError: no such aligner or option, or a value that is bad or of another type.
        """
        options = self._options(name)
        kind = options.pop("aligner", name)
        options.pop("training", None)
        if kind == PLAIN:
            if options:
                raise InputError(f"--aligners.{name}: plain has no options but training")
            return PLAIN, None
        if name == PLAIN:
            raise InputError(f"--aligners.{name}: this line is the plain model, which others look at")
        if not isinstance(kind, str):
            raise InputError(f"--aligners.{name}.aligner {kind!r}: the name of an aligner")
        _, defaults = aligner_config(kind)
        typed = typed_options(type(defaults), options, f"--aligners.{name}")
        # A 1 that was given for 1.0 stays one: the cells of finished comparisons are found again by a hash of it.
        return aligner_config(kind, **{key: options[key] if options[key] == one else one for key, one in typed.items()})

    def training_of(self, name: str) -> SequentialTrainingConfig:
        """How a line's cells are trained.

        Raises:
            InputError: no such setting, or a bad value.
        """
        own = self._options(name).get("training", {})
        if not isinstance(own, dict):
            raise InputError(f"--aligners.{name}.training {own}: settings by name, such as {{epochs: 48}}")
        known = [one.name for one in fields(SequentialTrainingConfig) if one.name != "seed"]
        for setting in own:
            if setting not in known:
                raise InputError(f"--aligners.{name}.training.{setting}: choose of {', '.join(known)}")
        return replace(self.training, **typed_options(SequentialTrainingConfig, own, f"--aligners.{name}.training"))

    def _options(self, name: str) -> dict[str, Any]:
        return dict(self.aligners.get(name) or {})

    def backbone(self, name: str) -> Any:
        """The configuration of a backbone."""
        return getattr(self, name)

    def to_yaml(self) -> str:
        """The whole configuration as YAML."""
        text: str = yaml.safe_dump(plain(asdict(self)), sort_keys=False, allow_unicode=True)
        return text


def compare_parser() -> ArgumentParser:
    """The parser of `genrec compare`."""
    parser = ArgumentParser(
        prog="genrec compare", exit_on_error=False, description="Aligners x backbones x seeds, one table."
    )
    parser.add_argument("--config", action=ActionConfigFile, help="the YAML file (given first, without the flag)")
    parser.add_class_arguments(CompareConfig)
    return parser


def load_compare_config(path: Path, overrides: Sequence[str] = ()) -> CompareConfig:
    """Read a YAML file and apply overrides such as `--seeds [0]`.

    Raises:
        InputError: one line that names the file or the flag.
    """
    return CompareConfig(**values_of(compare_parser(), path, overrides))
