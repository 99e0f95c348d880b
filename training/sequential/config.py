"""`SequentialTrainingConfig`: how a sequential model is trained; light to import."""

from __future__ import annotations

from dataclasses import dataclass

from genrec.semtok import options as check


@dataclass(frozen=True)
class SequentialTrainingConfig:
    """How a sequential model is trained.

    Attributes:
        epochs: passes over the histories at most.
        patience: epochs without a better validation recall before stopping.
        batch_positions: padded positions of a batch.
        learning_rate: peak, AdamW with betas (0.9, 0.98).
        weight_decay: AdamW's.
        valid_cases: validation cases ranked after each epoch (drawn by seed where there are more).
        seed: initialisation, dropout and batches.
    """

    epochs: int = 40
    patience: int = 6
    batch_positions: int = 512
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    valid_cases: int = 10_000
    seed: int = 0

    def __post_init__(self) -> None:
        check.at_least_one(self, "epochs", "patience", "batch_positions", "valid_cases")
        check.positive(self, "learning_rate")
        check.not_negative(self, "weight_decay")
        check.seed(self, "seed")
