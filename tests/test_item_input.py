"""Item vectors at the language model's input, against direct evaluation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds.random_models import FAMILIES, make_model
from worlds.walk import CODES, TINY, N, world

from genrec.decoding.item_input import ItemInput, SpelledItems
from genrec.decoding.torch_scorer import SHARED_PREFIX, TorchScorer
from genrec.decoding.vocabulary import SidVocabulary
from genrec.semtok.errors import InputError
from genrec.training.lm.build import build_lm
from genrec.training.lm.joint_model import ID_ONLY_ITEMS, ID_ONLY_ROWS

SIZES = (3, 2, 2)
VOCABULARY = SidVocabulary((np.array([7, 4, 9]), np.array([5, 12]), np.array([6, 11])), 8)
ITEMS = np.array([[0, 1, 0], [2, 0, 1], [2, 0, 0], [1, 1, 1]], dtype=np.int32)
SPELLED = [tuple(row) for row in VOCABULARY.encode(ITEMS).tolist()]


def item_input(width: int = 5, hidden: int = 32, seed: int = 0) -> ItemInput:
    torch.manual_seed(seed)
    return ItemInput(SpelledItems(VOCABULARY, ITEMS), torch.randn(len(ITEMS), width), hidden, std=1.0)


@settings(deadline=None)
@given(st.lists(st.one_of(st.sampled_from(SPELLED), st.tuples(st.integers(0, 15))), max_size=12))
def test_rows_are_the_items_that_the_tokens_spell(parts: list[tuple[int, ...]]) -> None:
    tokens = [3, *(token for part in parts for token in part)]
    found = item_input().rows(torch.tensor([tokens, tokens]))
    for end in range(len(tokens)):
        spelled = tuple(tokens[max(0, end - 2) : end + 1])
        expected = SPELLED.index(spelled) if spelled in SPELLED else -1
        assert found[:, end].tolist() == [expected, expected]


def test_keys_of_64_bits_are_used_to_the_last_and_no_further() -> None:
    def spelled(levels: int) -> SpelledItems:
        tokens = np.arange(256 * levels).reshape(levels, 256)
        codes = np.random.default_rng(0).integers(0, 256, (50, levels)).astype(np.int32)
        return SpelledItems(SidVocabulary(tuple(tokens), 256 * levels), np.concatenate([codes, 255 - 0 * codes[:1]]))

    eight = spelled(8)
    assert eight.rows(torch.arange(255, 2048, 256)[None])[0].tolist() == [-1] * 7 + [50]
    assert eight.rows(torch.arange(254, 2047, 256)[None])[0].tolist() == [-1] * 8
    with pytest.raises(InputError, match=r"--semtok\.sizes"):
        spelled(9)


def test_a_vector_is_added_at_the_last_code_alone() -> None:
    ours = item_input()
    tokens = torch.tensor([[8, *SPELLED[2], *SPELLED[0], 3], [*SPELLED[2][:2], *SPELLED[3], 1, 1, 1]])
    embedded = torch.randn(2, 8, 32, dtype=torch.float64)
    expected = embedded.clone()
    for row, place, item in [(0, 3, 2), (0, 6, 0), (1, 4, 3)]:
        expected[row, place] += ours.map.weight.detach().double() @ ours.content[item].double()
    torch.testing.assert_close(ours(embedded, ours.rows(tokens)).detach(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lead", [0, SHARED_PREFIX - 2])
def test_the_scorer_reads_items_with_their_vectors(family: str, lead: int) -> None:
    """With a lead of so many tokens, what all prompts share ends between two codes of their first item."""
    model, ours = make_model(family), item_input()
    start = [*([13, 14] * lead)[:lead], *SPELLED[1][:2]]
    prompts = [[*start, SPELLED[1][2], *SPELLED[0]], [*start, SPELLED[2][2], 3, *SPELLED[3], 10], [*start, 10, 10]]
    found = TorchScorer(model, VOCABULARY, item_input=ours).start(prompts)
    bare = TorchScorer(model, VOCABULARY).start(prompts)
    assert found.hidden is not None
    for user, prompt in enumerate(prompts):
        tokens = torch.tensor([prompt])
        with torch.inference_mode():
            embedded = ours(model.get_input_embeddings()(tokens), ours.rows(tokens))
            hidden = model(inputs_embeds=embedded, output_hidden_states=True).hidden_states[-1][0, -1]
        torch.testing.assert_close(found.hidden[user], hidden, rtol=0, atol=1e-4)
    same = [torch.allclose(a, b, atol=1e-5) for a, b in zip(found.hidden, bare.hidden, strict=True)]
    assert same == [False, False, True]


def test_items_of_one_code_are_read_with_their_vectors() -> None:
    """Of one level every code is an item, also in the prompts that the scorer tries a model with."""
    vocabulary, items = SidVocabulary((np.array([7, 4, 9]),), 8), np.array([[2], [0], [1]], dtype=np.int32)
    torch.manual_seed(0)
    model, ours = make_model("qwen3"), ItemInput(SpelledItems(vocabulary, items), torch.randn(3, 5), 32, std=1.0)
    tokens = torch.tensor([[8, 9, 4]])
    found = TorchScorer(model, vocabulary, item_input=ours).start(tokens.tolist())
    with torch.inference_mode():
        embedded = ours(model.get_input_embeddings()(tokens), torch.tensor([[-1, 0, 2]]))
        logits = model(inputs_embeds=embedded).logits[:, -1, [7, 4, 9]]
    torch.testing.assert_close(found.log_probs, logits.log_softmax(1), rtol=0, atol=1e-4)


def test_training_and_decoding_read_the_same() -> None:
    built = build_lm(world(), replace(TINY, dropout=0.0))
    built.model.eval()
    prompts = [built.vocabulary.prompt(CODES[h]) for h in ([3, 9, 3], [1], [])]
    state = built.scorer().start(prompts)
    for prompt, hidden in zip(prompts, state.hidden, strict=True):
        with torch.inference_mode():
            expected = built.model.hidden(torch.tensor([prompt]))[0, -1]
        torch.testing.assert_close(hidden, expected, rtol=0, atol=1e-5)


def test_some_of_what_is_trained_on_is_read_by_codes_alone() -> None:
    built = build_lm(world(), replace(TINY, dropout=0.0))
    model = built.model
    tokens = torch.tensor([built.vocabulary.prompt(CODES[[3, 9]])]).expand(4000, -1)
    seen: list[torch.Tensor] = []
    ours = model.item_input
    assert ours is not None
    ours.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1] >= 0))
    model.train().hidden(tokens)
    model.eval().hidden(tokens)
    in_training, always = (rows[:, [2, 4]].float() for rows in seen)
    assert always.all()
    shown = (1 - ID_ONLY_ROWS) * (1 - ID_ONLY_ITEMS)
    assert in_training.mean(dim=0).tolist() == pytest.approx([shown, shown], abs=0.03)
    neither = ID_ONLY_ROWS + (1 - ID_ONLY_ROWS) * ID_ONLY_ITEMS**2
    assert float((in_training.sum(dim=1) == 0).float().mean()) == pytest.approx(neither, abs=0.03)


def test_a_model_without_item_input_reads_codes_alone() -> None:
    built = build_lm(world(), replace(TINY, item_input=False, dropout=0.0))
    assert built.model.item_input is None
    assert built.scorer().item_input is None


def test_stored_and_read_for_a_grown_catalogue(tmp_path: Path) -> None:
    inputs = world()
    ours = build_lm(inputs, TINY).model.item_input
    assert ours is not None
    assert len(ours.content) == N
    vocabulary = build_lm(inputs, TINY).vocabulary
    half_of, all_of = SpelledItems(vocabulary, CODES[: N // 2]), SpelledItems(vocabulary, CODES)
    assert ItemInput.load(tmp_path, all_of, ours.content) is None
    ours.save(tmp_path)
    half = ItemInput.load(tmp_path, half_of, ours.content[: N // 2])
    whole = ItemInput.load(tmp_path, all_of, ours.content)
    assert half is not None
    assert whole is not None
    tokens = torch.tensor([vocabulary.prompt(CODES[[1, N - 1]])])
    assert half.rows(tokens)[0].tolist() == [-1, -1, 1, -1, -1]
    assert whole.rows(tokens)[0].tolist() == [-1, -1, 1, -1, N - 1]
    assert torch.equal(whole.map.weight, ours.map.weight)
    with pytest.raises(InputError, match="not an item input of these item vectors"):
        ItemInput.load(tmp_path, all_of, ours.content[:, :5])
