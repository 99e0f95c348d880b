"""`RankingConfig`: how lists are made where a request does not say; light to import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from genrec.semtok import options as check
from genrec.semtok.errors import OptionError

Ranking = Literal["beam", "rerank", "dense", "fused"]


class FusionWeights(NamedTuple):
    """Of the fused ranking: w, u and s."""

    dense: float
    cooccurrence: float = 0.0
    sequential: float = 0.0

    @property
    def of_codes(self) -> float:
        """What is left for the codes, before co-occurrence."""
        return (1 - self.sequential) * (1 - self.dense)

    @property
    def of_dense(self) -> float:
        """What the dense head has, before co-occurrence."""
        return (1 - self.sequential) * self.dense


@dataclass(frozen=True)
class RankingConfig:
    """How lists are made where a request does not say.

    Attributes:
        ranking: see the module.
        beams: prefixes kept on each level.
        dense_weight: w of the fused ranking, in [0, 1]; None: `genrec fit` chooses on validation, others take 0.5.
        cooccurrence_weight: u of the fused ranking, in [0, 1]; None: chosen on validation, by others 0.
        sequential_weight: s of the fused ranking, in [0, 1]; None: chosen on validation, by others 0.
        language_model_share: share of the fused lists for which the language model is asked, by validation cases: those
            of which the aligned recommender and co-occurrence are least certain; 1 asks it for every list, 0 for none.
        language_model_entropy: nats above which such a distribution of theirs is uncertain; None: by that share.
        certain_cooccurrence_weight: u of lists without the language model, whose s is 1; None: what wins on validation.
        max_items: the last items of a history that are read.
        batch_tokens: padded prompt tokens of one batch.
    """

    ranking: Ranking = "fused"
    beams: int = 20
    dense_weight: float | None = None
    cooccurrence_weight: float | None = None
    sequential_weight: float | None = None
    language_model_share: float = 1.0
    language_model_entropy: float | None = None
    certain_cooccurrence_weight: float | None = None
    max_items: int = 20
    batch_tokens: int = 8192

    def __post_init__(self) -> None:
        check.choice(self, "ranking", get_args(Ranking))
        check.fraction(self, "dense_weight", "cooccurrence_weight", "sequential_weight")
        check.fraction(self, "language_model_share", "certain_cooccurrence_weight")
        check.not_negative(self, "language_model_entropy")
        for name in ("language_model_entropy", "certain_cooccurrence_weight"):
            if getattr(self, name) is not None and self.language_model_share == 1:
                raise OptionError(name, f"{getattr(self, name)}: goes with a language_model_share below 1")
        check.at_least_one(self, "beams", "max_items", "batch_tokens")

    @property
    def fusion_weights(self) -> FusionWeights:
        """Of the fused ranking, with what stands for those that nobody chose."""
        dense = 0.5 if self.dense_weight is None else self.dense_weight
        return FusionWeights(dense, self.cooccurrence_weight or 0.0, self.sequential_weight or 0.0)

    @property
    def certain_weights(self) -> FusionWeights:
        """Of the fused lists for which the language model is not asked."""
        return FusionWeights(1.0, self.certain_cooccurrence_weight or 0.0, 1.0)
