"""SoftTargets targets from a recommender, against direct evaluation of their equations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch.nn import functional as F
from worlds.walk import CODES, TINY, N, recommender, world

from genrec.data.sequences import Sequences
from genrec.decoding.item_input import SpelledItems
from genrec.decoding.trie import CodeTrie
from genrec.decoding.vocabulary import SidVocabulary
from genrec.ranking.config import RankingConfig
from genrec.semtok.errors import InputError
from genrec.training.lm.build import LmInputs, build_lm
from genrec.training.lm.config import LmConfig
from genrec.training.lm.data import Batch, collate, history_examples, response_example
from genrec.training.lm.fit import fit_lm
from genrec.training.lm.teacher import Teacher
from genrec.training.lm.validation import Validation
from genrec.training.loop.batching import windows
from genrec.training.loop.epochs import FitContext
from genrec.training.loop.losses import SoftTargets, linear_cross_entropy

SHARE = 0.6


def taught(
    codes: NDArray[np.int32],
    sizes: tuple[int, ...],
    histories: list[list[int]],
    max_items: int,
    backbone: str = "sasrec",
) -> tuple[Teacher, Batch]:
    """A teacher of all items but row 0, and a batch of the histories behind a row of text."""
    ids = np.split(np.arange(5, 5 + sum(sizes)), np.cumsum(sizes)[:-1])
    vocabulary = SidVocabulary(tuple(ids), 4)
    model = recommender(len(codes), max_items=max_items, backbone=backbone)
    spelled, trie = SpelledItems(vocabulary, codes), CodeTrie(codes, sizes)
    teacher = Teacher(model, spelled, trie, torch.from_numpy(codes), torch.arange(1, len(codes)), SHARE)
    rows = history_examples(
        Sequences.from_lists([np.array(h, dtype=np.int32) for h in histories]), codes, vocabulary, 5
    )
    text = response_example([1, *vocabulary.encode(codes[1]).tolist()], [2, 3])
    return teacher, collate([text, *rows])


@pytest.mark.parametrize("backbone", ["sasrec", "bert4rec", "fmlprec"])  # the last two read in both directions
@settings(deadline=None, max_examples=30)
@given(st.data())
def test_soft_targets_are_their_equation(backbone: str, data: st.DataObject) -> None:
    sizes = data.draw(st.sampled_from([(3, 4), (2, 3, 2), (5,)]))
    every = np.stack(np.unravel_index(np.arange(int(np.prod(sizes))), sizes), axis=1).astype(np.int32)
    n = data.draw(st.integers(2, len(every)))
    codes = every[np.random.default_rng(data.draw(st.integers(0, 99))).permutation(len(every))[:n]]
    items = st.lists(st.integers(0, n - 1), min_size=1, max_size=9)
    histories = data.draw(st.lists(items, min_size=1, max_size=3))
    teacher, batch = taught(codes, sizes, histories, max_items=3, backbone=backbone)
    soft = teacher(batch)
    targets = [(w, k) for w in _windows(histories) for k in range(w[1], len(w[0]))]
    assert soft is not None or all(len(w) == 1 for w, _ in _windows(histories))
    if soft is None:
        return
    assert len(soft.items.states) == len(targets)
    assert torch.equal(soft.items.vectors, teacher.model.item_vectors[1:])
    for place, ((window, _), k) in enumerate(targets):
        own = codes[window[k]]
        if not 1 <= k <= 3:  # nothing to go by, or more than the teacher reads
            assert soft.items.shares[place] == 0
            assert not any(level[place].any() for level in soft.codes)
            continue
        scores = teacher.model.score(Sequences.from_lists([np.array(window[:k], dtype=np.int32)]))[0]
        probabilities = np.exp(scores.astype(np.float64)) / np.exp(scores.astype(np.float64)).sum()
        assert soft.items.shares[place] == pytest.approx(SHARE)
        said = (soft.items.states[place] @ teacher.model.item_vectors.T).numpy()
        np.testing.assert_allclose(said, scores, atol=1e-4)
        for level, found in enumerate(soft.codes):
            under = (codes[:, :level] == own[:level]).all(axis=1)
            mass = np.array([probabilities[under & (codes[:, level] == code)].sum() for code in range(sizes[level])])
            expected = SHARE * (mass / mass.sum() - np.eye(sizes[level])[own[level]])
            np.testing.assert_allclose(found[place].numpy(), expected, atol=1e-3)


def _windows(histories: list[list[int]]) -> list[tuple[list[int], int]]:
    """As `history_examples` cuts them, at five items: what is read, and the first target in it."""
    return [(h[start:end], first - start) for h in histories for start, first, end in windows(len(h), 5)]


def test_text_alone_has_no_soft_targets() -> None:
    teacher, batch = taught(CODES, (4, 4), [[1, 2]], max_items=4)
    assert teacher(Batch(batch.input_ids[:1], batch.labels[:1], batch.items[:1])) is None


def test_beliefs_below_a_prefix_that_the_teacher_rules_out_are_not_taught() -> None:
    teacher, _ = taught(CODES, (4, 4), [[1, 15, 2]], max_items=4)
    far = torch.full((N, 8), 0.0)
    far[12:] = -1.0  # the items whose first code is 3
    states = torch.full((1, 8), 9.0)
    teacher.sorted_vectors = far[torch.from_numpy(teacher.trie.order).long()]
    first, second = teacher._codes(states, torch.tensor([15]), torch.tensor([SHARE]))
    assert first[0, 3] == pytest.approx(-SHARE, abs=1e-4)
    assert not second.any()


def test_soft_targets_are_the_equation_and_its_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(37, 5, generator=generator), torch.randn(11, 5, generator=generator)
    targets = torch.randint(0, 11, (37,), generator=generator)
    soft = SoftTargets(
        torch.randn(37, 3, generator=generator),
        torch.randn(11, 3, generator=generator),
        torch.rand(37, generator=generator),
    )
    hidden.requires_grad_(), weight.requires_grad_()
    loss = linear_cross_entropy(hidden, weight, targets, soft=soft)
    (loss * 2).backward()
    h, w = (x.detach().double().requires_grad_() for x in (hidden, weight))
    probabilities = (soft.states.double() @ soft.vectors.double().T).softmax(dim=1)
    shares = soft.shares.double()[:, None]
    mixed = (1 - shares) * F.one_hot(targets, 11) + shares * probabilities
    expected = -(mixed * (h @ w.T).log_softmax(dim=1)).sum()
    (expected * 2).backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(hidden.grad, h.grad.float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(weight.grad, w.grad.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("space", ["level", "vocabulary"])
def test_the_model_is_trained_towards_the_soft_targets(space: str) -> None:
    inputs = world()
    built = build_lm(inputs, replace(TINY, dropout=0.0, item_input=False, score_space=space))
    model = built.model.eval()
    spelled, trie = SpelledItems(built.vocabulary, CODES), CodeTrie(CODES, (4, 4))
    teacher = Teacher(recommender(N), spelled, trie, torch.from_numpy(CODES), model.seen_rows, SHARE)
    batch = collate(history_examples(inputs.split.train.take(np.arange(6)), CODES, built.vocabulary, 6))
    soft = teacher(batch)
    assert soft is not None
    with torch.no_grad():
        plain, ours = model(batch), model(batch, soft)
        hidden = model.hidden(batch.input_ids)
    rows, places = (batch.items >= 0).nonzero(as_tuple=True)
    codes = 0.0
    for level, beyond in enumerate(soft.codes):
        targets = beyond + F.one_hot(torch.from_numpy(CODES).long()[batch.items[rows, places], level], 4)
        assert torch.allclose(targets.sum(dim=1), torch.ones(len(targets)), atol=1e-4)
        words = model.lm.get_output_embeddings().weight[: model.first]
        logits = hidden[rows, places + level] @ torch.cat([words, model.rows]).T
        of_level = logits[:, model.first :][:, model.level_rows[level]]
        others = of_level if space == "level" else logits
        codes -= float((targets * (of_level - others.logsumexp(-1, keepdim=True))).sum().detach())
    assert ours.codes.item() == pytest.approx(codes, rel=1e-4)
    assert (ours.text, ours.n_items, ours.n_text) == (plain.text, plain.n_items, plain.n_text)
    scores = model.head.query(hidden[rows, places]) @ model.head.item_matrix(model.seen_rows).T
    probabilities = (soft.items.states @ soft.items.vectors.T).softmax(dim=1)
    shares = soft.items.shares[:, None]
    mixed = (1 - shares) * F.one_hot(
        model.seen_index[batch.items[rows, places]], scores.shape[1]
    ) + shares * probabilities
    assert ours.dense.item() == pytest.approx(-float((mixed * scores.log_softmax(dim=1)).sum()), rel=1e-4)


def fitted(inputs: LmInputs, config: LmConfig, work: Path) -> tuple[float, float]:
    """Agreement of codes and dense head with the teacher's favourite, on training prefixes."""
    work.mkdir()
    validation = Validation(inputs, RankingConfig(max_items=4, beams=8), config.valid_cases, 0)
    built = fit_lm(inputs, config, validation, FitContext(work, stop_after=config.epochs))
    assert built is not None
    assert inputs.sequential is not None
    histories = inputs.split.train.last(3)
    favourite = inputs.sequential.score(histories).argmax(axis=1)
    state = built.scorer().start([built.vocabulary.prompt(CODES[h]) for h in histories])
    first = CODES[favourite, 0] == state.log_probs.argmax(dim=1).numpy()
    assert state.hidden is not None
    with torch.inference_mode():
        dense = built.model.head(state.hidden).argmax(dim=1).numpy() == favourite
    return float(first.mean()), float(dense.mean())


def test_a_student_learns_what_only_its_teacher_knows(tmp_path: Path) -> None:
    inputs = replace(world(), sequential=recommender(N))  # of which no purchase knows anything
    config = replace(
        TINY, width=32, dense_width=16, epochs=14, dropout=0.0, learning_rate=5e-3, head_learning_rate=5e-3,
        batch_tokens=256, max_items=4, identity_dropout=0.0, text_share=0.0,
    )  # fmt: skip
    alone = fitted(inputs, replace(config, teacher_share=0.0), tmp_path / "alone")
    taught_ones = fitted(inputs, replace(config, teacher_share=1.0), tmp_path / "taught")
    assert min(taught_ones) > 0.6
    assert max(alone) < 0.4


def test_a_share_is_a_share() -> None:
    with pytest.raises(InputError, match=r"teacher_share 1\.5 is not in \[0, 1\]"):
        replace(TINY, teacher_share=1.5)
