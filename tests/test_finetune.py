"""The LM stage on a shop of 40 items: resume, LoRA with merged export, tied and untied bases, mixed precision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState, DistributedType
from numpy.typing import NDArray
from safetensors import safe_open
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM
from worlds.walk import TINY

from genrec.cli.by_data import DataSize, settled
from genrec.cli.parsing import load_config
from genrec.data.cases import Cases
from genrec.data.interactions import Interactions
from genrec.data.sample_shop import make_sample_shop
from genrec.data.splits import leave_last_out
from genrec.decoding.filters import ItemFilter
from genrec.ranking.config import FusionWeights, RankingConfig
from genrec.ranking.ranker import Ranker
from genrec.semtok.catalog import Catalog
from genrec.semtok.errors import InputError
from genrec.semtok.semantic_ids import SemanticIds
from genrec.semtok.vectors import ItemVectors
from genrec.tasks.weights import TaskWeights
from genrec.training.lm.base import scratch_tokenizer
from genrec.training.lm.build import LanguageModel, LmInputs, build_lm
from genrec.training.lm.config import LmConfig
from genrec.training.lm.data import collate, history_examples
from genrec.training.lm.fit import fit_lm
from genrec.training.lm.save import save_lm
from genrec.training.lm.stage import lm_settings
from genrec.training.lm.validation import DENSE_WEIGHTS, Validation
from genrec.training.loop.epochs import FitContext, Log


@pytest.fixture(autouse=True)
def fresh_accelerate() -> None:
    """accelerate keeps one precision a process; each test has its own."""
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> LmInputs:
    folder = tmp_path_factory.mktemp("shop")
    make_sample_shop(0, users=80, items=60).write(folder)
    catalog = Catalog.from_file(folder / "items.jsonl")
    split = leave_last_out(Interactions.from_file(folder / "interactions.csv", catalog))
    rng = np.random.default_rng(0)
    codes = np.array([[row // 8, row % 8] for row in range(60)], dtype=np.int32)
    books = [rng.standard_normal((8, 6)).astype(np.float32) for _ in range(2)]
    vectors = ItemVectors(rng.standard_normal((60, 6)).astype(np.float32), "random")
    return LmInputs(catalog, SemanticIds(catalog.item_ids, codes, (8, 8)), books, vectors, split)


def fitted(inputs: LmInputs, config: LmConfig, work: Path, log: Log = lambda row: None, **told: Any) -> LanguageModel:
    work.mkdir(exist_ok=True)
    validation = Validation(inputs, RankingConfig(max_items=6, beams=8), config.valid_cases, 0)
    built = fit_lm(inputs, config, validation, FitContext(work, log, **told))
    assert built is not None
    return built


def base_folder(inputs: LmInputs, folder: Path, *, tied: bool) -> Path:
    tokenizer = scratch_tokenizer(inputs.catalog.texts(), 300)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        head_dim=8, intermediate_size=32, tie_word_embeddings=tied, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config)
    model.generation_config.update(do_sample=True, temperature=0.6, top_k=20)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def logits(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=tokens).logits


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("rank", [0, 4])
def test_the_saved_folder_has_the_logits_of_the_trained_model(
    inputs: LmInputs, tmp_path: Path, tied: bool, rank: int
) -> None:
    base = base_folder(inputs, tmp_path / "base", tied=tied)
    config = replace(TINY, base=str(base), dropout=0.0, lora_rank=rank, item_input=False, learning_rate=1e-2)
    built = fitted(inputs, config, tmp_path / "w")
    tokens = torch.tensor([[5, 9, *built.vocabulary.prompt(inputs.semantic_ids.codes[[3, 7]])]])
    before = logits(built.model.export(), tokens)
    with torch.inference_mode():
        hidden = built.model.hidden(tokens)
    save_lm(built, tmp_path / "lm", {})
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "lm")
    torch.testing.assert_close(logits(saved, tokens), before, rtol=0, atol=1e-4)
    with torch.inference_mode():
        torch.testing.assert_close(saved.base_model(input_ids=tokens).last_hidden_state, hidden, rtol=0, atol=1e-4)
    assert saved.generation_config.temperature in (None, 1.0)
    assert not saved.generation_config.do_sample
    words = AutoModelForCausalLM.from_pretrained(base).get_input_embeddings().weight
    kept = torch.equal(saved.get_input_embeddings().weight[: built.vocabulary.history_token], words)
    assert kept == (rank > 0)  # adapters leave every other row equal to the bit; full fine-tuning moves them


@pytest.mark.parametrize("accumulation", [1, 4])
def test_an_interrupted_fit_ends_with_the_weights_of_an_undisturbed_one(
    inputs: LmInputs, tmp_path: Path, accumulation: int
) -> None:
    class Killed(Exception):
        pass

    def killer(row: Mapping[str, Any]) -> None:
        if row["epoch"] == 1:
            raise Killed

    steps: list[int] = []
    config = replace(TINY, epochs=3, gradient_accumulation=accumulation)
    whole = fitted(inputs, config, tmp_path / "whole", progress=lambda done, total: steps.append(total))
    assert (steps[0] // config.epochs) % 4  # of an epoch's batches some are left over
    with pytest.raises(Killed):
        fitted(inputs, config, tmp_path / "broken", killer)
    resumed = fitted(inputs, config, tmp_path / "broken")
    for (name, a), (_, b) in zip(whole.model.state_dict().items(), resumed.model.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    assert (tmp_path / "whole/training.json").read_bytes() == (tmp_path / "broken/training.json").read_bytes()


def test_a_training_that_diverged_is_refused(inputs: LmInputs, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"diverged: lower --lm\.learning_rate 1e\+30 and --lm\.head_learning_rate"):
        fitted(inputs, replace(TINY, epochs=1, learning_rate=1e30), tmp_path / "w")


@pytest.mark.parametrize("tied", [True, False])
def test_warm_up_trains_new_rows_and_leaves_the_rest_equal_to_the_bit(
    inputs: LmInputs, tmp_path: Path, tied: bool
) -> None:
    base = base_folder(inputs, tmp_path / "base", tied=tied)
    config = replace(TINY, base=str(base), dropout=0.0, epochs=1, batch_tokens=256, weight_decay=0.5)
    start = build_lm(inputs, config)
    warm = fitted(inputs, replace(config, warmup_steps=10_000), tmp_path / "warm")
    first = warm.vocabulary.history_token
    before, after = (dict(one.model.lm.named_parameters()) for one in (start, warm))
    for name, value in before.items():
        old, new = (value[:first], after[name][:first]) if len(value) > first else (value, after[name])
        assert torch.equal(old, new), name
    assert not torch.equal(start.model.rows, warm.model.rows)
    assert not torch.equal(start.model.head.query.weight, warm.model.head.query.weight)
    assert not torch.equal(start.model.item_input.map.weight, warm.model.item_input.map.weight)
    save_lm(warm, tmp_path / "lm", {})
    saved, words = (AutoModelForCausalLM.from_pretrained(folder) for folder in (tmp_path / "lm", base))
    for read in ("get_input_embeddings", "get_output_embeddings"):
        theirs = getattr(words, read)().weight
        assert torch.equal(getattr(saved, read)().weight[: len(theirs)], theirs)
    with safe_open(tmp_path / "warm/checkpoint.safetensors", "pt") as file:
        with_state = {name.split(".")[1] for name in file.keys() if name.startswith("optimizer.")}  # noqa: SIM118
    assert len(with_state) == sum(1 for _ in warm.model.head.parameters()) + 1 + (1 if tied else 2)
    mixed = fitted(inputs, replace(config, warmup_steps=2), tmp_path / "mixed")
    assert not torch.equal(dict(mixed.model.lm.named_parameters())["model.norm.weight"], before["model.norm.weight"])


def test_a_scratch_model_has_no_warm_up(inputs: LmInputs, tmp_path: Path) -> None:
    plain = fitted(inputs, replace(TINY, epochs=1), tmp_path / "plain")
    asked = fitted(inputs, replace(TINY, epochs=1, warmup_steps=10_000), tmp_path / "asked")
    for (name, a), (_, b) in zip(plain.model.state_dict().items(), asked.model.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


def test_tasks_and_warm_up_are_set_by_flags_and_read_back(tmp_path: Path) -> None:
    for name in ("items.jsonl", "log.csv"):
        (tmp_path / name).write_text("")
    text = f"{{data: {{items: {tmp_path}/items.jsonl, interactions: {tmp_path}/log.csv}}, run: {tmp_path}/run}}"
    (tmp_path / "config.yaml").write_text(text)
    flags = ["--lm.tasks.query_to_codes", "0.5", "--lm.warmup_steps", "7"]
    config = settled(load_config(tmp_path / "config.yaml", flags), DataSize(30, 20, 300))
    assert config.lm.tasks == TaskWeights(query_to_codes=0.5)
    assert config.lm.warmup_steps == 7
    assert lm_settings(yaml.safe_load(config.to_yaml())).lm == config.lm


@pytest.mark.parametrize(
    "changed", [{"precision": "bf16"}, {"score_space": "vocabulary"}, {"gradient_accumulation": 2}]
)
def test_other_ways_of_training_learn(inputs: LmInputs, tmp_path: Path, changed: dict[str, Any]) -> None:
    rows: list[Mapping[str, Any]] = []
    fitted(inputs, replace(TINY, epochs=4, batch_tokens=256, **changed), tmp_path / "w", rows.append)
    assert rows[-1]["code_loss"] < rows[0]["code_loss"]
    assert rows[-1]["dense_loss"] < rows[0]["dense_loss"]


def test_the_dense_head_of_a_large_catalogue_is_trained_against_a_sample(
    inputs: LmInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sample of all items is all of them; a smaller one learns too, and nobody teaches it."""
    config = replace(TINY, identity_dropout=0.0, dropout=0.0)
    dense = []
    for full_softmax in (60, 10):
        monkeypatch.setattr("genrec.training.lm.build.FULL_SOFTMAX", full_softmax)
        built = build_lm(inputs, config)
        rows = history_examples(inputs.split.train, inputs.semantic_ids.codes, built.vocabulary, 6)[:8]
        loss = built.model.eval()(collate(rows)).items
        loss.backward()
        dense.append((loss, built.model.head.query.weight.grad))
        assert (built.model.probability is None) == (full_softmax == 60)
    torch.testing.assert_close(*dense)
    monkeypatch.setattr("genrec.training.lm.build.NEGATIVES", 8)
    log: list[Mapping[str, Any]] = []
    fitted(inputs, replace(config, epochs=4, batch_tokens=256), tmp_path / "w", log.append)
    assert log[-1]["dense_loss"] < log[0]["dense_loss"]


def test_a_dense_head_of_no_weight_stays_as_it_was(inputs: LmInputs, tmp_path: Path) -> None:
    rows: list[Mapping[str, Any]] = []
    config = replace(TINY, epochs=4, dense_weight=0.0)
    first = build_lm(inputs, config).model.head.state_dict()
    head = fitted(inputs, config, tmp_path / "w", rows.append).model.head.state_dict()
    assert all(torch.equal(head[name], weights) for name, weights in first.items())
    assert rows[-1]["code_loss"] < rows[0]["code_loss"]
    assert rows[-1]["dense_loss"] == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"heads": 3}, "heads 3"),
        ({"dropout": 1.0}, "dropout"),
        ({"lora_rank": 4}, "lora_rank"),
        ({"epochs": -1}, "epochs -1"),
        ({"text_vocabulary": 12}, "text_vocabulary"),
        ({"text_share": -1.0}, "text_share -1"),
        ({"text_share": float("nan")}, "text_share nan"),
        ({"dense_weight": float("nan")}, "dense_weight nan"),
        ({"dense_weight": float("inf")}, "dense_weight inf"),
        ({"warmup_steps": -1}, "warmup_steps -1"),
        ({"valid_cases": 0}, "valid_cases 0"),
        ({"batch_tokens": -4}, "batch_tokens -4"),
        ({"learning_rate": 0.0}, "learning_rate 0"),
        ({"learning_rate": float("nan")}, "learning_rate nan"),
        ({"head_learning_rate": -1.0}, "head_learning_rate -1"),
        ({"head_learning_rate": float("inf")}, "head_learning_rate inf"),
        ({"weight_decay": -1.0}, "weight_decay -1"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_bad_settings_name_their_field(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(TINY, **changed)


@pytest.mark.parametrize(
    ("zero", "asked"),
    [
        ({"stage": 3}, "ZeRO-3;"),
        ({"stage": 2, "offload_optimizer": {"device": "cpu"}}, "ZeRO-2, offload_optimizer;"),
        ({"stage": 3, "offload_optimizer": None, "offload_param": {"device": "nvme"}}, "ZeRO-3, offload_param;"),
    ],
)
def test_other_stages_of_zero_are_refused(
    inputs: LmInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zero: dict[str, Any], asked: str
) -> None:
    plugin = SimpleNamespace(deepspeed_config={"zero_optimization": zero})
    monkeypatch.setattr(Accelerator, "distributed_type", property(lambda self: DistributedType.DEEPSPEED))
    monkeypatch.setattr(Accelerator, "deepspeed_plugin", property(lambda self: plugin))
    with pytest.raises(InputError, match=rf"{asked}.*fsdp2\.yaml"):
        fitted(inputs, TINY, tmp_path / "w")


def test_a_base_that_has_sid_tokens_is_refused(inputs: LmInputs, tmp_path: Path) -> None:
    save_lm(fitted(inputs, replace(TINY, epochs=1), tmp_path / "w"), tmp_path / "lm", {})
    grown = replace(inputs, semantic_ids=replace_sizes(inputs.semantic_ids))
    with pytest.raises(InputError, match="already has some of the SID tokens"):
        build_lm(grown, replace(TINY, base=str(tmp_path / "lm")))


def replace_sizes(ids: SemanticIds) -> SemanticIds:
    """The same IDs with room for one more code on the first level."""
    return SemanticIds(ids.item_ids, ids.codes, (9, 8))


def test_the_epoch_is_chosen_by_the_model_alone_without_what_people_had(inputs: LmInputs) -> None:
    built, config = build_lm(inputs, TINY), RankingConfig(max_items=6, beams=8)
    built.model.eval()
    validation = Validation(inputs, config, 30, 0)
    figures = validation(built)
    assert figures["valid_fused_recall@10"] > figures["selection"]  # counts know what an untrained model does not
    cases, everything = validation.cases, ItemFilter(validation.trie)
    parts = (built.scorer(), validation.trie, built.vocabulary, validation.codes, built.model.head)
    found = []
    for share in DENSE_WEIGHTS:
        ranker = Ranker(*parts, replace(config, dense_weight=share))
        lists = ranker.rank(cases.histories, k=10, filters=[everything.deny(had) for had in cases.histories])
        found.append(np.mean([target in rows for rows, target in zip(lists.rows, cases.targets, strict=True)]))
    assert figures["selection"] == pytest.approx(max(found))


def test_fusion_weights_leave_their_start_for_what_is_better_for_sure(
    inputs: LmInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    validation = Validation(inputs, RankingConfig(max_items=6, beams=8), 10, 0)
    hits: dict[FusionWeights, int] = {}  # cases, of 40, with the target in first place; in all others it is tenth

    def ranks(
        built: LanguageModel, weights: list[FusionWeights], cases: Cases
    ) -> dict[FusionWeights, NDArray[np.int64]]:
        assert len(cases) == 40
        return {each: np.where(np.arange(40) < hits.get(each, 5), 1, 10) for each in weights}

    monkeypatch.setattr(validation, "ranks", ranks)
    built = build_lm(inputs, TINY)
    start = FusionWeights(1.0, 0.2)  # there is no aligned recommender
    hits[FusionWeights(1.0, 0.6)] = 8  # three cases of forty are chance
    assert validation.choose(built) == start
    hits[FusionWeights(0.3, 0.2)] = 30
    assert validation.choose(built) == FusionWeights(0.3, 0.2)
    hits[FusionWeights(1.0, 0.6)] = 29  # and no beam for one case
    assert validation.choose(built) == FusionWeights(1.0, 0.6)
    hits.clear()
    fixed = Validation(inputs, RankingConfig(max_items=6, beams=8, cooccurrence_weight=0.35), 10, 0)
    monkeypatch.setattr(fixed, "ranks", ranks)
    assert fixed.choose(built) == FusionWeights(1.0, 0.35)
    headless = Validation(inputs, RankingConfig(max_items=6, beams=8, dense_weight=0.0), 10, 0)
    monkeypatch.setattr(headless, "ranks", ranks)
    assert headless.choose(built) == FusionWeights(0.0, 0.2)
