"""The configuration of a run: a YAML file and dotted overrides, checked once, before any work.

The smallest file names the two tables and the run folder; `genrec fit --help` prints every other setting.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ActionConfigFile, ArgumentError, ArgumentParser, Namespace  # type: ignore[attr-defined]

from genrec.data.timestamps import TimeUnit
from genrec.ranking.ranker import RankingConfig
from genrec.semtok.aligners import (
    ALIGNERS,
    ConcatenationConfig,
    FaeRecConfig,
    LlmEmbConfig,
    RecGoatConfig,
    TextTableConfig,
)
from genrec.semtok.aligners.fusion import FusionConfig
from genrec.semtok.errors import InputError
from genrec.semtok.quantizers.residual_kmeans import ResidualKMeansConfig
from genrec.semtok.quantizers.rqvae import RqVaeConfig
from genrec.sequential import Gru4RecConfig, LruRecConfig, SasRecConfig
from genrec.training.lm.config import LmConfig
from genrec.training.loop.options import MOST_SEED
from genrec.training.quantizer.fit import QuantizerConfig
from genrec.training.sequential.fit import SequentialTrainingConfig


@dataclass(frozen=True)
class DataConfig:
    """What is read, and how it is split.

    Attributes:
        items: item table (JSONL, CSV or Parquet) with item_id and title.
        interactions: log with user_id, item_id, timestamp.
        split: leave_last_out, by_time, or given (train.csv, valid.csv and test.csv in `splits`).
        splits: folder of a given split.
        time_unit: unit of the timestamps; null recognises it or asks.
        valid_share: by_time: share of events for validation.
        test_share: by_time: share of events for the test.
        cold_share: share of items stripped from every training history, to measure cold items.
        exclude_seen: leave items that a user has had out of their lists; null: where nobody had an item twice.
    """

    items: str = ""
    interactions: str = ""
    split: Literal["leave_last_out", "by_time", "given"] = "leave_last_out"
    splits: str | None = None
    time_unit: TimeUnit | None = None
    valid_share: float = 0.1
    test_share: float = 0.1
    cold_share: float = 0.0
    exclude_seen: bool | None = None

    def __post_init__(self) -> None:
        for name in ("items", "interactions"):
            if not getattr(self, name):
                raise InputError(f"--data.{name} is missing: the path of the {name} table")
            if not Path(getattr(self, name)).is_file():
                raise InputError(f"--data.{name} {getattr(self, name)}: no such file")
        if (self.split == "given") != (self.splits is not None):
            raise InputError("--data.split given and --data.splits FOLDER go together")
        if self.split == "given" and self.cold_share:
            raise InputError(
                f"--data.cold_share {self.cold_share}: a given split is taken as it is; none is drawn cold"
            )


@dataclass(frozen=True)
class TextConfig:
    """Text vectors.

    Attributes:
        encoder: tfidf, minilm, hf:MODEL, hf-last:MODEL or st:MODEL (a folder or id).
    """

    encoder: str = "tfidf"


@dataclass(frozen=True)
class AlignerConfig:
    """How words and behaviour become one vector.

    Attributes:
        name: fusion (nothing is trained; see `fusion`), or an aligner that is trained together with a recommender,
            which then is a component of the fused ranking: text, concatenation, faerec, llmemb or recgoat.
        backbone: of that recommender: sasrec, gru4rec or lrurec, of the shape of its section.
        training: how the two are trained.
        text: options of words alone.
        concatenation: options of words beside an ID vector.
        faerec: options of FAERec.
        llmemb: options of LLMEmb's adaptation.
        recgoat: options of RecGOAT.
    """

    name: str = "faerec"
    backbone: Literal["sasrec", "gru4rec", "lrurec"] = "sasrec"
    training: SequentialTrainingConfig = field(default_factory=SequentialTrainingConfig)
    text: TextTableConfig = field(default_factory=TextTableConfig)
    concatenation: ConcatenationConfig = field(default_factory=ConcatenationConfig)
    faerec: FaeRecConfig = field(default_factory=FaeRecConfig)
    llmemb: LlmEmbConfig = field(default_factory=LlmEmbConfig)
    recgoat: RecGoatConfig = field(default_factory=RecGoatConfig)

    def __post_init__(self) -> None:
        if self.name not in ("fusion", *ALIGNERS):
            raise InputError(f"--aligner.name {self.name!r}: choose one of fusion, {', '.join(ALIGNERS)}")

    @property
    def options(self) -> Any:
        """Configuration of the chosen aligner."""
        return getattr(self, self.name)


@dataclass(frozen=True)
class SemtokConfig:
    """Semantic IDs.

    Attributes:
        quantizer: residual_kmeans or rqvae.
        sizes: codes on each level; empty: by the size of the catalogue.
        extra_level: size of one more level that only keeps items apart; 0: none unless capacity forces it.
        rqvae: how an RQ-VAE is built and fitted; its `sizes` are the ones above.
    """

    quantizer: Literal["residual_kmeans", "rqvae"] = "residual_kmeans"
    sizes: tuple[int, ...] = ()
    extra_level: int = 0
    rqvae: RqVaeConfig = field(default_factory=RqVaeConfig)

    def __post_init__(self) -> None:
        if self.extra_level < 0 or any(size < 1 for size in self.sizes):
            raise InputError("--semtok.sizes must be at least 1 each, and --semtok.extra_level must not be negative")
        if math.prod((*self.sizes, max(1, self.extra_level))) >= 2**63:
            raise InputError(f"--semtok.sizes {list(self.sizes)}: more than 2^63 code paths")
        if self.rqvae.sizes:
            raise InputError("--semtok.rqvae.sizes: give --semtok.sizes, which any quantizer takes")

    def fitting(self) -> QuantizerConfig:
        """Configuration of the quantiser's fit."""
        if self.quantizer == "rqvae":
            return replace(self.rqvae, sizes=self.sizes)
        return ResidualKMeansConfig(sizes=self.sizes)


@dataclass(frozen=True)
class TopKConfig:
    """The lists that `fit` writes at its end.

    Attributes:
        k: items a user; 0 writes no lists.
        shard_size: users a file.
    """

    k: int = 20
    shard_size: int = 4096

    def __post_init__(self) -> None:
        if self.k < 0 or self.shard_size < 1:
            raise InputError("--topk.k must not be negative and --topk.shard_size must be at least 1")


@dataclass(frozen=True)
class FitConfig:
    """A run.

    Attributes:
        run: the folder that everything is written to.
        data: see `DataConfig`.
        text: see `TextConfig`.
        sasrec: shape of the collaborative model, and of the aligner's where that is its backbone.
        gru4rec: shape of the aligner's recommender where that is its backbone.
        lrurec: shape of the aligner's recommender where that is its backbone.
        collaborative: its training.
        aligner: how text and behaviour become one vector.
        fusion: the aligner that needs no training.
        semtok: semantic IDs.
        lm: the language model and its training.
        ranking: how lists are made; `dense_weight` null takes what wins on validation.
        topk: the lists that are written at the end.
        seed: of everything random.
        refit: a finished run of the same settings, whose epochs and shares are taken; the validation items are then
            learned from too, as before going to production.
        reuse: another run; of its stages those that read the same, with the same settings, are linked into this one
            instead of being made again.
    """

    run: str
    data: DataConfig
    text: TextConfig = field(default_factory=TextConfig)
    sasrec: SasRecConfig = field(default_factory=SasRecConfig)
    gru4rec: Gru4RecConfig = field(default_factory=Gru4RecConfig)
    lrurec: LruRecConfig = field(default_factory=LruRecConfig)
    collaborative: SequentialTrainingConfig = field(default_factory=SequentialTrainingConfig)
    aligner: AlignerConfig = field(default_factory=AlignerConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    semtok: SemtokConfig = field(default_factory=SemtokConfig)
    lm: LmConfig = field(default_factory=LmConfig)
    ranking: RankingConfig = field(default_factory=RankingConfig)
    topk: TopKConfig = field(default_factory=TopKConfig)
    seed: int = 0
    refit: str | None = None
    reuse: str | None = None

    def __post_init__(self) -> None:
        if not self.run:
            raise InputError("--run is missing: the folder to write the run to")
        if self.reuse is not None and not (Path(self.reuse) / "config.yaml").is_file():
            raise InputError(f"--reuse {self.reuse}: not a run of genrec fit")
        if self.refit is not None and Path(self.refit).resolve() == Path(self.run).resolve():
            raise InputError(f"--refit {self.refit}: is --run itself and would lose what it chose; name another")
        if not 0 <= self.seed <= MOST_SEED:
            raise InputError(f"--seed {self.seed} must not be negative or above {MOST_SEED}")
        if self.aligner.name == "recgoat":
            self.aligner.recgoat.check_width(getattr(self, self.aligner.backbone).width, self.aligner.backbone)
        if self.ranking.max_items not in (RankingConfig.max_items, self.lm.max_items):
            asked = f"--ranking.max_items {self.ranking.max_items}"
            raise InputError(f"{asked}: as much is read as in training; set --lm.max_items {self.lm.max_items} instead")

    def to_yaml(self) -> str:
        """The whole configuration as YAML."""
        text: str = yaml.safe_dump(plain(asdict(self)), sort_keys=False, allow_unicode=True)
        return text


def fit_parser() -> ArgumentParser:
    """The parser of `genrec fit`."""
    about = "Every stage that is out of date; with --before_lm, those before the language model (docs/how-to/gpu.md)."
    parser = ArgumentParser(prog="genrec fit", exit_on_error=False, description=about)
    parser.add_argument("--config", action=ActionConfigFile, help="the YAML file (given first, without the flag)")
    parser.add_class_arguments(FitConfig)
    return parser


def load_config(path: Path, overrides: Sequence[str] = ()) -> FitConfig:
    """Read a YAML file and apply overrides such as `--lm.epochs 10`.

    Raises:
        InputError: one line that names the file or the flag.
    """
    return FitConfig(**values_of(fit_parser(), path, overrides))


def values_of(parser: ArgumentParser, path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """The sections that a YAML file and overrides give, built by the parser's classes.

    Raises:
        InputError: one line that names the file or the flag.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such configuration file")
    try:
        parsed = parser.parse_args(["--config", str(path), *overrides])
        _check_sections(path, parsed, parser.get_defaults())
        values = parser.instantiate(parsed)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    except ArgumentError as error:
        raise InputError(f"{path}: {' '.join(str(error).split())}") from None
    return {name: value for name, value in values.items() if name != "config"}


def _check_sections(path: Path, values: Namespace, defaults: Namespace, above: str = "--") -> None:
    """Refuse one value where a section of settings belongs, and none where there must be one: the parser does not."""
    for name, default in vars(defaults).items():
        value = getattr(values, name)
        if value is None and default is not None:
            raise InputError(f"{path}: {above}{name} has no value")
        if isinstance(default, Namespace):
            if not isinstance(value, Namespace):
                raise InputError(f"{path}: {above}{name} {value!r}: a section of settings belongs here")
            _check_sections(path, value, default, f"{above}{name}.")


def plain(value: Any) -> Any:
    """Tuples as lists, for YAML."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value
