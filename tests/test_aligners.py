"""Aligners as tables: what each part does, cold items, files, bad input, and a world where words decide."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from sklearn.decomposition import PCA
from torch import Tensor
from torch.nn import functional as F

from genrec.semtok.aligners import ALIGNERS, aligner_config
from genrec.semtok.aligners.base import AlignerInputs, IdTable, ItemTable
from genrec.semtok.aligners.config import FaeRecConfig, LlmEmbConfig, LlmEsrConfig
from genrec.semtok.aligners.faerec import FaeRecTable
from genrec.semtok.aligners.llmemb import LlmEmbTable
from genrec.semtok.aligners.losses import feature_correlation_by_popularity, item_contrast, soft_target_contrast
from genrec.semtok.aligners.principal_axes import component_rows
from genrec.semtok.aligners.saved import load_table, make_table, save_table
from genrec.semtok.errors import InputError

N, USERS, WIDTH = 40, 12, 8
ROWS = torch.tensor([1, 5, 2, 30, 17, 8, 9])


def inputs(seed: int = 0, n: int = N, text_width: int = 12) -> AlignerInputs:
    rng = np.random.default_rng(seed)
    counts = np.arange(n) % 5  # every fifth item is cold
    taken = csr_array((rng.random((USERS, n)) < 0.2).astype(np.float32) * (counts > 0))
    text = rng.normal(size=(n, text_width)).astype(np.float32)
    user_text = rng.normal(size=(USERS, text_width)).astype(np.float32)
    return AlignerInputs(text, rng.normal(size=(n, 10)).astype(np.float32), counts, taken, user_text)


def made(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return make_table(name, inputs(), WIDTH, aligner_config(name, **options)).eval()


# --- every aligner ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALIGNERS)
def test_every_table_has_finite_vectors_and_a_loss(name: str) -> None:
    table = made(name).train()
    for vectors in (table(), table.scores()):
        assert vectors.shape == (N, WIDTH)
        assert torch.isfinite(vectors).all()
    loss = table.loss(ROWS, 1.5)
    assert loss.shape == ()
    assert torch.isfinite(loss)
    assert torch.isfinite(table.loss(torch.tensor([0, 5]), 0.0)), "cold items only"


@pytest.mark.parametrize("name", ALIGNERS)
def test_some_rows_are_rows_of_the_table(name: str) -> None:
    table = made(name)
    torch.testing.assert_close(table.at(ROWS), table()[ROWS])
    cold = torch.tensor([0, 5])
    torch.testing.assert_close(table.at(cold), table()[cold])


@pytest.mark.parametrize("name", ALIGNERS)
def test_behaviour_of_cold_items_is_not_looked_at(name: str) -> None:
    given = inputs()
    garbage = given.collaborative.copy()
    garbage[given.counts == 0] = 1e3
    other = AlignerInputs(given.text, garbage, given.counts, given.user_item, given.user_text)
    tables, losses = [], []
    for one in (given, other):
        torch.manual_seed(0)
        tables.append(make_table(name, one, WIDTH).eval())
        losses.append(tables[-1].loss(ROWS, 0.5))
    torch.testing.assert_close(tables[0](), tables[1]())
    torch.testing.assert_close(tables[0].scores(), tables[1].scores())
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("name", ALIGNERS)
def test_items_that_all_have_the_same_words(name: str) -> None:
    given = inputs()
    torch.manual_seed(0)
    table = make_table(name, replace(given, text=np.full_like(given.text, 0.5)), WIDTH).train()
    loss = (table() @ table().T).logsumexp(dim=1).mean() + table.loss(ROWS, 0.5)
    if weights := list(table.parameters()):
        loss.backward()
        torch.optim.Adam(weights, lr=1e-3).step()
    with torch.no_grad():
        assert table.eval()().abs().max() < 100
        assert table.from_text(torch.from_numpy(given.text)).abs().max() < 100


@pytest.mark.parametrize("name", ALIGNERS)
def test_new_items_get_vectors_from_their_words(name: str) -> None:
    table = made(name)
    words = torch.from_numpy(inputs(seed=1).text)
    vectors = table.from_text(words)
    assert vectors.shape == (N, WIDTH)
    torch.testing.assert_close(vectors[3:5], table.from_text(words[3:5]), rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="width 5"):
        table.from_text(words[:, :5])


@pytest.mark.parametrize("name", ALIGNERS)
def test_a_saved_table_is_the_same_table(name: str, tmp_path: Path) -> None:
    table = made(name)
    save_table(table, tmp_path)
    state = torch.random.get_rng_state()
    loaded = load_table(tmp_path, inputs())
    assert torch.equal(torch.random.get_rng_state(), state)
    words = torch.from_numpy(inputs(seed=1).text)
    assert torch.equal(loaded.scores(), table.scores())
    assert torch.equal(loaded.from_text(words), table.from_text(words))
    again = tmp_path / "again"
    again.mkdir()
    save_table(loaded, again)
    for file in ("aligner.json", "aligner.safetensors"):
        assert (again / file).read_bytes() == (tmp_path / file).read_bytes()


@pytest.mark.parametrize("name", ALIGNERS)
def test_bad_files_are_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"aligner\.json: no such file"):
        load_table(tmp_path, inputs())
    save_table(made(name), tmp_path)
    with pytest.raises(InputError, match="an aligner of 40 items, not of 30"):
        load_table(tmp_path, inputs(n=30))
    with pytest.raises(InputError, match="not the aligner of these vectors"):
        load_table(tmp_path, inputs(text_width=9))
    whole = (tmp_path / "aligner.safetensors").read_bytes()
    (tmp_path / "aligner.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="not a safetensors file"):
        load_table(tmp_path, inputs())
    (tmp_path / "aligner.safetensors").unlink()
    with pytest.raises(InputError, match=r"aligner\.safetensors: no such file"):
        load_table(tmp_path, inputs())
    facts = json.loads((tmp_path / "aligner.json").read_text())
    configs = ({"colour": 1}, [], None, "x", {"dropout": 2, "weight": -1})
    for broken in ({"name": "fusion"}, {**facts, "name": "other"}, *({**facts, "config": c} for c in configs), []):
        (tmp_path / "aligner.json").write_text(json.dumps(broken))
        with pytest.raises(InputError, match=r"not a saved aligner|should be an object"):
            load_table(tmp_path, inputs())
    (tmp_path / "aligner.safetensors").write_bytes(whole)
    for width in ("16", 2.5, -1, 0, None):
        (tmp_path / "aligner.json").write_text(json.dumps({**facts, "width": width}))
        with pytest.raises(InputError, match="not a saved aligner"):
            load_table(tmp_path, inputs())


@pytest.mark.parametrize(
    ("name", "option"),
    [("text", "hidden"), ("llmemb", "text_width"), ("llm_esr", "heads"), ("recgoat", "item_neighbours")],
)
def test_a_saved_option_of_another_type_is_foreign(name: str, option: str, tmp_path: Path) -> None:
    save_table(made(name), tmp_path)
    facts = json.loads((tmp_path / "aligner.json").read_text())
    (tmp_path / "aligner.json").write_text(json.dumps({**facts, "config": {**facts["config"], option: 1.5}}))
    with pytest.raises(InputError, match="not a saved aligner"):
        load_table(tmp_path, inputs())


def test_an_aligner_has_a_name_and_options() -> None:
    assert aligner_config("faerec", weight=0.5) == FaeRecConfig(weight=0.5)
    with pytest.raises(InputError, match=r"aligner 'farec': choose one of .* did you mean 'faerec'"):
        aligner_config("farec")
    with pytest.raises(InputError, match="aligner 'nobody': choose one of"):
        aligner_config("nobody")
    with pytest.raises(InputError, match="colour"):
        aligner_config("faerec", colour=1)


def test_inputs_of_different_lengths_are_refused() -> None:
    given = inputs()
    with pytest.raises(InputError, match="3 counts"):
        AlignerInputs(given.text, given.collaborative, given.counts[:3], given.user_item)
    with pytest.raises(InputError, match="2 user texts for 12 users"):
        AlignerInputs(given.text, given.collaborative, given.counts, given.user_item, given.text[:2])


def test_an_id_table_knows_no_words() -> None:
    with pytest.raises(InputError, match="IdTable has no vectors"):
        IdTable(3, 2).from_text(torch.zeros(1, 2))


# --- FAERec -----------------------------------------------------------------------------------------------------------


def test_the_id_table_starts_at_the_main_components() -> None:
    text = inputs().text
    ours, theirs = component_rows(text, 5, 0.05), PCA(5).fit_transform(text)
    assert np.sqrt(np.square(ours).mean()) == pytest.approx(0.05, rel=1e-5)
    theirs *= 0.05 / np.sqrt(np.square(theirs).mean())
    signs = np.sign((ours * theirs).sum(axis=0))
    np.testing.assert_allclose(ours, signs * theirs, atol=1e-5)
    np.testing.assert_array_equal(made("faerec").items.weight.detach(), component_rows(text, WIDTH, 0.05))
    assert not component_rows(text, 15, 0.05)[:, 12:].any(), "a text of 12 dimensions has no more components"


def faerec_parts(table: FaeRecTable) -> tuple[Tensor, Tensor]:
    text = torch.from_numpy(inputs().text)
    standard = (text - text.mean(dim=0)) / (text - text.mean(dim=0)).square().mean().sqrt()
    return table.items.weight, table.mapper(standard)


def test_the_gate_mixes_and_is_shut_for_cold_items() -> None:
    table = made("faerec")
    own, mapped = faerec_parts(table)
    gate = table.gate(own, mapped)
    expected = table.norm(gate * own + (1 - gate) * mapped)
    cold = torch.from_numpy(inputs().counts == 0)
    torch.testing.assert_close(table()[~cold], expected[~cold])
    torch.testing.assert_close(table()[cold], table.norm(mapped)[cold])
    torch.testing.assert_close(table.scores(), table())
    torch.testing.assert_close(table.from_text(torch.from_numpy(inputs().text))[cold], table.scores()[cold])


@pytest.mark.parametrize(("epoch", "item"), [(0.0, 1.0), (10.0, 0.7), (20.0, 1.0)])
def test_the_loss_follows_the_curriculum(epoch: float, item: float) -> None:
    table = made("faerec", drawn_items=0.0)
    warm = ROWS[torch.from_numpy(inputs().counts)[ROWS] > 0]
    own, mapped = (side[warm] for side in faerec_parts(table))
    by_item = item_contrast(own, mapped, warm, 0.05)
    by_feature = feature_correlation_by_popularity(own, mapped, torch.from_numpy(inputs().counts)[warm])
    torch.testing.assert_close(table.loss(ROWS, epoch), 0.2 * (item * by_item + (1 - item) * by_feature))


def test_the_losses_can_be_left_out() -> None:
    assert made("faerec", weight=0.0).loss(ROWS, 3.0) == 0
    assert made("llmemb", weight=0.0).loss(ROWS, 3.0) == 0
    assert made("llm_esr").loss(ROWS, 3.0) == 0
    assert made("recgoat", contrast=0.0).loss(ROWS, 3.0) == 0


def test_drawn_items_reach_the_loss() -> None:
    table = made("faerec", drawn_items=3.0)
    (gradient,) = torch.autograd.grad(table.loss(ROWS, 0.0), table.items.weight)
    reached = set(torch.nonzero(gradient.abs().sum(dim=1)).squeeze(1).tolist())
    assert reached - set(ROWS.tolist())
    assert not reached & set(np.flatnonzero(inputs().counts == 0).tolist())


# --- LLMEmb -----------------------------------------------------------------------------------------------------------


def test_the_adapter_is_linear_in_the_words() -> None:
    table = made("llmemb")
    text = torch.from_numpy(inputs().text)
    first, second = text[:1], text[1:2]
    torch.testing.assert_close(table.from_text((first + second) / 2), table()[:2].mean(dim=0, keepdim=True))
    torch.testing.assert_close(table(), table.from_text(text), atol=1e-5, rtol=1e-4)


def test_only_the_adapter_learns() -> None:
    assert [name for name, p in made("llmemb").named_parameters() if not name.startswith("adapter.")] == []


def test_the_alignment_is_the_papers_on_warm_items() -> None:
    given = inputs()
    collaborative = np.random.default_rng(3).normal(size=(N, WIDTH)).astype(np.float32)
    same_width = AlignerInputs(given.text, collaborative, given.counts, given.user_item)
    torch.manual_seed(0)
    table = LlmEmbTable(same_width, WIDTH, LlmEmbConfig(temperature=2.0, weight=0.3))
    warm = ROWS[torch.from_numpy(given.counts)[ROWS] > 0]
    known, own = (F.normalize(side[warm], dim=-1) for side in (torch.from_numpy(collaborative), table()))
    expected = 0.3 * soft_target_contrast(known, own, 2.0, 0.5)
    torch.testing.assert_close(table.loss(ROWS, 0.0), expected)


# --- LLM-ESR ----------------------------------------------------------------------------------------------------------


def test_the_collaborative_view_starts_at_the_main_components() -> None:
    table, text = made("llm_esr"), inputs().text
    np.testing.assert_allclose(table.items.weight.detach(), component_rows(text, WIDTH // 2, 0.05), atol=1e-6)
    torch.testing.assert_close(table.from_text(torch.from_numpy(text)), table(), atol=1e-5, rtol=1e-4)
    torch.manual_seed(0)
    wide = make_table("llm_esr", inputs(), 32, LlmEsrConfig()).items.weight
    assert not wide[:, 12:].any(), "a text of 12 dimensions has no more components"


def test_each_view_attends_to_both() -> None:
    """One item at a time, one head at a time."""
    table = made("llm_esr")
    with torch.no_grad():  # biases that a wrong split would show
        for attention in (table.said_attention, table.done_attention):
            torch.nn.init.normal_(attention.in_proj_bias)
            torch.nn.init.normal_(attention.out_proj.bias)
        table.items.weight.normal_()
    standard, half, width = table.standard, WIDTH // 2, WIDTH // 4
    first, second = table.adapter
    said = (standard @ first.weight.T + first.bias) @ second.weight.T + second.bias
    said, done = F.layer_norm(said, (half,)), F.layer_norm(table.items.weight, (half,))
    for item in (3, 6, 39):
        views = []
        for own, attention in ((said[item], table.said_attention), (done[item], table.done_attention)):
            weights, biases = attention.in_proj_weight.split(half), attention.in_proj_bias.split(half)
            query = weights[0] @ own + biases[0]
            keys, values = ([weights[i] @ x + biases[i] for x in (said[item], done[item])] for i in (1, 2))
            heads = []
            for head in (slice(0, width), slice(width, half)):
                shares = torch.stack([query[head] @ key[head] / width**0.5 for key in keys]).softmax(dim=0)
                heads.append(shares[0] * values[0][head] + shares[1] * values[1][head])
            views.append(own + attention.out_proj.weight @ torch.cat(heads) + attention.out_proj.bias)
        expected = F.layer_norm(torch.cat(views), (WIDTH,)) * WIDTH**-0.5
        torch.testing.assert_close(table()[item], expected, atol=1e-5, rtol=1e-4)


def test_the_views_of_warm_items_can_be_contrasted() -> None:
    table = made("llm_esr", weight=0.3, temperature=0.5)
    warm = ROWS[torch.from_numpy(inputs().counts)[ROWS] > 0]
    said, done = (F.normalize(view[warm], dim=1) for view in table._views(table.standard, table.items.weight))
    torch.testing.assert_close(table.loss(ROWS, 2.0), 0.3 * soft_target_contrast(said, done, 0.5, 2.0))


def test_the_heads_divide_half_of_the_width() -> None:
    LlmEsrConfig(heads=4).check_width(16)
    for heads, width in ((3, 16), (2, 6), (1, 5)):
        with pytest.raises(InputError, match=f"heads {heads} does not divide half of the backbone's width {width}"):
            LlmEsrConfig(heads=heads).check_width(width)


# --- a world where words decide ---------------------------------------------------------------------------------------


def two_topics() -> AlignerInputs:
    """60 items of 4 topics; words tell the topic and noise, users keep to one, and 20 items were taken just once."""
    rng = np.random.default_rng(0)
    n, topics = 60, np.arange(60) % 4
    text = (4 * np.eye(4)[topics] @ rng.normal(size=(4, 16)) + rng.normal(size=(n, 16))).astype(np.float32)
    behaviour = (np.eye(4)[topics] @ rng.normal(size=(4, 8)) + 0.1 * rng.normal(size=(n, 8))).astype(np.float32)
    counts = np.where(np.arange(n) < 40, 50, 1)
    behaviour[counts == 1] = rng.normal(size=(20, 8))
    return AlignerInputs(text, behaviour, counts, csr_array((1, n)))


def trained(table: ItemTable, given: AlignerInputs) -> ItemTable:
    """The table after a bag-of-topic recommender: the mean of four items of a topic predicts a fifth.

    Each of the rare items is the fifth just once, after items of any topic: one event says nothing.
    """
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(table.parameters(), lr=0.01)
    for step in range(100):
        rows = rng.integers(0, 4, size=(20, 1)) + 4 * rng.integers(0, 10, size=(20, 5))
        if step == 50:
            rows[:, 4] = np.arange(40, 60)
        batch = torch.from_numpy(rows)
        hidden = table()[batch[:, :4]].mean(dim=1)
        loss = torch.nn.functional.cross_entropy(5 * hidden @ table().T, batch[:, 4])
        optimizer.zero_grad()
        (loss + table.loss(torch.unique(batch), step / 10)).backward()
        optimizer.step()
    return table.eval()


def tail_neighbours_of_own_topic(table: ItemTable) -> float:
    vectors = torch.nn.functional.normalize(table.scores().detach(), dim=1)
    alike = vectors[40:] @ vectors[:40].T
    nearest = alike.topk(3).indices
    return float((nearest % 4 == torch.arange(40, 60)[:, None] % 4).float().mean())


def test_aligned_rare_items_find_their_neighbours_where_plain_ones_cannot() -> None:
    given = two_topics()
    torch.manual_seed(0)
    plain = tail_neighbours_of_own_topic(trained(IdTable(60, 8), given))
    shares = {}
    for name in ("faerec", "llmemb"):
        torch.manual_seed(0)
        shares[name] = tail_neighbours_of_own_topic(trained(make_table(name, given, 8), given))
    assert plain < 0.4
    assert min(shares.values()) > 0.7, shares


def test_the_contrast_of_the_views_helps_rare_items() -> None:
    """Without it the collaborative half of an item that was taken once is noise."""
    given, shares = two_topics(), []
    for weight in (0.0, 1.0):
        torch.manual_seed(0)
        table = make_table("llm_esr", given, 8, LlmEsrConfig(weight=weight))
        shares.append(tail_neighbours_of_own_topic(trained(table, given)))
    assert shares[1] > shares[0] + 0.2


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (FaeRecConfig, {"weight": -1.0}, "weight -1"),
        (FaeRecConfig, {"mapper_dropout": 1.0}, "mapper_dropout 1"),
        (FaeRecConfig, {"minimum": 1.5}, "minimum 1.5"),
        (FaeRecConfig, {"period": 0.0}, "period 0"),
        (FaeRecConfig, {"temperature": math.nan}, "temperature nan"),
        (FaeRecConfig, {"weight": math.nan}, "weight nan"),
        (FaeRecConfig, {"drawn_items": math.inf}, "drawn_items inf"),
        (LlmEmbConfig, {"text_width": 0}, "text_width 0"),
        (LlmEmbConfig, {"hidden_width": 0}, "hidden_width 0"),
        (LlmEmbConfig, {"weight": -0.1}, "weight -0.1"),
        (LlmEmbConfig, {"temperature": 0.0}, "temperature 0"),
        (LlmEmbConfig, {"temperature": math.nan}, "temperature nan"),
        (LlmEmbConfig, {"weight": math.inf}, "weight inf"),
        (LlmEsrConfig, {"heads": 0}, "heads 0"),
        (LlmEsrConfig, {"dropout": 1.0}, "dropout 1"),
        (LlmEsrConfig, {"weight": -0.1}, "weight -0.1"),
        (LlmEsrConfig, {"temperature": 0.0}, "temperature 0"),
    ],
)
def test_a_bad_configuration_names_its_flag(config: type[Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}"):
        config(**options)
