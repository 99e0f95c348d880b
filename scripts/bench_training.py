"""All-position training against one example a prefix: the same model, loss and optimiser.

    python scripts/bench_training.py --data data/amazon18_scientific           # trains both for the recall
    python scripts/bench_training.py --data data/amazon18_scientific --quick   # one epoch, over 2,000 histories
    python scripts/bench_training.py --data data/amazon14_beauty --quick --json FILE

The folder holds `items.jsonl` and `interactions.csv`. A causal language model learns every item of a history in one
pass; peers write one example an item, its whole prefix as prompt, and pay for the prompt every time. `token_ratio` is
how many times the tokens that takes, so it bounds what all-position training can gain. Speeds are of one thread, in
processor seconds, which other work on the machine stretches less; ratios are medians of interleaved pairs of rounds.
Neither way trains the dense head here: it costs the same a target in both.

Recall is the beam's, on every validation case. Both ways are timed in the batches that they are trained in, by default
at equal targets a step. After equal epochs all positions are a little behind, because the targets of a history share
its dropout and its batch; a few epochs more bring them level and still take a fraction of the time.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from genrec.data.cases import Cases
from genrec.data.interactions import Interactions
from genrec.data.sequences import Sequences
from genrec.data.splits import leave_last_out
from genrec.decoding.filters import ItemFilter
from genrec.decoding.trie import CodeTrie
from genrec.decoding.vocabulary import SidVocabulary
from genrec.evaluation.metrics import paired_interval, rank_of_target, recall
from genrec.ranking.config import RankingConfig
from genrec.ranking.ranker import Ranker
from genrec.semtok.catalog import Catalog
from genrec.semtok.encoders import make_encoder
from genrec.semtok.folders import to_json, write_atomic
from genrec.semtok.quantizers.config import ResidualKMeansConfig
from genrec.semtok.semantic_ids import assign_ids
from genrec.semtok.vectors import ItemVectors
from genrec.training.lm.build import LanguageModel, LmInputs, build_lm
from genrec.training.lm.config import LmConfig
from genrec.training.lm.data import Example, collate, history_examples, response_example
from genrec.training.loop.batching import batches_by_length
from genrec.training.loop.schedule import Warmup, adamw, set_learning_rates
from genrec.training.quantizer.fit import fit_quantizer

QUICK = 2_000  # histories, and validation cases
BATCHES = 24  # of a round


def read(folder: Path) -> LmInputs:
    """A data folder with semantic IDs from its text alone."""
    catalog = Catalog.from_file(folder / "items.jsonl")
    split = leave_last_out(Interactions.from_file(folder / "interactions.csv", catalog))
    encoder, texts = make_encoder("tfidf"), catalog.texts()
    encoder.fit(texts)
    vectors = ItemVectors(encoder.encode(texts), encoder.name)
    quantizer = fit_quantizer("residual_kmeans", vectors.values, (), ResidualKMeansConfig(iterations=10), 0)
    ids = assign_ids(quantizer, catalog.item_ids, vectors.values)
    return LmInputs(catalog, ids, list(quantizer.codebooks), vectors, split)


def codes_only(example: Example) -> Example:
    """Without the dense head's targets."""
    return replace(example, items=np.full_like(example.items, -1))


def prefix_examples(
    histories: Sequences, codes: NDArray[np.int32], vocabulary: SidVocabulary, max_items: int
) -> list[Example]:
    """The per-prefix way: for every item of every history, the items before it as prompt and its codes as response."""
    prompts = [
        (vocabulary.prompt(codes[history[max(0, place - max_items) : place]]), vocabulary.encode(codes[history[place]]))
        for history in histories
        for place in range(len(history))
    ]
    return [response_example(prompt, response.tolist()) for prompt, response in prompts]


@dataclass
class Way:
    """A model in training one way."""

    examples: list[Example]
    built: LanguageModel
    config: LmConfig

    def __post_init__(self) -> None:
        self.lengths = np.array([len(example) for example in self.examples])
        self.optimizer = adamw(
            (self.built.model.parameters(), self.config.peak_learning_rate), weight_decay=self.config.weight_decay
        )

    def targets_of(self, group: NDArray[np.int64]) -> int:
        """Items that a batch teaches."""
        levels = len(self.built.vocabulary.sizes)
        return sum(int((self.examples[i].labels >= 0).sum()) for i in group) // levels

    def step(self, group: NDArray[np.int64]) -> None:
        """One optimiser step."""
        losses = self.built.model(collate([self.examples[i] for i in group]))
        self.optimizer.zero_grad()
        (losses.codes / max(1, losses.n_items)).backward()
        torch.nn.utils.clip_grad_norm_(self.built.model.parameters(), 1.0)
        self.optimizer.step()

    def rate(self, groups: Sequence[NDArray[np.int64]]) -> tuple[float, float, float]:
        """Targets and tokens a processor second over some steps, and the share of their padded positions."""
        started = time.process_time()
        for group in groups:
            self.step(group)
        seconds = time.process_time() - started
        tokens = sum(int(self.lengths[group].sum()) for group in groups)
        padded = sum(int(self.lengths[group].max()) * len(group) for group in groups)
        return sum(map(self.targets_of, groups)) / seconds, tokens / seconds, 1 - tokens / padded

    def train(self, epochs: int, batch_tokens: int) -> int:
        """Whole epochs under the schedule of fine-tuning; returns the steps taken."""
        self.built.model.train()
        torch.manual_seed(0)
        rng = np.random.default_rng(0)
        plan = [group for _ in range(epochs) for group in batches_by_length(self.lengths, batch_tokens, rng)]
        for step, group in enumerate(plan):
            set_learning_rates(self.optimizer.param_groups, step, len(plan), Warmup())
            self.step(group)
        return len(plan)


def beam_recall(built: LanguageModel, inputs: LmInputs, config: LmConfig, cases: Cases) -> NDArray[np.float64]:
    """Recall@10 of constrained decoding for each case, items of the history left out."""
    trie = CodeTrie(inputs.semantic_ids.codes, inputs.semantic_ids.sizes)
    built.model.eval()
    settings = RankingConfig(ranking="beam", max_items=config.max_items)
    ranker = Ranker(built.scorer(), trie, built.vocabulary, inputs.semantic_ids.codes, None, settings)
    everything = ItemFilter(trie)
    found = ranker.rank(cases.histories, k=10, filters=[everything.deny(h) for h in cases.histories])
    rows = np.stack([np.pad(r, (0, 10 - len(r)), constant_values=-1) for r in found.rows])
    return recall(rank_of_target(rows, cases.targets), 10)


def matmul_peak(tokens: int, width: int, wide: int, seconds: float = 0.3) -> float:
    """Operations a processor second of the model's own widest product, [tokens, width] by [width, wide]; the best."""
    a, b, out = torch.randn(tokens, width), torch.randn(width, wide), torch.empty(tokens, wide)
    best, until = 0.0, time.process_time() + seconds
    while time.process_time() < until:
        started = time.process_time()
        for _ in range(20):
            torch.mm(a, b, out=out)
        best = max(best, 20 * 2 * tokens * width * wide / (time.process_time() - started))
    return best


def fresh(way: str, histories: Sequences, inputs: LmInputs, config: LmConfig) -> Way:
    """An untrained model with the examples of one way."""
    built = build_lm(inputs, config)
    make = history_examples if way == "all" else prefix_examples
    examples = make(histories, inputs.semantic_ids.codes, built.vocabulary, config.max_items)
    return Way([codes_only(example) for example in examples], built, config)


@dataclass(frozen=True)
class Speeds:
    """Rounds that were timed, pair by pair.

    Attributes:
        rates: of each way and round, see `Way.rate`.
        peak: operations a second of the widest product.
        flops_per_token: operations of a step of all positions.
    """

    rates: dict[str, list[tuple[float, float, float]]]
    peak: float
    flops_per_token: float

    @property
    def ratios(self) -> list[float]:
        """Targets a second of all positions over those of prefixes, by round."""
        return [ours[0] / theirs[0] for ours, theirs in zip(self.rates["all"], self.rates["prefix"], strict=True)]

    def figures(self, token_ratio: float) -> dict[str, float]:
        """Medians over the rounds."""
        over, tokens_per_second = median(self.ratios), median(rate[1] for rate in self.rates["all"])
        return {
            "all_position_over_per_prefix": over,
            "token_ratio": token_ratio,
            "share_of_token_ratio": over / token_ratio,
            "targets_per_second_all_position": median(rate[0] for rate in self.rates["all"]),
            "targets_per_second_per_prefix": median(rate[0] for rate in self.rates["prefix"]),
            "padding_share": median(rate[2] for rate in self.rates["all"]),
            "tokens_per_second": tokens_per_second,
            "share_of_matmul_peak": tokens_per_second * self.flops_per_token / self.peak,
        }


def measure_speeds(ways: dict[str, Way], batch_tokens: dict[str, int], rounds: int) -> Speeds:
    """Rounds of both ways in turn, after a few batches that are not timed."""
    rng = np.random.default_rng(0)
    plans = {name: batches_by_length(way.lengths, batch_tokens[name], rng) for name, way in ways.items()}
    for name, way in ways.items():
        way.rate(plans[name][:3])
    rates: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
    peak, width = 0.0, ways["all"].config.width
    for begin in range(3, 3 + rounds * BATCHES, BATCHES):
        for name, way in ways.items():
            rates[name].append(way.rate([plans[name][i % len(plans[name])] for i in range(begin, begin + BATCHES)]))
        peak = max(peak, matmul_peak(batch_tokens["all"], width, 2 * width))
    group = plans["all"][0]
    with FlopCounterMode(display=False) as counter:
        ways["all"].step(group)
    return Speeds(rates, peak, counter.get_total_flops() / int(ways["all"].lengths[group].sum()))


@dataclass(frozen=True)
class Trained:
    """Both ways after their epochs: recall of each case, processor seconds and steps."""

    hits: dict[str, NDArray[np.float64]]
    seconds: dict[str, float]
    steps: dict[str, int]

    def figures(self) -> dict[str, float]:
        """Recall, its paired difference, and what it took."""
        difference = paired_interval(self.hits["all"], self.hits["prefix"])
        return {
            "recall_all_position": float(self.hits["all"].mean()),
            "recall_per_prefix": float(self.hits["prefix"].mean()),
            "recall_difference": difference.value,
            "recall_difference_low": difference.low,
            "recall_difference_high": difference.high,
            "training_seconds_all_position": self.seconds["all"],
            "training_seconds_per_prefix": self.seconds["prefix"],
        }


def train_both(
    train: Sequences, cases: Cases, inputs: LmInputs, config: LmConfig, epochs: dict[str, int], tokens: dict[str, int]
) -> Trained:
    """Train a fresh model each way on some histories, and rank some cases with it."""
    hits, seconds, steps = {}, {}, {}
    for name in epochs:
        way = fresh(name, train, inputs, config)
        started = time.process_time()
        steps[name] = way.train(epochs[name], tokens[name])
        seconds[name] = time.process_time() - started
        hits[name] = beam_recall(way.built, inputs, config, cases)
    return Trained(hits, seconds, steps)


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with items.jsonl and interactions.csv")
    parser.add_argument(
        "--quick", action="store_true", help="for the recall: one epoch over 2,000 histories, 2,000 cases"
    )
    parser.add_argument("--epochs", type=int, default=8, help="of all positions, for the recall")
    parser.add_argument("--prefix_epochs", type=int, default=5, help="of prefixes, for the recall")
    parser.add_argument("--batch_tokens", type=int, default=768, help="of a batch of all positions")
    parser.add_argument("--prefix_batch_tokens", type=int, help="of a batch of prefixes; by default as many targets")
    parser.add_argument("--learning_rate", type=float, help="of both; by default that of fine-tuning")
    parser.add_argument("--rounds", type=int, default=9, help="interleaved pairs of rounds for the speeds")
    parser.add_argument("--max_items", type=int, default=50, help="the last items of a history that are read")
    parser.add_argument("--json", type=Path, help="write figures and conditions here")
    return parser.parse_args()


def main() -> None:
    options = read_options()
    epochs = {"all": 1, "prefix": 1} if options.quick else {"all": options.epochs, "prefix": options.prefix_epochs}
    torch.set_num_threads(1)
    inputs = read(options.data)
    config = LmConfig(
        max_items=options.max_items, text_share=0.0, dense_weight=0.0, learning_rate=options.learning_rate
    )
    train, cases = inputs.split.train, inputs.split.valid
    ways = {name: fresh(name, train, inputs, config) for name in epochs}
    token_ratio = float(ways["prefix"].lengths.sum() / ways["all"].lengths.sum())
    of_prefixes = options.prefix_batch_tokens or round(options.batch_tokens * token_ratio)
    batch_tokens = {"all": options.batch_tokens, "prefix": of_prefixes}
    speeds = measure_speeds(ways, batch_tokens, options.rounds)
    if options.quick:
        train = train.take(np.random.default_rng(0).permutation(len(train))[:QUICK])
        cases = cases.sample(QUICK, 0)
    trained = train_both(train, cases, inputs, config, epochs, batch_tokens)
    figures = speeds.figures(token_ratio) | trained.figures()
    for name, value in figures.items():
        print(f"{name:36} {value:12,.4f}")
    if options.json:
        conditions = {
            "data": options.data.name,
            "epochs": epochs,
            "batch_tokens": batch_tokens,
            "histories_of_recall": len(train),
            "steps": trained.steps,
            "rounds": options.rounds,
            "batches_a_round": BATCHES,
            "spread": sorted(speeds.ratios),
            "cases": len(cases),
            "threads": 1,
            "cores": os.cpu_count(),
            "processor": platform.machine(),
            "torch": torch.__version__,
            "flops_per_token": speeds.flops_per_token,
            "matmul_peak": speeds.peak,
            "lm": asdict(config),
        }
        write_atomic(options.json, to_json({"figures": figures, "conditions": conditions}))


if __name__ == "__main__":
    main()
