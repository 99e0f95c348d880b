"""The configuration of a run: a YAML file and dotted overrides, checked once, before any work.

The smallest file names the two tables and the run folder; `genrec fit --help` prints the settings that people change,
`--help all` every other one. The sections of parts that can be chosen (aligners, quantisers, backbones) come from their
registries. Nothing here is heavy to import, so that a mistyped path or flag is answered at once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, make_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args

import yaml

from genrec.data.config import DataConfig
from genrec.ranking.config import RankingConfig
from genrec.semtok import options as check
from genrec.semtok.aligners import ALIGNERS
from genrec.semtok.aligners.config import FusionConfig, LlmEsrConfig, RecGoatConfig
from genrec.semtok.encoders import best_encoder, encoder_entry
from genrec.semtok.errors import OptionError, did_you_mean, did_you_mean_file
from genrec.semtok.quantizers import QUANTIZERS, reads_collaborative
from genrec.sequential import BACKBONES
from genrec.sequential.config import SasRecConfig
from genrec.training.lm.config import LmConfig
from genrec.training.sequential.config import AlignerTrainingConfig, SequentialTrainingConfig

FUSION = "fusion"  # the aligner that needs no training
Section = TypeVar("Section")
Effort = Literal["quick", "standard", "thorough"]
Baseline = Literal["sasrec"]


class WithBackbones:
    """A configuration that has a section for the shape of each backbone (see `with_sections`)."""

    def shape(self, backbone: str) -> Any:
        """The shape of a backbone: its section, or the defaults where this configuration was made without one."""
        return getattr(self, backbone, None) or BACKBONES[backbone].config()

    def to_yaml(self) -> str:
        """The whole configuration as YAML, in which tuples are lists."""
        values = json.loads(json.dumps(asdict(cast(Any, self))))
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


@dataclass(frozen=True)
class TextConfig:
    """Text vectors.

    Attributes:
        encoder: tfidf, minilm, smollm2, hf:MODEL, hf-last:MODEL or st:MODEL (a folder or id), or scft:FOLDER (what
            genrec.training.scft wrote); the best that is installed where nothing is said: minilm where its package is
            there, else tfidf.
    """

    encoder: str = field(default_factory=best_encoder)

    def __post_init__(self) -> None:
        encoder_entry(self.encoder)


@dataclass(frozen=True)
class AlignerConfig:
    """How the text and the collaborative modality become one vector; beside it a section of options for each aligner.

    Attributes:
        name: fusion (nothing is trained; see `fusion`), or an aligner that is trained together with a recommender,
            which then is a component of the fused ranking: text, concatenation, faerec, llmemb, llm_esr or recgoat.
        backbone: of that recommender: lrurec, sasrec, gru4rec, bert4rec or fmlprec, of the shape of its section.
        training: how the two are trained.
    """

    name: str = "faerec"
    backbone: str = "lrurec"
    training: AlignerTrainingConfig = field(default_factory=lambda: AlignerTrainingConfig(0, batch_positions=0))

    def __post_init__(self) -> None:
        _check_name(self, "name", [FUSION, *ALIGNERS])
        _check_name(self, "backbone", BACKBONES)

    @property
    def options(self) -> Any:
        """Configuration of the chosen aligner; None for fusion, whose section stands beside this one."""
        return getattr(self, self.name, None)


@dataclass(frozen=True)
class SemtokConfig:
    """Semantic IDs; beside it a section of options for each quantiser.

    Attributes:
        quantizer: residual_kmeans or rqvae.
        sizes: codes on each level; empty: by the size of the catalogue.
        extra_level: size of one more level that only keeps items apart; 0: none unless capacity forces it.
        codes: semantic IDs made elsewhere, in place of a quantiser's: a JSON file of item id and codes, as LETTER and
            MiniOneRec publish them.
    """

    quantizer: str = "residual_kmeans"
    sizes: tuple[int, ...] = ()
    extra_level: int = 0
    codes: str | None = None

    def __post_init__(self) -> None:
        _check_name(self, "quantizer", QUANTIZERS)
        check.path(self, "codes")
        if self.codes is not None and not Path(self.codes).is_file():
            raise OptionError("codes", f"{self.codes}: no such file{did_you_mean_file(self.codes)}")
        check.sizes(self, "sizes")
        check.not_negative(self, "extra_level")
        if self.extra_level > check.MOST_CODES:
            raise OptionError("extra_level", f"{self.extra_level} must be at most {check.MOST_CODES:,}")
        if math.prod((*self.sizes, max(1, self.extra_level))) >= 2**63:
            raise OptionError("sizes", f"{list(self.sizes)}: more than 2^63 code paths")

    @property
    def options(self) -> Any:
        """Configuration of the chosen quantiser."""
        return getattr(self, self.quantizer)


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
        check.not_negative(self, "k")
        check.at_least_one(self, *(["k"] if self.k else []), "shard_size")


@dataclass(frozen=True)
class FitConfig(WithBackbones):
    """A run; beside it a section for the shape of each backbone.

    Attributes:
        run: the folder that everything is written to.
        data: see `DataConfig`.
        text: see `TextConfig`.
        sasrec: shape of the collaborative model, and of the aligner's recommender where that is its backbone.
        collaborative: training of the collaborative model, SASRec of item ids alone, where an aligner or quantiser
            reads its vectors (fusion, llmemb, recgoat, semtok.rqvae.collaborative_weight), or `baseline` asks for it.
        aligner: how the text and the collaborative modality become one vector.
        fusion: the aligner that needs no training.
        semtok: semantic IDs.
        lm: the language model and its training.
        ranking: how lists are made; weights of null are chosen on validation.
        topk: the lists that are written at the end.
        baseline: a model that is trained to be compared with in the report, sasrec, which can take as long as all the
            rest; null: only baselines that need no training.
        effort: quick, standard or thorough: a third of the epochs, as many, or twice as many as the rules give where
            epochs are left to the data.
        seed: of everything random.
        refit: a finished run of the same settings, whose epochs and fusion weights are taken; the validation items are
            then learned from too, as before going to production.
        reuse: another run; of its stages those that read the same, with the same settings, are linked into this one
            instead of being made again.
    """

    run: str
    data: DataConfig
    text: TextConfig = field(default_factory=TextConfig)
    sasrec: SasRecConfig = field(default_factory=SasRecConfig)
    collaborative: SequentialTrainingConfig = field(
        default_factory=lambda: SequentialTrainingConfig(0, batch_positions=0)
    )
    aligner: AlignerConfig = field(default_factory=lambda: aligner_section()())
    fusion: FusionConfig = field(default_factory=FusionConfig)
    semtok: SemtokConfig = field(default_factory=lambda: semtok_section()())
    lm: LmConfig = field(default_factory=lambda: LmConfig(batch_tokens=0))
    ranking: RankingConfig = field(default_factory=RankingConfig)
    topk: TopKConfig = field(default_factory=TopKConfig)
    baseline: Baseline | None = None
    effort: Effort = "standard"
    seed: int = 0
    refit: str | None = None
    reuse: str | None = None

    def __post_init__(self) -> None:
        if not self.run:
            raise OptionError("run", "is missing: the folder to write the run to")
        check.path(self, "run", "refit", "reuse")
        if self.refit is not None and Path(self.refit).resolve() == Path(self.run).resolve():
            raise OptionError("refit", f"{self.refit}: is run itself and would lose what it chose; name another")
        for name in ("reuse", "refit"):
            other = getattr(self, name)
            if other is not None and not (Path(other) / "config.yaml").is_file():
                raise OptionError(name, f"{other}: not a run of genrec fit{did_you_mean_file(other)}")
        check.seed(self, "seed")
        check.choice(self, "effort", get_args(Effort))
        if self.baseline is not None:
            check.choice(self, "baseline", get_args(Baseline))
        if isinstance(self.aligner.options, RecGoatConfig | LlmEsrConfig):
            try:
                self.aligner.options.check_width(self.shape(self.aligner.backbone).width)
            except OptionError as error:
                raise error.within(f"aligner.{self.aligner.name}") from None
        if self.ranking.language_model_share < 1 and self.aligner.name == FUSION:
            raise OptionError(
                "ranking.language_model_share",
                f"{self.ranking.language_model_share}: without a trained aligner no recommender stands in for the "
                "language model; name another aligner, or 1",
            )
        if self.ranking.max_items not in (RankingConfig.max_items, self.lm.max_items):
            raise OptionError("ranking.max_items", f"{self.ranking.max_items}: set lm.max_items instead")

    @property
    def reads_collaborative(self) -> bool:
        """Whether the aligner or the quantiser reads the vectors of the collaborative model."""
        if self.aligner.name == FUSION:
            read = self.fusion.method != "text"
        else:
            read = ALIGNERS[self.aligner.name].reads_collaborative
        return read or reads_collaborative(self.semtok.options)


def aligner_section() -> type[AlignerConfig]:
    """`AlignerConfig` with the options of every aligner in the registry."""
    return with_sections(AlignerConfig, ALIGNERS)


def semtok_section() -> type[SemtokConfig]:
    """`SemtokConfig` with the options of every quantiser in the registry."""
    return with_sections(SemtokConfig, QUANTIZERS)


def fit_class() -> type[FitConfig]:
    """`FitConfig` with the sections of everything in the registries."""
    return with_sections(FitConfig, BACKBONES, aligner=aligner_section(), semtok=semtok_section())


def with_sections(kind: type[Section], registry: Mapping[str, Any], **parts: type[Any]) -> type[Section]:
    """The same dataclass with a further section, at its defaults, for each entry of a registry and each other part."""
    sections = {name: entry.config for name, entry in registry.items()} | parts
    return _with_sections(cast(Any, kind), tuple(sections.items()))


@cache  # the same parts give the same class, or two readings of one file would differ
def _with_sections(kind: Any, sections: tuple[tuple[str, type[Any]], ...]) -> Any:
    told = (kind.__doc__ or "").rstrip()
    told += "".join(f"\n        {name}: options of {name}." for name, _ in sections if f"        {name}: " not in told)
    named = {"__module__": kind.__module__, "__doc__": f"{told}\n    "}
    added = [(name, part, field(default_factory=part)) for name, part in sections]
    return make_dataclass(kind.__name__, added, bases=(kind,), frozen=True, namespace=named)


def _check_name(config: Any, name: str, known: Mapping[str, Any] | list[str]) -> None:
    value = getattr(config, name)
    if value not in known:
        raise OptionError(name, f"{value!r}: choose one of {', '.join(known)}{did_you_mean(value, known)}")
