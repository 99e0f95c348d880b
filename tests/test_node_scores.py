"""Node scores against direct evaluation of their equation over all items, in search, in training and after growth."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from worlds.table_scorer import TableState
from worlds.walk import CODES, TINY, N, recommender, world

from genrec.decoding import node_scores
from genrec.decoding.beam import beam_search, score_all
from genrec.decoding.filters import ItemFilter
from genrec.decoding.item_input import SpelledItems
from genrec.decoding.node_scores import FILE, NO_CHILD, NodeScorer, NodeScores
from genrec.decoding.trie import CodeTrie
from genrec.ranking.dense_head import DenseHead
from genrec.semtok.errors import InputError
from genrec.training.lm.build import LanguageModel, build_lm
from genrec.training.lm.data import collate, history_examples
from genrec.training.lm.save import load_lm, save_lm
from genrec.training.lm.teacher import Teacher

H, D, W = 6, 5, 4
SHARE = 0.6
SMALL = replace(TINY, dropout=0.0, node_vectors=True)
WORLDS = [(7,), (3, 4), (5, 1, 6), (2, 3, 2, 3)]


def codes_of(sizes: tuple[int, ...], n: int, seed: int) -> NDArray[np.int32]:
    """n different items; the first codes are the more common ones, so that branches differ in size."""
    every = np.stack(np.unravel_index(np.arange(int(np.prod(sizes))), sizes), axis=1).astype(np.int32)
    weight = 1.0 / (1 + every.sum(axis=1))
    return every[np.random.default_rng(seed).choice(len(every), n, replace=False, p=weight / weight.sum())]


def head_of(codes: NDArray[np.int32], sizes: tuple[int, ...]) -> DenseHead:
    head = DenseHead(H, D, torch.from_numpy(codes), sizes, torch.randn(len(codes), W), torch.rand(len(codes)) > 0.2)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    return head.eval()


class HiddenEngine:
    """An engine whose hidden state is looked up by user and codes fed; it knows no log-probabilities of its own."""

    def __init__(self, sizes: tuple[int, ...], users: int) -> None:
        self.sizes = sizes
        self.hidden = [torch.randn(users, *sizes[:level], H) for level in range(len(sizes))]

    def start(self, prompts: list[list[int]]) -> TableState:
        users = torch.tensor([prompt[0] for prompt in prompts])
        nothing = torch.full((len(prompts), self.sizes[0]), torch.nan)
        fed = torch.empty(len(prompts), 1, 0, dtype=torch.long)
        return TableState(nothing, users, fed, self.hidden[0][users])

    def step(self, state: TableState, parents: Tensor, codes: Tensor) -> Tensor:
        rows = torch.arange(len(parents))[:, None]
        state.prefixes = torch.cat([state.prefixes[rows, parents], codes[..., None]], dim=-1)
        index = (state.users[:, None].expand_as(codes), *state.prefixes.unbind(-1))
        state.beam_hidden = self.hidden[state.prefixes.shape[-1]][index]
        return torch.full((*codes.shape, self.sizes[state.prefixes.shape[-1]]), torch.nan)


def nodes_of(trie: CodeTrie) -> NodeScores:
    """Steps of any kind; those of a new model are 0."""
    nodes = NodeScores(trie, H, D)
    for step in nodes.steps:
        torch.nn.init.orthogonal_(step)
    return nodes


def enumerated(
    codes: NDArray[np.int32], head: DenseHead, steps: Iterable[Tensor], vectors: Tensor, hidden: list[Tensor]
) -> Tensor:
    """log p of every item by the equation: `hidden[l]` [V_0, ..., V_(l-1), H] of one user; float64 [N]."""
    result, first = [], head.query.weight.double() @ hidden[0].double()
    added = [torch.zeros_like(head.query.weight), *steps]
    for own in codes:
        total = torch.zeros((), dtype=torch.float64)
        for level in range(codes.shape[1]):
            h = hidden[level][tuple(own[:level].tolist())].double()
            scores = vectors.double() @ (first + added[level].double() @ h)
            beside = torch.from_numpy((codes[:, :level] == own[:level]).all(axis=1))
            below = beside & torch.from_numpy(codes[:, level] == own[level])
            total = total + scores[below].logsumexp(0) - scores[beside].logsumexp(0)
        result.append(total)
    return torch.stack(result)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(WORLDS), st.integers(0, 9_999), st.booleans(), st.data())
def test_search_finds_the_best_of_all_items(
    sizes: tuple[int, ...], seed: int, filtered: bool, data: st.DataObject
) -> None:
    torch.manual_seed(seed)
    n = data.draw(st.integers(1, int(np.prod(sizes))))
    codes, users = codes_of(sizes, n, seed), 3
    trie, engine = CodeTrie(codes, sizes), HiddenEngine(sizes, users)
    head, nodes = head_of(codes, sizes), nodes_of(trie)
    scorer = NodeScorer(engine, nodes, head)
    with torch.inference_mode():
        vectors = head.item_matrix()
        expected = torch.stack(
            [enumerated(codes, head, nodes.steps, vectors, [h[u] for h in engine.hidden]) for u in range(users)]
        )
    assert torch.allclose(expected.logsumexp(1), torch.zeros(users, dtype=torch.float64), atol=1e-5)
    prompts = [[user] for user in range(users)]
    np.testing.assert_allclose(score_all(scorer, trie, prompts, max_nodes=3), expected, atol=1e-3)
    allowed = np.ones((users, n), dtype=bool)
    filters = None
    if filtered:
        allowed = np.random.default_rng(seed).random((users, n)) < 0.6
        filters = [ItemFilter.from_mask(trie, mask) for mask in allowed]
    k = data.draw(st.integers(1, n + 1))
    found = beam_search(scorer, trie, prompts, beams=n, k=k, filters=filters)
    for user in range(users):
        best = [i for i in np.argsort(-expected[user].numpy(), kind="stable") if allowed[user, i]][:k]
        rows = found.rows[user][found.rows[user] >= 0]
        np.testing.assert_allclose(found.scores[user, : len(rows)], expected[user, best], atol=1e-3)
        np.testing.assert_allclose(expected[user, rows], expected[user, best], atol=1e-3)  # but for ties


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(WORLDS), st.integers(0, 9_999), st.sampled_from([1, 8, 10**9]), st.sampled_from([4, 2 << 20]))
def test_scores_and_gradients_are_the_equation(sizes: tuple[int, ...], seed: int, product: int, cells: int) -> None:
    """By products alone, by pairs alone and by both, in one block and in many."""
    torch.manual_seed(seed)
    n = np.random.default_rng(seed).integers(1, int(np.prod(sizes)) + 1)
    codes = codes_of(sizes, int(n), seed)
    trie = CodeTrie(codes, sizes)
    nodes, level, rows = NodeScores(trie, H, D), seed % len(sizes), 9
    items = torch.from_numpy(np.random.default_rng(seed).integers(0, n, rows))
    query, vectors = torch.randn(rows, D, requires_grad=True), (2 * torch.randn(int(n), D)).requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(node_scores, "_PRODUCT", product)
        patch.setattr(node_scores, "_CELLS", cells)
        found = nodes(query, vectors, level, nodes.nodes(level, items))
        weight = torch.rand(rows, sizes[level])
        (found.clamp(min=-1e3) * weight).sum().backward()
    q, v = (x.detach().double().requires_grad_() for x in (query, vectors))
    ordered, loss = codes[trie.order], torch.zeros((), dtype=torch.float64)
    for row, item in enumerate(items.tolist()):
        beside = torch.from_numpy((ordered[:, :level] == codes[item, :level]).all(axis=1))
        scores = v @ q[row]
        for code in range(sizes[level]):
            below = beside & torch.from_numpy(ordered[:, level] == code)
            if not below.any():
                assert found[row, code] < NO_CHILD / 2
                continue
            expected = scores[below].logsumexp(0) - scores[beside].logsumexp(0)
            assert found[row, code].item() == pytest.approx(expected.item(), abs=1e-4)
            loss = loss + weight[row, code] * expected
    loss.backward()
    torch.testing.assert_close(query.grad, q.grad.float(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(vectors.grad, v.grad.float(), rtol=1e-3, atol=1e-4)


def test_an_item_far_below_its_neighbours_still_has_a_score() -> None:
    codes = np.array([[0, 0], [1, 0], [1, 1]], dtype=np.int32)
    nodes = NodeScores(CodeTrie(codes, (2, 2)), H, D)
    vectors = torch.zeros(3, D)
    vectors[:, 0] = torch.tensor([0.0, 60.0, 175.0])
    found = nodes(torch.eye(D)[:1].repeat(300, 1), vectors, 0, torch.zeros(300, dtype=torch.long))
    assert found[299].tolist() == pytest.approx([-175.0, 0.0], abs=1e-3)


def log_p(built: LanguageModel, codes: NDArray[np.int32], prompt: list[int], vectors: Tensor) -> Tensor:
    """log p of all items after a prompt, by plain forwards of the model in training: [N], with gradients."""
    model, vocabulary = built.model, built.vocabulary
    assert model.nodes is not None
    result = []
    for own in codes:
        tokens = torch.tensor([[*prompt, *vocabulary.encode(own[None, :])[0].tolist()]])
        hidden, total = model.hidden(tokens)[0][len(prompt) - 1 :], torch.zeros(())
        for level in range(codes.shape[1]):
            query = model.head.query(hidden[0])
            scores = vectors @ (query + model.nodes.steps[level - 1] @ hidden[level] if level else query)
            beside = torch.from_numpy((codes[:, :level] == own[:level]).all(axis=1))
            below = beside & torch.from_numpy(codes[:, level] == own[level])
            total = total + scores[below].logsumexp(0) - scores[beside].logsumexp(0)
        result.append(total)
    return torch.stack(result)


def test_the_loss_is_the_enumerated_cross_entropy_and_its_gradient() -> None:
    inputs = world()
    built = build_lm(inputs, replace(SMALL, item_input=False, identity_dropout=0.0, dense_weight=0.0))
    model = built.model.eval()
    assert model.nodes is not None
    for step in model.nodes.steps:
        torch.nn.init.normal_(step, std=0.1)
    rows = history_examples(inputs.split.train.take(np.arange(2)), CODES, built.vocabulary, 6)
    model(collate(rows)).items.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    loss = torch.zeros(())
    for history in inputs.split.train.take(np.arange(2)):
        for place, target in enumerate(history):
            prompt = built.vocabulary.prompt(CODES[history[:place]])
            loss = loss - log_p(built, CODES, prompt, model.head.item_matrix())[target]
    loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-4, msg=name)
    assert {"nodes.steps.0", "head.query.weight", "head.identity", "head.content_map.weight"} <= set(found)


def test_soft_targets_are_taught_to_the_nodes() -> None:
    inputs = world()
    built = build_lm(inputs, SMALL)
    model = built.model.eval()
    teacher = Teacher(
        recommender(N), SpelledItems(built.vocabulary, CODES), CodeTrie(CODES, (4, 4)), torch.from_numpy(CODES),
        model.seen_rows, SHARE,
    )  # fmt: skip
    batch = collate(history_examples(inputs.split.train.take(np.arange(3)), CODES, built.vocabulary, 6))
    soft = teacher(batch)
    assert soft is not None
    rows, places = (batch.items >= 0).nonzero(as_tuple=True)
    hidden, vectors, expected = model.hidden(batch.input_ids), model.head.item_matrix(), 0.0
    assert model.nodes is not None
    torch.nn.init.normal_(model.nodes.steps[0], std=0.1)
    for level in range(CODES.shape[1]):
        for m, item in enumerate(batch.items[rows, places].tolist()):
            beside = torch.from_numpy((CODES[:, :level] == CODES[item, :level]).all(axis=1))
            query = model.head.query(hidden[rows[m], places[m]])
            if level:
                query = query + model.nodes.steps[level - 1] @ hidden[rows[m], places[m] + level]
            scores = vectors @ query
            for code in range(4):
                below = beside & torch.from_numpy(CODES[:, level] == code)
                target = float(soft.codes[level][m, code]) + (CODES[item, level] == code)
                if below.any():
                    expected -= target * (scores[below].logsumexp(0) - scores[beside].logsumexp(0)).item()
    found = model(batch, soft)
    assert found.nodes.item() == pytest.approx(expected, rel=1e-4)
    assert found.items.item() == pytest.approx(expected + found.dense.item(), rel=1e-4)
    model.nodes = None  # the dense head's own loss, by itself
    assert found.dense.item() == pytest.approx(model(batch, soft).dense.item(), rel=1e-4)


def test_saved_and_read_again_the_same_items_win(tmp_path: Path) -> None:
    inputs = world()
    built = build_lm(inputs, SMALL)
    built.model.eval()
    prompts = [built.vocabulary.prompt(CODES[history]) for history in ([1, 2], [5])]
    trie = CodeTrie(CODES, (4, 4))
    before = score_all(built.scorer(), trie, prompts)
    save_lm(built, tmp_path, {})
    again = load_lm(tmp_path, inputs, SMALL)
    np.testing.assert_allclose(score_all(again.scorer(), trie, prompts), before, atol=1e-5)
    (tmp_path / "heads" / FILE).unlink()
    assert NodeScores.load(tmp_path / "heads", trie) is None
    with pytest.raises(InputError, match="without node vectors"):
        load_lm(tmp_path, inputs, SMALL)


def test_items_added_later_are_generated(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes, n = (3, 4), 8
    codes = codes_of(sizes, n + 3, 1)
    content = torch.randn(n + 3, W)
    head = DenseHead(H, D, torch.from_numpy(codes[:n]), sizes, content[:n], torch.ones(n, dtype=torch.bool))
    nodes = nodes_of(CodeTrie(codes[:n], sizes))
    head.save(tmp_path / "dense.safetensors")
    nodes.save(tmp_path)
    trie = CodeTrie(codes, sizes)
    grown = DenseHead.load(tmp_path / "dense.safetensors", torch.from_numpy(codes), sizes, content)
    read = NodeScores.load(tmp_path, trie)
    assert read is not None
    engine = HiddenEngine(sizes, 1)
    with torch.inference_mode():
        vectors = grown.item_matrix()
        expected = enumerated(codes, head, nodes.steps, vectors, [h[0] for h in engine.hidden])
    found = beam_search(NodeScorer(engine, read, grown), trie, [[0]], beams=n + 3, k=n + 3)
    np.testing.assert_allclose(found.scores[0], expected[found.rows[0]], atol=1e-4)
    assert sorted(found.rows[0].tolist()) == list(range(n + 3))


def test_before_training_the_tree_is_the_dense_head() -> None:
    torch.manual_seed(0)
    sizes = (5, 1, 6)
    codes = codes_of(sizes, 20, 0)
    trie, head = CodeTrie(codes, sizes), head_of(codes, sizes)
    engine = HiddenEngine(sizes, 1)
    with torch.inference_mode():
        expected = head(engine.hidden[0]).log_softmax(1)
    found = score_all(NodeScorer(engine, NodeScores(trie, H, D), head), trie, [[0]])
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_steps_of_other_levels_are_refused(tmp_path: Path) -> None:
    NodeScores(CodeTrie(CODES, (4, 4)), H, D).save(tmp_path)
    codes = codes_of((2, 3, 2), 9, 0)
    with pytest.raises(InputError, match="not node scores of these codes"):
        NodeScores.load(tmp_path, CodeTrie(codes, (2, 3, 2)))
