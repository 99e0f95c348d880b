"""`TorchScorer` against plain forwards and `generate` of Hugging Face, on small random models of many families."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LogitsProcessor,
    LogitsProcessorList,
    PrefixConstrainedLogitsProcessor,
    PreTrainedModel,
)
from worlds.cache_names import rename_cache
from worlds.random_models import BASE, FAMILIES, N_TOKENS, make_model

from genrec.decoding.beam import beam_search, score_all
from genrec.decoding.cache_argument import NAMES
from genrec.decoding.filters import ItemFilter
from genrec.decoding.torch_scorer import SHARED_PREFIX, ScoreSpace, TorchScorer
from genrec.decoding.trie import CodeTrie
from genrec.decoding.vocabulary import SidVocabulary
from genrec.semtok.errors import InputError

SIZES = (8, 6, 10)


@pytest.fixture(scope="module")
def vocabulary() -> SidVocabulary:
    """Codes at scattered token ids."""
    ids = np.random.default_rng(0).permutation(np.arange(10, N_TOKENS))[: sum(SIZES)].astype(np.int64)
    return SidVocabulary(tuple(np.split(ids, np.cumsum(SIZES)[:-1])), 5)


@pytest.fixture(scope="module")
def codes() -> NDArray[np.int32]:
    flat = np.random.default_rng(1).choice(int(np.prod(SIZES)), size=150, replace=False)
    return np.stack(np.unravel_index(flat, SIZES), axis=1).astype(np.int32)


@pytest.fixture(scope="module")
def trie(codes: NDArray[np.int32]) -> CodeTrie:
    return CodeTrie(codes, SIZES)


@pytest.fixture(scope="module")
def prompts(vocabulary: SidVocabulary, codes: NDArray[np.int32]) -> list[list[int]]:
    """Histories of 0 to 9 items, in no order of length."""
    rng = np.random.default_rng(2)
    return [vocabulary.prompt(codes[rng.integers(0, len(codes), size=n)]) for n in (3, 9, 0, 5, 5, 1)]


def expected_scores(
    model: PreTrainedModel, vocabulary: SidVocabulary, codes: NDArray[np.int32], prompt: list[int], space: ScoreSpace
) -> list[float]:
    """Log-probability of each item from one plain forward over the prompt and its codes."""
    tokens = vocabulary.encode(codes)
    rows = torch.tensor([[*prompt, *item] for item in tokens.tolist()])
    with torch.inference_mode():
        logits = model(input_ids=rows).logits[:, len(prompt) - 1 : -1].float()
    total = torch.zeros(len(codes))
    for level, ids in enumerate(vocabulary.token_ids):
        whole = logits[:, level, ids] if space == "level" else logits[:, level]
        own = logits[:, level].gather(1, torch.from_numpy(tokens[:, level : level + 1]))
        total += own[:, 0] - whole.logsumexp(-1)
    return total.tolist()


class LevelSoftmax(LogitsProcessor):
    """Makes `generate` score in the level's space: softmax over the rows of the level at hand."""

    def __init__(self, vocabulary: SidVocabulary, prompt_length: int) -> None:
        self.ids = [torch.from_numpy(ids) for ids in vocabulary.token_ids]
        self.prompt_length = prompt_length

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        ids = self.ids[input_ids.shape[1] - self.prompt_length]
        return torch.full_like(scores, -torch.inf).index_copy(1, ids, scores[:, ids].log_softmax(-1))


def generate(
    model: PreTrainedModel,
    vocabulary: SidVocabulary,
    codes: NDArray[np.int32],
    prompts: list[list[int]],
    *,
    beams: int,
    space: ScoreSpace,
) -> tuple[list[list[int]], list[list[float]]]:
    """Catalogue rows and scores of `generate` under a prefix constraint, best first."""
    items = [tuple(item) for item in vocabulary.encode(codes).tolist()]
    allowed: dict[tuple[int, ...], set[int]] = {}
    for item in items:
        for depth in range(len(item)):
            allowed.setdefault(item[:depth], set()).add(item[depth])
    longest = max(len(prompt) for prompt in prompts)
    padded = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])

    def below(_: int, row: Tensor) -> list[int]:
        return sorted(allowed[tuple(row[longest:].tolist())])

    # The softmax comes before the constraint: the other way round scores would be renormalised over the children.
    processors = [PrefixConstrainedLogitsProcessor(below, beams)]
    if space == "level":
        processors.insert(0, LevelSoftmax(vocabulary, longest))
    with torch.inference_mode():
        output = model.generate(
            input_ids=padded,
            attention_mask=mask,
            num_beams=beams,
            num_return_sequences=beams,
            max_new_tokens=len(SIZES),
            do_sample=False,
            length_penalty=0.0,
            eos_token_id=None,
            pad_token_id=0,
            logits_processor=LogitsProcessorList(processors),
            return_dict_in_generate=True,
            output_scores=True,
        )
    row_of = {item: row for row, item in enumerate(items)}
    found = [row_of[tuple(row)] for row in output.sequences[:, longest:].tolist()]
    scores = output.sequences_scores.tolist()
    return [[values[i : i + beams] for i in range(0, len(found), beams)] for values in (found, scores)]  # type: ignore[return-value]


@pytest.mark.parametrize("space", ["level", "vocabulary"])
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_plain_forwards(
    family: str,
    space: ScoreSpace,
    vocabulary: SidVocabulary,
    codes: NDArray[np.int32],
    trie: CodeTrie,
    prompts: list[list[int]],
) -> None:
    model = make_model(family)
    scorer = TorchScorer(model, vocabulary, score_space=space)
    result = beam_search(scorer, trie, prompts, beams=len(codes), k=len(codes))
    exact = score_all(scorer, trie, prompts, max_nodes=20)
    states = scorer.start(prompts).hidden
    for user, prompt in enumerate(prompts):
        expected = expected_scores(model, vocabulary, codes, prompt, space)
        assert exact[user].tolist() == pytest.approx(expected, abs=1e-4)
        assert result.scores[user].tolist() == pytest.approx([expected[row] for row in result.rows[user]], abs=1e-4)
        with torch.inference_mode():
            hidden = model(input_ids=torch.tensor([prompt]), output_hidden_states=True).hidden_states[-1][0, -1]
        assert states[user].tolist() == pytest.approx(hidden.tolist(), abs=1e-4)


@pytest.mark.parametrize("space", ["level", "vocabulary"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "gemma2", "gemma3_text", "gpt2"])
def test_lists_equal_those_of_generate(
    family: str,
    space: ScoreSpace,
    vocabulary: SidVocabulary,
    codes: NDArray[np.int32],
    trie: CodeTrie,
    prompts: list[list[int]],
    tmp_path: Path,
) -> None:
    make_model(family).save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    for beams in (4, 12):
        rows, scores = generate(model, vocabulary, codes, prompts, beams=beams, space=space)
        found = beam_search(TorchScorer(model, vocabulary, score_space=space), trie, prompts, beams=beams, k=beams)
        assert found.rows.tolist() == rows
        assert found.scores == pytest.approx(np.array(scores), abs=1e-4)


def test_an_untied_head_with_a_bias(
    vocabulary: SidVocabulary, codes: NDArray[np.int32], trie: CodeTrie, prompts: list[list[int]]
) -> None:
    torch.manual_seed(3)
    config = AutoConfig.for_model("phi", **{**BASE, "num_key_value_heads": 4})
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        model.lm_head.bias.normal_()
    exact = score_all(TorchScorer(model, vocabulary), trie, prompts)
    for user, prompt in enumerate(prompts):
        assert exact[user].tolist() == pytest.approx(
            expected_scores(model, vocabulary, codes, prompt, "level"), abs=1e-4
        )


def test_filters_hold(vocabulary: SidVocabulary, trie: CodeTrie, prompts: list[list[int]]) -> None:
    scorer = TorchScorer(make_model("qwen3"), vocabulary)
    exact = score_all(scorer, trie, prompts)
    few = ItemFilter.from_mask(trie, np.arange(150) % 10 == 0)
    filters = [few, ItemFilter(trie), few.deny([0, 10]), ItemFilter(trie).deny(range(100)), few, few]
    result = beam_search(scorer, trie, prompts, beams=48, k=13, filters=filters)
    for user, one in enumerate(filters):
        scores = one.apply_to_scores(exact[user].copy())
        expected = np.argsort(-scores, kind="stable")[: min(13, one.count)]
        assert result.rows[user, : len(expected)].tolist() == expected.tolist()


def test_a_shared_instruction_is_read_once(
    vocabulary: SidVocabulary, trie: CodeTrie, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    instruction = [int(token) for token in np.random.default_rng(5).integers(0, N_TOKENS, size=SHARED_PREFIX)]
    longer = [[*instruction, *prompt] for prompt in prompts]
    scorer = TorchScorer(make_model("qwen3"), vocabulary)
    sizes: list[tuple[int, int]] = []
    forward = scorer._forward

    def counted(tokens: Tensor, *args: Any) -> Tensor:
        sizes.append((tokens.shape[0], tokens.shape[1]))
        return forward(tokens, *args)

    monkeypatch.setattr(scorer, "_forward", counted)
    together = beam_search(scorer, trie, longer, beams=10, k=10)
    assert sizes == [(1, SHARED_PREFIX), (6, max(map(len, prompts))), (6, 8), (6, 10)]
    alone = [beam_search(scorer, trie, [prompt], beams=10, k=10) for prompt in longer]
    assert together.rows.tolist() == [one.rows[0].tolist() for one in alone]


def test_a_prompt_that_is_the_whole_shared_prefix(vocabulary: SidVocabulary, trie: CodeTrie) -> None:
    prompt = [int(token) for token in np.random.default_rng(5).integers(0, N_TOKENS, size=SHARED_PREFIX + 8)]
    scorer = TorchScorer(make_model("qwen3"), vocabulary)
    result = beam_search(scorer, trie, [prompt, prompt, [*prompt, 7]], beams=10, k=10)
    alone = [beam_search(scorer, trie, [one], beams=10, k=10).rows[0].tolist() for one in (prompt, [*prompt, 7])]
    assert result.rows.tolist() == [alone[0], alone[0], alone[1]]


def test_long_batches_are_read_in_parts(
    vocabulary: SidVocabulary, trie: CodeTrie, prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = TorchScorer(make_model("gpt2"), vocabulary)
    whole, states = beam_search(scorer, trie, prompts, beams=10, k=10), scorer.start(prompts).hidden
    monkeypatch.setattr(scorer, "_forward_tokens", 60)
    parts = beam_search(scorer, trie, prompts, beams=10, k=10)
    assert parts.rows.tolist() == whole.rows.tolist()
    assert torch.allclose(scorer.start(prompts).hidden, states, atol=1e-5)


def test_bfloat16_comes_close(vocabulary: SidVocabulary, trie: CodeTrie, prompts: list[list[int]]) -> None:
    exact = score_all(TorchScorer(make_model("qwen3"), vocabulary), trie, prompts)
    scorer = TorchScorer(make_model("qwen3").to(torch.bfloat16), vocabulary)
    rough = score_all(scorer, trie, prompts)
    assert scorer.start(prompts).hidden.dtype == torch.float32
    assert np.abs(rough - exact).max() < 0.15 * np.ptp(exact)
    assert np.corrcoef(rough.ravel(), exact.ravel())[0, 1] > 0.99


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}, "only plain attention is supported"),
        ("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4}, "BloomForCausalLM can't be searched"),
    ],
)
def test_models_that_cannot_be_searched_are_refused(
    family: str, changes: dict[str, Any], message: str, vocabulary: SidVocabulary
) -> None:
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, vocab_size=N_TOKENS, **changes))
    with pytest.raises(InputError, match=message):
        TorchScorer(model, vocabulary)


@pytest.mark.parametrize("swallow", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_the_cache_is_found_under_either_name(
    name: str, swallow: bool, vocabulary: SidVocabulary, trie: CodeTrie, prompts: list[list[int]]
) -> None:
    expected = score_all(TorchScorer(make_model("qwen3"), vocabulary), trie, prompts)
    model = make_model("qwen3")
    rename_cache(model, model.get_decoder(), name, swallow=swallow)
    assert score_all(TorchScorer(model, vocabulary), trie, prompts).tolist() == expected.tolist()


def deaf_to_caches(model: PreTrainedModel) -> None:
    forward = model.model.forward
    model.model.forward = lambda cache=None, past_key_values=None, **inputs: forward(**inputs)


def deaf_to_masks(model: PreTrainedModel) -> None:
    forward = model.model.forward
    model.model.forward = lambda attention_mask=None, **inputs: forward(**inputs)


def deaf_to_positions(model: PreTrainedModel) -> None:
    forward = model.model.forward
    model.model.forward = lambda position_ids=None, **inputs: forward(**inputs)


def shift_logits(model: PreTrainedModel) -> None:
    model.lm_head.register_forward_hook(lambda module, inputs, output: output.sin())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (deaf_to_caches, "fills no key-value cache"),
        (deaf_to_masks, "4-D mask"),
        (deaf_to_positions, "4-D mask"),
        (shift_logits, "LM head"),
    ],
)
def test_a_model_that_ignores_the_tree_is_found_out(
    change: Callable[[PreTrainedModel], None], message: str, vocabulary: SidVocabulary
) -> None:
    TorchScorer(make_model("llama"), vocabulary)
    broken = make_model("llama")
    change(broken)
    with pytest.raises(InputError, match=message):
        TorchScorer(broken, vocabulary)


def test_bad_input_is_refused(vocabulary: SidVocabulary) -> None:
    model = make_model("llama")
    with pytest.raises(InputError, match="score_space must be level or vocabulary, not 'all'"):
        TorchScorer(model, vocabulary, score_space="all")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="prompt 1 is empty"):
        TorchScorer(model, vocabulary).start([[5], []])
    beyond = SidVocabulary((np.array([3, N_TOKENS]), np.array([4])), 5)
    with pytest.raises(InputError, match="fewer rows than the SID vocabulary needs"):
        TorchScorer(model, beyond)


def test_prompts_beyond_a_sliding_window_are_refused(vocabulary: SidVocabulary) -> None:
    scorer = TorchScorer(make_model("mistral", sliding_window=16), vocabulary)
    scorer.start([[5] * 13])
    with pytest.raises(InputError, match="14 tokens doesn't fit the model's sliding window of 16"):
        scorer.start([[5] * 14])
