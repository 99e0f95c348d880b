"""`LmConfig`: the language model of a run and how it is trained, checked where it is built; light to import."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Literal, get_args

from genrec.semtok import options as check
from genrec.semtok.errors import OptionError
from genrec.tasks.weights import TaskWeights

SCRATCH = "scratch"
ScoreSpace = Literal["level", "vocabulary"]
SidInit = Literal["random", "aligned"]


# Of accelerate, by the name of their packages.
TRACKERS = ("aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb")


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
        sid_init: first rows of the SID tokens: random, or aligned with the
            items' words (`genrec.training.lm.sid_embeddings`).
        item_input: add an item's vector to the embedding of its last code (`genrec.decoding.item_input`).
        node_vectors: generate by the item vectors below each node of the code trie (`genrec.decoding.node_scores`);
            null, in `genrec fit`: up to 100,000 items, which each batch reads all.
        score_space: what the softmax over a code runs over: the level's own rows, or the whole vocabulary.
        max_items: the last items of a history that are read; 0: by their mean length, 20 or 50.
        epochs: passes over the histories at most; 0: by the size of the data.
        patience: epochs without a better validation recall before stopping.
        batch_tokens: padded tokens of a batch, a process; 0, in `genrec fit`: by the size of the data.
        gradient_accumulation: batches an optimiser step.
        learning_rate: peak of the LM's rate; null: 1e-3 from scratch, 2e-4 for LoRA, 5e-5 for full fine-tuning.
        head_learning_rate: peak of the rate of SID token embeddings, item input and dense head.
        weight_decay: AdamW's.
        dense_width: width of the dense item head.
        dense_weight: weight of its loss; 0 leaves the head untrained and computes nothing for it.
        identity_dropout: share of items whose identity vectors are absent from a step, so that codes and content learn
            to rank cold-start items.
        teacher_share: weight of soft targets, the probabilities that the recommender of the run's aligner gives, beside
            the item that came next (`genrec.training.lm.teacher`); nothing where no aligner was trained.
        text_share: text-task rows for each item and epoch.
        tasks: which text tasks they are.
        warmup_steps: first batches that train nothing but SID token embeddings, item input and dense head; for base
            models, whose pretrained weights random embeddings would disturb. A scratch model has none of it.
        valid_cases: validation cases ranked after each epoch (drawn by seed where there are more); the shares of the
            fused ranking are chosen at the end on four times as many.
        gradient_checkpointing: trade compute for memory.
        precision: mixed precision of accelerate: no, bf16 or fp16.
        tracker: a tracker of accelerate (mlflow, wandb, tensorboard, …) beside `log.jsonl`; where it writes is its own
            setting (MLFLOW_TRACKING_URI, WANDB_MODE).
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
    node_vectors: bool | None = None
    score_space: ScoreSpace = "level"
    max_items: int = 0
    epochs: int = 0
    patience: int = 10
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
    valid_cases: int = 2_000
    gradient_checkpointing: bool = False
    precision: Literal["no", "bf16", "fp16"] = "no"
    tracker: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check.at_least_one(self, "width", "layers", "heads", "patience")
        check.at_least_one(self, "gradient_accumulation", "dense_width", "valid_cases")
        check.positive(self, "learning_rate", "head_learning_rate")
        check.not_negative(self, "max_items", "epochs", "batch_tokens", "lora_rank", "weight_decay")
        check.not_negative(self, "dense_weight", "text_share", "warmup_steps")
        check.seed(self, "seed")
        check.divides(self, "heads", "width")
        check.below_one(self, "dropout", "identity_dropout")
        check.choice(self, "sid_init", get_args(SidInit))
        check.choice(self, "score_space", get_args(ScoreSpace))
        check.fraction(self, "teacher_share")
        if self.text_vocabulary > check.MOST_CODES:
            raise OptionError("text_vocabulary", f"{self.text_vocabulary} must be at most {check.MOST_CODES:,}")
        if self.tracker is not None:  # a wrong one would end the training, not the reading of options
            check.choice(self, "tracker", TRACKERS)
            if find_spec(self.tracker) is None:
                raise OptionError("tracker", f"{self.tracker}: is not installed; pip install {self.tracker}")
        if self.base == SCRATCH and self.lora_rank:
            raise OptionError("lora_rank", f"{self.lora_rank} needs a base model: a scratch model has nothing to adapt")
        if self.text_vocabulary < 257:
            raise OptionError("text_vocabulary", f"{self.text_vocabulary} is too few: byte-level BPE needs 257 entries")

    @property
    def peak_learning_rate(self) -> float:
        """`learning_rate`, or the default of the way of training."""
        if self.learning_rate is not None:
            return self.learning_rate
        return 1e-3 if self.base == SCRATCH else 2e-4 if self.lora_rank else 5e-5
