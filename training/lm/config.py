"""`LmConfig`: the language model of a run and how it is trained, checked where it is built."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

from genrec.semtok.errors import InputError
from genrec.tasks import TaskWeights
from genrec.training.lm.joint_model import ScoreSpace
from genrec.training.lm.preference_loss import PreferenceStageConfig
from genrec.training.lm.sid_embeddings import SidInit

SCRATCH = "scratch"


@dataclass(frozen=True)
class LmConfig:
    """The language model and how it is trained.

    Attributes:
        base: `scratch`, or a Hugging Face causal LM by folder or id.
        width: hidden width of a scratch model.
        layers: layers of a scratch model.
        heads: attention heads of a scratch model.
        text_vocabulary: entries of a scratch model's byte-level BPE.
        dropout: on embeddings and residual branches; for models trained from scratch.
        lora_rank: rank of the LoRA adapters on every linear layer of the base, merged at the end; 0 trains all weights.
        sid_init: first rows of the SID tokens: random, keeping the geometry of the codebooks, or also aligned with the
            items' words (`genrec.training.lm.sid_embeddings`).
        item_input: add an item's vector to the embedding of its last code (`genrec.decoding.item_input`).
        node_vectors: generate by the item vectors below each node of the code trie (`genrec.decoding.node_scores`).
        score_space: what the softmax over a code runs over: the level's own rows, or the whole vocabulary.
        max_items: the last items of a history that are read.
        epochs: passes over the histories.
        patience: epochs without a better validation recall before stopping.
        batch_tokens: padded tokens of a batch, a process.
        gradient_accumulation: batches an optimiser step.
        learning_rate: peak of the LM's rate; null: 1e-3 from scratch, 2e-4 for LoRA, 5e-5 for full fine-tuning.
        head_learning_rate: peak of the rate of SID rows, item input and dense head.
        weight_decay: AdamW's.
        dense_width: width of the dense item head.
        dense_weight: weight of its loss; 0 leaves the head untrained and computes nothing for it.
        identity_dropout: share of items whose identity vectors are absent from a step, so that codes and content learn
            to rank items that nobody has taken.
        teacher_share: how much of what is learned of the next item comes from what the recommender of the run's aligner
            believes, and not from what came next (`genrec.training.lm.teacher`); nothing where no aligner was trained.
        text_share: text-task rows for each item and epoch.
        tasks: which text tasks they are.
        warmup_steps: first batches that train nothing but SID rows, item input and dense head; for base models, which
            bring words that random rows would disturb. A scratch model has none of it.
        preference: what follows fine-tuning, if anything: see `PreferenceStageConfig`.
        valid_cases: validation cases ranked after each epoch (drawn by seed where there are more); the shares of the
            fused ranking are chosen at the end on four times as many.
        gradient_checkpointing: trade compute for memory.
        precision: mixed precision of accelerate: no, bf16 or fp16.
        tracker: a tracker of accelerate (tensorboard, wandb, …) beside `log.jsonl`.
        seed: initialisation, dropout, batches and templates.
    """

    base: str = SCRATCH
    width: int = 128
    layers: int = 2
    heads: int = 2
    text_vocabulary: int = 4096
    dropout: float = 0.2
    lora_rank: int = 0
    sid_init: SidInit = "random"
    item_input: bool = True
    node_vectors: bool = False
    score_space: ScoreSpace = "level"
    max_items: int = 20
    epochs: int = 20
    patience: int = 4
    batch_tokens: int = 1536
    gradient_accumulation: int = 1
    learning_rate: float | None = None
    head_learning_rate: float = 1e-3
    weight_decay: float = 0.01
    dense_width: int = 128
    dense_weight: float = 1.0
    identity_dropout: float = 0.2
    teacher_share: float = 0.8
    text_share: float = 0.25
    tasks: TaskWeights = field(default_factory=TaskWeights)
    warmup_steps: int = 0
    preference: PreferenceStageConfig = field(default_factory=PreferenceStageConfig)
    valid_cases: int = 2_000
    gradient_checkpointing: bool = False
    precision: Literal["no", "bf16", "fp16"] = "no"
    tracker: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in (
            "width",
            "layers",
            "heads",
            "max_items",
            "epochs",
            "patience",
            "batch_tokens",
            "gradient_accumulation",
            "dense_width",
            "valid_cases",
        ):
            if getattr(self, name) < 1:
                raise InputError(f"--lm.{name} {getattr(self, name)} must be at least 1")
        for name in ("learning_rate", "head_learning_rate"):
            rate = getattr(self, name)
            if rate is not None and not 0 < rate < math.inf:
                raise InputError(f"--lm.{name} {rate} must be positive and finite")
        for name in ("lora_rank", "weight_decay", "dense_weight", "text_share", "warmup_steps", "seed"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"--lm.{name} {getattr(self, name)} must not be negative, and must be finite")
        if self.width % self.heads:
            raise InputError(f"--lm.heads {self.heads} does not divide --lm.width {self.width}")
        if not 0 <= self.dropout < 1:
            raise InputError(f"--lm.dropout {self.dropout} is not in [0, 1)")
        if self.sid_init not in get_args(SidInit):
            raise InputError(f"--lm.sid_init {self.sid_init!r}: choose one of {', '.join(get_args(SidInit))}")
        if not 0 <= self.identity_dropout < 1:
            raise InputError(f"--lm.identity_dropout {self.identity_dropout} is not in [0, 1)")
        if not 0 <= self.teacher_share <= 1:
            raise InputError(f"--lm.teacher_share {self.teacher_share} is not in [0, 1]")
        if self.base == SCRATCH and self.lora_rank:
            raise InputError("--lm.lora_rank needs a base model: a scratch model has nothing to adapt")
        if self.text_vocabulary < 257:
            raise InputError(f"--lm.text_vocabulary {self.text_vocabulary}: byte-level BPE needs 257 entries at least")

    @property
    def peak_learning_rate(self) -> float:
        """`learning_rate`, or the default of the way of training."""
        if self.learning_rate is not None:
            return self.learning_rate
        return 1e-3 if self.base == SCRATCH else 2e-4 if self.lora_rank else 5e-5
