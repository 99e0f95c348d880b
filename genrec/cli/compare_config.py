"""The configuration of a comparison: which aligners, through which backbones, by which seeds, on which data.

    data: {items: items.jsonl, interactions: log.csv, cold_share: 0.05}
    run: runs/compare
    aligners:
      plain: {}
      faerec: {temperature: 0.1}
      faerec_hot: {aligner: faerec, temperature: 0.5}
      plain_longer: {aligner: plain, training: {epochs: 48}}
      llmemb_scft: {aligner: llmemb, encoder: "scft:runs/scft"}
    backbones: [sasrec]
    seeds: [0, 1, 2]

A line of `aligners` is a name and its options. The name says what is built, unless `aligner` among the options says it;
so one aligner may stand in the table several times. `training` among them changes that of this line, `encoder` the text
vectors that it reads.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from genrec.cli.config import TextConfig, WithBackbones, with_sections
from genrec.cli.parsing import config_parser, read_config
from genrec.data.config import DataConfig
from genrec.run_folder import TEXT
from genrec.semtok import options as check
from genrec.semtok.aligners import PLAIN, aligner_config, aligner_entry
from genrec.semtok.aligners.config import LlmEsrConfig, RecGoatConfig
from genrec.semtok.encoders import encoder_entry
from genrec.semtok.errors import OptionError, did_you_mean
from genrec.semtok.folders import hash_value
from genrec.semtok.options import MOST_SEED
from genrec.sequential import BACKBONES
from genrec.training.loop.options import typed_options
from genrec.training.sequential.config import AlignerTrainingConfig


@dataclass(frozen=True)
class CompareConfig(WithBackbones):
    """A comparison; beside it a section for the shape of each backbone.

    Attributes:
        run: the folder that everything is written to.
        data: see `DataConfig`.
        text: see `TextConfig`.
        aligners: names and options, in the order of the table; `plain` comes first whether it is named or not.
        backbones: sasrec, gru4rec, bert4rec, lrurec or fmlprec, each run with every aligner.
        seeds: each draws every cell's initialisation, dropout and batches; the split is the same for all.
        training: of every cell whose line does not say otherwise; its own seed is not read.
        negatives: classes that the softmax samples for a batch; null: none, it is over the whole catalogue, and over
            8,192 of more than 100,000 items.
        split_seed: draws the cold items.
        reference: the line that every other is measured against, by paired intervals.
    """

    run: str
    data: DataConfig
    text: TextConfig = field(default_factory=TextConfig)
    aligners: dict[str, dict[str, Any]] = field(default_factory=lambda: {PLAIN: {}, "text": {}, "concatenation": {}})
    backbones: tuple[str, ...] = ("sasrec",)
    seeds: tuple[int, ...] = (0, 1, 2)
    training: AlignerTrainingConfig = field(default_factory=AlignerTrainingConfig)
    negatives: int | None = None
    split_seed: int = 0
    reference: str = PLAIN

    def __post_init__(self) -> None:
        if not self.run:
            raise OptionError("run", "is missing: the folder to write the comparison to")
        check.path(self, "run")
        try:
            _settled(self.training)
        except OptionError as error:
            raise error.within("training") from None
        for name in self.backbones:
            if name not in BACKBONES:
                near = did_you_mean(name, BACKBONES)
                raise OptionError("backbones", f"{name!r}: choose of {', '.join(BACKBONES)}{near}")
        for option, values in (("backbones", self.backbones), ("seeds", self.seeds)):
            if not values or len(set(values)) < len(values):
                raise OptionError(option, f"{list(values)}: at least one, and none twice")
        for seed in self.seeds:
            if not 0 <= seed <= MOST_SEED:
                raise OptionError("seeds", f"{seed} must not be negative or above {MOST_SEED}")
        check.seed(self, "split_seed")
        check.at_least_one(self, "negatives")
        for name in self.aligners:
            if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_.]+", name):
                raise OptionError("aligners", f"{name!r}: a name is of letters, digits, _ and .")
            self._check_line(name)
        if self.reference not in self.lines:
            near = did_you_mean(self.reference, self.lines)
            raise OptionError("reference", f"{self.reference!r}: choose of {', '.join(self.lines)}{near}")

    def _check_line(self, name: str) -> None:
        """Refuse a line with a bad option, naming its place among the lines."""
        try:
            kind, options = self.aligner(name)
            encoder_entry(self._encoder(name))
            if self._encoder(name) != self.text.encoder and aligner_entry(kind).reads_users:
                raise OptionError("encoder", f"{kind} also reads users, whose texts have the vectors of text.encoder")
            if isinstance(options, RecGoatConfig | LlmEsrConfig):
                for backbone in self.backbones:
                    options.check_width(self.shape(backbone).width)
            self.training_of(name)
        except OptionError as error:
            raise error.within(f"aligners.{name}") from None

    @property
    def lines(self) -> list[str]:
        """Names of the table's lines, `plain` first."""
        return [PLAIN, *(name for name in self.aligners if name != PLAIN)]

    def aligner(self, name: str) -> tuple[str, Any]:
        """What is built for a line: `plain` and None, or a name of `ALIGNERS` and its configuration.

        Raises:
            OptionError: no such aligner or option, or a value that is bad or of another type.
        """
        options = self._options(name)
        kind = options.pop("aligner", name)
        options.pop("training", None)
        if kind == PLAIN:
            if options:
                raise OptionError(next(iter(options)), "is none: plain has no options but training")
            return PLAIN, None
        if name == PLAIN:
            raise OptionError("aligner", f"{kind!r}: this line is the plain model, which others look at")
        if not isinstance(kind, str):
            raise OptionError("aligner", f"{kind!r}: the name of an aligner")
        options.pop("encoder", None)
        typed = typed_options(aligner_entry(kind).config, options)
        # A 1 that was given for 1.0 stays one: the cells of finished comparisons are found again by a hash of it.
        typed = {key: options[key] if options[key] == value else value for key, value in typed.items()}
        return kind, aligner_config(kind, **typed)

    def training_of(self, name: str) -> AlignerTrainingConfig:
        """How a line's cells are trained; raises OptionError for an unknown setting or a bad value."""
        own = self._options(name).get("training", {})
        if not isinstance(own, dict):
            raise OptionError("training", f"{own}: settings by name, such as {{epochs: 48}}")
        known = [field.name for field in fields(AlignerTrainingConfig) if field.name != "seed"]
        try:
            for setting in own:
                if setting not in known:
                    raise OptionError(setting, f"is none: choose of {', '.join(known)}{did_you_mean(setting, known)}")
            return _settled(replace(self.training, **typed_options(AlignerTrainingConfig, own)))
        except OptionError as error:
            raise error.within("training") from None

    def text_folder(self, name: str) -> str:
        """The folder of the run with the text vectors of a line."""
        encoder = self._encoder(name)
        return TEXT if encoder == self.text.encoder else f"{TEXT}-{hash_value(encoder)[:8]}"

    @property
    def encoders(self) -> dict[str, str]:
        """The text encoders of all lines by `text_folder`, that of `text` first."""
        return {TEXT: self.text.encoder} | {self.text_folder(name): self._encoder(name) for name in self.lines}

    def _encoder(self, name: str) -> str:
        return str(self._options(name).get("encoder", self.text.encoder))

    def _options(self, name: str) -> dict[str, Any]:
        return dict(self.aligners.get(name) or {})


def _settled(training: AlignerTrainingConfig) -> AlignerTrainingConfig:
    """The same; raises OptionError where something is left to the size of the data, as it may be in `genrec fit`."""
    check.at_least_one(training, "epochs", "batch_positions")
    return training


def compare_class() -> type[CompareConfig]:
    """`CompareConfig` with a section for the shape of each backbone in the registry."""
    return with_sections(CompareConfig, BACKBONES)


def compare_parser() -> ArgumentParser:
    """The parser of `genrec compare`."""
    return config_parser("genrec compare", compare_class(), "Aligners x backbones x seeds, one table.")


def load_compare_config(path: Path, overrides: Sequence[str] = ()) -> CompareConfig:
    """Read a YAML file and overrides such as `--seeds [0]`; raises InputError that names the file or the flag."""
    return read_config(compare_parser(), compare_class(), path, overrides)
