"""The parts of the LM stage against direct evaluation: losses, rows of tokens, dense head, vocabulary."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from genrec.data.sequences import Sequences
from genrec.decoding.vocabulary import SidVocabulary, encode_text, spell
from genrec.ranking.dense_head import DenseHead
from genrec.semtok.errors import InputError
from genrec.training.lm.base import scratch_tokenizer
from genrec.training.lm.data import IGNORE, collate, history_examples, response_example
from genrec.training.loop.losses import linear_cross_entropy

SIZES = (4, 3)
VOCABULARY = SidVocabulary((np.arange(11, 15), np.arange(15, 18)), 10)


def test_linear_cross_entropy_is_the_equation_and_its_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(37, 5, generator=generator).requires_grad_()
    weight = torch.randn(11, 5, generator=generator).requires_grad_()
    targets = torch.randint(0, 11, (37,), generator=generator)
    loss = linear_cross_entropy(hidden, weight, targets)
    (loss * 2).backward()
    h, w = (x.detach().double().requires_grad_() for x in (hidden, weight))
    expected = F.cross_entropy(h @ w.T, targets, reduction="sum")
    (expected * 2).backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(hidden.grad, h.grad.float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(weight.grad, w.grad.float(), rtol=1e-4, atol=1e-5)


def test_linear_cross_entropy_of_nothing_is_zero() -> None:
    weight = torch.ones(3, 2, requires_grad=True)
    loss = linear_cross_entropy(torch.empty(0, 2), weight, torch.empty(0, dtype=torch.long))
    loss.backward()
    assert loss.item() == 0
    assert not weight.grad.any()


def test_a_history_example_predicts_every_code_and_names_every_item() -> None:
    codes = np.array([[0, 1], [3, 2], [1, 0]], dtype=np.int32)
    (example,) = history_examples(Sequences.from_lists([[2, 0]]), codes, VOCABULARY, max_items=5)
    assert example.tokens.tolist() == [10, 12, 15, 11, 16]
    assert example.labels.tolist() == [12, 15, 11, 16]
    assert example.items.tolist() == [2, -1, 0, -1]


def test_a_long_history_is_cut_into_windows_without_a_repeated_target() -> None:
    codes = np.array([[i % 4, i // 4] for i in range(12)], dtype=np.int32)
    examples = history_examples(Sequences.from_lists([range(11)]), codes, VOCABULARY, max_items=4)
    assert sorted(i for e in examples for i in e.items if i >= 0) == list(range(11))
    assert sum(int((e.labels != IGNORE).sum()) for e in examples) == 22


def test_only_the_response_is_a_target_and_padding_never_is() -> None:
    batch = collate([response_example([5, 6, 7], [8, 9]), response_example([1], [2])])
    assert batch.input_ids.tolist() == [[5, 6, 7, 8], [1, 0, 0, 0]]
    assert batch.labels.tolist() == [[IGNORE, IGNORE, 8, 9], [2, IGNORE, IGNORE, IGNORE]]
    assert (batch.items == -1).all()


def _head() -> DenseHead:
    codes = torch.tensor([[0, 1], [3, 2], [1, 0]])
    torch.manual_seed(0)
    return DenseHead(6, 4, codes, SIZES, torch.randn(3, 5), torch.tensor([True, False, True]))


def test_an_item_vector_is_codes_plus_content_plus_identity_if_seen() -> None:
    head = _head()
    matrix = head.item_matrix()
    for row in range(3):
        a, b = head.codes[row]
        expected = head.code_vectors[0][a] + head.code_vectors[1][b] + head.content_map.weight @ head.content[row]
        if row != 1:
            expected = expected + head.identity[row]
        torch.testing.assert_close(matrix[row], expected)
    hidden = torch.randn(2, 6)
    torch.testing.assert_close(head(hidden), (hidden @ head.query.weight.T) @ matrix.T)


def test_identity_vectors_are_dropped_in_training_only() -> None:
    codes, content = torch.zeros(2000, 2, dtype=torch.long), torch.zeros(2000, 5)
    head = DenseHead(6, 4, codes, SIZES, content, torch.ones(2000, dtype=torch.bool), identity_dropout=0.3)
    with torch.no_grad():
        for vectors in head.code_vectors:
            vectors.zero_()
    torch.manual_seed(0)
    absent = (head.item_matrix() == 0).all(dim=1)
    assert 0.25 < float(absent.float().mean()) < 0.35
    assert not (head.eval().item_matrix() == 0).all(dim=1).any()


def test_a_saved_head_serves_a_grown_catalogue_and_refuses_another(tmp_path: Path) -> None:
    head = _head()
    head.save(tmp_path / "dense.safetensors")
    codes = torch.cat([head.codes, torch.tensor([[2, 2]])])
    content = torch.cat([head.content, torch.ones(1, 5)])
    grown = DenseHead.load(tmp_path / "dense.safetensors", codes, SIZES, content)
    torch.testing.assert_close(grown.item_matrix()[:3], head.item_matrix())
    assert not grown.seen[3]
    with pytest.raises(InputError, match="made for 3 items"):
        DenseHead.load(tmp_path / "dense.safetensors", codes[:2], SIZES, content[:2])
    with pytest.raises(InputError, match="not a dense head of these codes"):
        DenseHead.load(tmp_path / "dense.safetensors", codes, (9, 9), content)


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=6))
def test_vocabulary_encodes_and_decodes(pairs: list[tuple[int, int]]) -> None:
    codes = np.array(pairs, dtype=np.int32).reshape(-1, 2)
    tokens = VOCABULARY.prompt(codes)
    assert tokens[0] == 10
    assert [VOCABULARY.decode(t) for t in tokens[1:]] == [(i % 2, c) for i, c in enumerate(codes.ravel().tolist())]


def test_typed_control_tokens_stay_text(tmp_path: Path) -> None:
    tokenizer = scratch_tokenizer(["red shoes", "blue shoes"], 300)
    vocabulary = SidVocabulary.added_to(tokenizer, SIZES)
    special = {vocabulary.history_token, tokenizer.eos_token_id, *np.concatenate(vocabulary.token_ids).tolist()}
    for text in ("<a_1><b_2>", "<history>", "<|end|>", f"shoes {spell(0, 3)} \u4f60\u597d"):
        ids = encode_text(tokenizer, text)
        assert not special & set(ids)
        assert tokenizer.decode(ids) == text
    assert tokenizer.add_tokens(["<think>", "</think>", "  "]) == 3  # as base models add them: not as special tokens
    added = set(tokenizer.convert_tokens_to_ids(["<think>", "</think>"]))
    for text in ("<think>", "red <think></think> shoes", "<<think>think>", "</<think>think>"):
        assert not added & set(encode_text(tokenizer, text))
    assert tokenizer.decode(encode_text(tokenizer, "<think> shoes")) == "< think> shoes"
    assert tokenizer.decode(encode_text(tokenizer, "think of  shoes")) == "think of  shoes"
    vocabulary.save(tmp_path)
    assert SidVocabulary.load(tmp_path).history_token == vocabulary.history_token
    (tmp_path / "sid_vocabulary.json").write_text("[]")
    with pytest.raises(InputError, match="not a SID vocabulary"):
        SidVocabulary.load(tmp_path)
