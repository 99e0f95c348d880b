"""How a sequential model is trained, alone (`SequentialTrainingConfig`) and with text vectors of the items at hand
(`AlignerTrainingConfig`); light to import."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from genrec.semtok import options as check

FULL_SOFTMAX = 100_000  # items up to which a softmax has all of them; beyond, it has a sample of `NEGATIVES` a batch
NEGATIVES = 8_192


@dataclass(frozen=True)
class SequentialTrainingConfig:
    """How a sequential model is trained.

    Attributes:
        epochs: passes over the histories at most; 0, in a section of `genrec fit`: by the size of the data.
        patience: epochs without a better validation recall before stopping.
        batch_positions: padded positions of a batch; 0, in a section of `genrec fit`: by the size of the data.
        learning_rate: peak, AdamW with betas (0.9, 0.98); null: 1e-3, and 1.5e-3 for batches of 1,024 and more.
        weight_decay: AdamW's.
        valid_cases: validation cases ranked after each epoch (drawn by seed where there are more).
        seed: initialisation, dropout and batches.
    """

    epochs: int = 48
    patience: int = 10
    batch_positions: int = 512
    learning_rate: float | None = None
    weight_decay: float = 0.0
    valid_cases: int = 10_000
    seed: int = 0

    def __post_init__(self) -> None:
        check.at_least_one(self, "patience", "valid_cases")
        check.positive(self, "learning_rate")
        check.not_negative(self, "epochs", "batch_positions", "weight_decay")
        check.seed(self, "seed")

    @property
    def peak_learning_rate(self) -> float:
        """`learning_rate`, or the default of the batch's size."""
        if self.learning_rate is not None:
            return self.learning_rate
        return 1e-3 if self.batch_positions < 1024 else 1.5e-3

    def facts(self) -> dict[str, Any]:
        """What tells one training from another."""
        return asdict(self)


@dataclass(frozen=True)
class AlignerTrainingConfig(SequentialTrainingConfig):
    """How a sequential model is trained with an aligner.

    Attributes:
        epochs: passes over the histories at most; 0, in a section of `genrec fit`: by the size of the data.
        patience: epochs without a better validation recall before stopping.
        batch_positions: padded positions of a batch; 0, in a section of `genrec fit`: by the size of the data.
        learning_rate: peak, AdamW with betas (0.9, 0.98); null: 1e-3, and 1.5e-3 for batches of 1,024 and more.
        weight_decay: AdamW's.
        valid_cases: validation cases ranked after each epoch (drawn by seed where there are more).
        seed: initialisation, dropout and batches.
        distillation: weight of the pull of a user's hidden state to the mean of those of similar users (LLM-ESR; 0.1 in
            the paper); 0: none.
        similar_users: users that teach each user, nearest by the mean text vector of their histories.
    """

    distillation: float = 0.0
    similar_users: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        check.not_negative(self, "distillation")
        check.at_least_one(self, "similar_users")

    def facts(self) -> dict[str, Any]:
        """Without distillation those of a training that has no such option, so that what was trained stays."""
        facts = super().facts()
        if not self.distillation:
            del facts["distillation"], facts["similar_users"]
        return facts
