"""Sequential models: each backbone learns a world with a known answer, looks into no future, and survives its files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from worlds.ring import N_ITEMS, ring_split

from genrec.data.sequences import Sequences
from genrec.semtok.aligners.base import IdTable, ItemTable
from genrec.semtok.errors import InputError
from genrec.sequential import BACKBONES
from genrec.sequential.base import MASK, PADDING, ColdItems, SequentialModel, padded_rows
from genrec.sequential.bert4rec import Bert4RecBackbone
from genrec.sequential.config import Bert4RecConfig, FmlpRecConfig, Gru4RecConfig, LruRecConfig, SasRecConfig
from genrec.sequential.fmlprec import FilterLayer, FmlpRecBackbone
from genrec.sequential.gru4rec import Gru4RecBackbone
from genrec.sequential.lrurec import LinearRecurrence, scan
from genrec.sequential.sasrec import SasRec
from genrec.training.loop.epochs import FitContext
from genrec.training.sequential.config import SequentialTrainingConfig
from genrec.training.sequential.fit import fit_sequential, validation_recall

CONFIGS: Mapping[str, Any] = {
    "sasrec": SasRecConfig,
    "gru4rec": Gru4RecConfig,
    "bert4rec": Bert4RecConfig,
    "lrurec": LruRecConfig,
    "fmlprec": FmlpRecConfig,
}
CAUSAL = ["sasrec", "gru4rec", "lrurec"]


def small(name: str, n_items: int = N_ITEMS, **settings: Any) -> SequentialModel:
    torch.manual_seed(0)
    config = CONFIGS[name](**{"width": 16, "max_items": 10, "dropout": 0.0} | settings)
    model = SequentialModel(IdTable(n_items, 16), BACKBONES[name].build(config))
    with torch.no_grad():  # vectors of a size at which a wrong one would be seen
        model.items.items.weight.normal_()
    return model.eval()


class WordTable(ItemTable):
    """Vectors that are words times a matrix."""

    def __init__(self, text: Tensor, width: int) -> None:
        super().__init__()
        self.text, self.n_items, self.width = text, len(text), width
        self.map = nn.Linear(text.shape[1], width, bias=False)

    def forward(self) -> Tensor:
        vectors: Tensor = self.map(self.text)
        return vectors

    def from_text(self, text: Tensor) -> Tensor:
        vectors: Tensor = self.map(text)
        return vectors


def test_the_registry_has_what_is_configured() -> None:
    assert BACKBONES.keys() == CONFIGS.keys()
    assert all(BACKBONES[name].build(CONFIGS[name]()).name == name for name in BACKBONES)


@pytest.mark.parametrize(
    ("name", "directions", "settings"),
    [
        ("sasrec", (-1, 1), {"layers": 2}),
        ("gru4rec", (-1, 1), {}),
        ("lrurec", (-1, 1), {}),
        ("fmlprec", (-1, 1), {}),
        ("bert4rec", (1,), {"mask_share": 0.3, "last_share": 0.8}),  # gaps are slow teachers: the easier ring
    ],
)
def test_a_ring_is_learned(
    name: str, directions: tuple[int, ...], settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Ten of twelve items would hold every answer: choose the epoch by the first one.
    monkeypatch.setattr("genrec.training.sequential.fit.validation_recall", partial(validation_recall, k=1))
    split, shape = ring_split(directions), {"width": 16, "layers": 1, "max_items": 10, "dropout": 0.0, **settings}
    config = SequentialTrainingConfig(epochs=12, patience=2, batch_positions=96, learning_rate=2e-2)
    model = fit_sequential(
        lambda: SequentialModel(IdTable(N_ITEMS, 16), BACKBONES[name].build(CONFIGS[name](**shape))),
        split,
        config,
        FitContext(tmp_path),
        exclude_seen=False,
    )
    scores = model.score(split.test.histories)
    assert (scores.argmax(axis=1) == split.test.targets).mean() > 0.9


@pytest.mark.parametrize("name", CAUSAL)
def test_a_later_item_changes_no_earlier_state(name: str) -> None:
    model = small(name)
    rows = torch.tensor([[1, 2, 3, 4, 5, 6, 7]])
    for place in range(1, 7):
        changed = rows.clone()
        changed[0, place] = 11
        before, after = model(rows)[0], model(changed)[0]
        torch.testing.assert_close(before[:place], after[:place])
        assert not torch.allclose(before[place:], after[place:])


def test_bert4rec_reads_both_sides() -> None:
    model = small("bert4rec")
    rows = torch.tensor([[1, 2, MASK, 4, 5]])
    for place in (0, 1, 3, 4):
        changed = rows.clone()
        changed[0, place] = 11
        assert not torch.allclose(model(rows)[0, 2], model(changed)[0, 2])


@pytest.mark.parametrize("name", BACKBONES)
def test_padding_changes_nothing(name: str) -> None:
    model = small(name)
    histories = Sequences.from_lists([[3, 4, 5], [1, 2, 3, 4, 5, 6, 7], [8], []])
    together = model.score(histories)
    for row, history in enumerate(histories):
        np.testing.assert_allclose(model.score(Sequences.from_lists([history]))[0], together[row], atol=1e-5)
    assert (together[3] == 0).all()


@pytest.mark.parametrize("name", BACKBONES)
def test_only_the_last_items_of_a_long_history_are_read(name: str) -> None:
    model = small(name)
    long = np.arange(25) % N_ITEMS
    np.testing.assert_array_equal(
        model.score(Sequences.from_lists([long])), model.score(Sequences.from_lists([long[-10:]]))
    )


@pytest.mark.parametrize("name", BACKBONES)
def test_files_bring_the_same_scores_back(name: str, tmp_path: Path) -> None:
    model, other = small(name), small(name)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    model.save(tmp_path)
    other.load_weights(tmp_path)
    histories = Sequences.from_lists([[1, 2], [5]])
    np.testing.assert_array_equal(model.score(histories), other.score(histories))
    with pytest.raises(InputError, match="not weights of this"):
        small(name, n_items=5).load_weights(tmp_path)
    with pytest.raises(InputError, match=r"no such file"):
        other.load_weights(tmp_path / "nowhere")
    (tmp_path / f"{name}.safetensors").write_bytes(b"broken")
    with pytest.raises(InputError, match="not a safetensors file"):
        other.load_weights(tmp_path)


def test_sasrec_with_id_vectors_loads_itself(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = SasRec(N_ITEMS, SasRecConfig(width=16))
    model.save(tmp_path)
    histories = Sequences.from_lists([[1, 2], [5]])
    np.testing.assert_array_equal(SasRec.load(tmp_path).score(histories), model.score(histories))


@pytest.mark.parametrize(
    "facts", [{"n_items": 10**12}, {"n_items": -1}, {"n_items": "x"}, {"layers": 10**9}, {"width": 10**9}]
)
def test_a_shape_that_its_weights_cannot_have_is_refused_before_it_is_built(
    facts: dict[str, object], tmp_path: Path
) -> None:
    SasRec(N_ITEMS, SasRecConfig(width=16)).save(tmp_path)
    path = tmp_path / "sasrec.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))
    with pytest.raises(InputError, match=r"sasrec\.json: not the shape of"):
        SasRec.load(tmp_path)


@pytest.mark.parametrize("name", BACKBONES)
def test_scores_are_the_hidden_state_against_the_table(name: str) -> None:
    model = small(name)
    history = [4, 5, 6]
    rows = torch.tensor([[*history, MASK]] if name == "bert4rec" else [history])
    hidden = model(rows)[0, -1]
    np.testing.assert_allclose(
        model.score(Sequences.from_lists([history]))[0], (model.item_vectors @ hidden).detach().numpy(), atol=1e-5
    )


def test_scan_is_the_recurrence() -> None:
    generator = torch.Generator().manual_seed(0)
    decay = torch.polar(torch.rand(5, generator=generator, dtype=torch.float64), torch.rand(5, dtype=torch.float64) * 6)
    for length in (1, 2, 3, 7, 8, 9):
        inputs = torch.randn(2, length, 5, dtype=torch.complex128, generator=generator)
        state, states = torch.zeros(2, 5, dtype=torch.complex128), []
        for t in range(length):
            state = decay * state + inputs[:, t]
            states.append(state)
        torch.testing.assert_close(scan(inputs, decay), torch.stack(states, dim=1))


def test_the_recurrent_layer_is_its_equation() -> None:
    torch.manual_seed(0)
    layer = LinearRecurrence(3).double()
    x = torch.randn(1, 4, 3, dtype=torch.float64)
    h = 6
    into = torch.complex(layer.into.weight[:h], layer.into.weight[h:])
    bias = torch.complex(layer.into.bias[:h], layer.into.bias[h:])
    out = torch.complex(layer.out.weight[:, :h], layer.out.weight[:, h:])
    decay = torch.exp(torch.complex(-torch.exp(layer.nu), torch.exp(layer.theta)))
    assert ((decay.abs() >= 0.8) & (decay.abs() <= 0.99)).all()
    torch.testing.assert_close(torch.exp(layer.gamma), torch.sqrt(1 - decay.abs() ** 2), atol=1e-6, rtol=1e-6)
    state, expected = torch.zeros(h, dtype=torch.complex128), []
    for t in range(4):
        state = decay * state + torch.exp(layer.gamma) * (into @ x[0, t].to(torch.complex128) + bias)
        expected.append((out @ state).real + layer.out.bias)
    torch.testing.assert_close(layer(x)[0], torch.stack(expected))
    assert torch.autograd.gradcheck(layer, x.requires_grad_())


def test_gru4rec_is_the_gru_of_cho_et_al() -> None:
    torch.manual_seed(0)
    backbone = Gru4RecBackbone(Gru4RecConfig(width=3, hidden=4)).double().eval()
    x, gru = torch.randn(1, 5, 3, dtype=torch.float64), backbone.gru
    state, expected = torch.zeros(4, dtype=torch.float64), []
    for t in range(5):
        read = gru.weight_ih_l0 @ x[0, t] + gru.bias_ih_l0
        kept = gru.weight_hh_l0 @ state + gru.bias_hh_l0
        reset, update = torch.sigmoid(read[:4] + kept[:4]), torch.sigmoid(read[4:8] + kept[4:8])
        state = (1 - update) * torch.tanh(read[8:] + reset * kept[8:]) + update * state
        expected.append(backbone.out(state))
    torch.testing.assert_close(backbone(x, torch.arange(5)[None])[0], torch.stack(expected))


def test_bert4rec_hides_what_it_asks_for_and_asks_for_something() -> None:
    backbone = Bert4RecBackbone(Bert4RecConfig(width=4, heads=2, mask_share=0.3, last_share=0.5))
    rows = torch.tensor([[1, 2, 3, 4], [5, 6, PADDING, PADDING], [7, 8, 9, 10]])
    wanted = torch.tensor([[False, True, True, True], [False, True, False, False], [False, False, False, True]])
    torch.manual_seed(0)
    seen_first = 0
    for _ in range(200):
        inputs, targets = backbone.training_pairs(rows, wanted)
        asked = targets >= 0
        assert asked.any(dim=1).all()
        assert (inputs[asked] == MASK).all()
        assert (targets[asked] == rows[asked]).all()
        assert ((inputs == rows) | (inputs == MASK)).all()
        assert (inputs[rows == PADDING] == PADDING).all()
        assert (targets[2, :3] == PADDING).all()  # an earlier window asked for these
        seen_first += int(asked[0, 0])
    assert 0 < seen_first < 120


@pytest.mark.parametrize("places", [1, 2, 7, 10])
def test_a_filter_is_the_product_of_spectra_and_a_circular_convolution(places: int) -> None:
    torch.manual_seed(0)
    layer, x = FilterLayer(places, 3).double(), torch.randn(2, places, 3, dtype=torch.float64)
    weight = torch.view_as_complex(layer.spectrum)
    for length in range(1, places + 1):  # shorter ones stand on a circle of zeros
        padded = F.pad(x[:, :length], (0, 0, 0, places - length))
        expected = torch.fft.irfft(torch.fft.rfft(padded, dim=1) * weight, n=places, dim=1)[:, :length]
        torch.testing.assert_close(layer(x[:, :length]), expected)
    taps, found = torch.fft.irfft(weight, n=places, dim=0), layer(x)
    for t in range(places):
        by_hand = sum(taps[(t - s) % places] * x[:, s] for s in range(places))
        torch.testing.assert_close(found[:, t], by_hand)
    assert torch.autograd.gradcheck(layer, x.requires_grad_())


def test_fmlprec_reads_the_whole_history_in_every_state_and_its_order() -> None:
    model = small("fmlprec")
    rows = torch.tensor([[1, 2, 3, 4, 5]])
    for place in range(5):
        changed = rows.clone()
        changed[0, place] = 11
        assert not any(torch.allclose(model(rows)[0, t], model(changed)[0, t]) for t in range(5))
    assert not torch.allclose(model(rows)[0, 4], model(torch.tensor([[2, 1, 3, 4, 5]]))[0, 4])


def test_fmlprec_has_a_sequence_for_each_target_and_none_that_has_seen_it() -> None:
    backbone = FmlpRecBackbone(FmlpRecConfig(width=4))
    rows = torch.tensor([[1, 2, 3, 4], [5, 6, PADDING, PADDING], [7, 8, 9, 10]])
    wanted = torch.tensor([[False, True, True, True], [False, True, False, False], [False, False, True, True]])
    inputs, targets = backbone.training_pairs(rows, wanted)
    pairs = [
        ([row for row in read if row != PADDING], [(at, row) for at, row in enumerate(asked) if row != PADDING])
        for read, asked in zip(inputs.tolist(), targets.tolist(), strict=True)
    ]
    ended = [([1, 2, 3], [(2, 4)]), ([5], [(0, 6)]), ([7, 8, 9], [(2, 10)])]  # the histories' own, in their order
    assert pairs == [*ended, ([1], [(0, 2)]), ([1, 2], [(1, 3)]), ([7, 8], [(1, 9)])]
    wanted[1] = False  # a history that is asked for nothing keeps its place
    inputs, targets = backbone.training_pairs(rows, wanted)
    assert (targets[1] == PADDING).all()
    assert len(inputs) == 6


def test_what_fmlprec_learns_of_an_item_has_not_read_those_after_it() -> None:
    model, rows = small("fmlprec"), torch.tensor([[1, 2, 3, 4, 5, 6, 7]])

    def learned(rows: Tensor) -> dict[int, Tensor]:
        """The states that training compares with items, by how many items stand before the target."""
        inputs, targets = model.backbone.training_pairs(rows, torch.arange(rows.shape[1])[None] > 0)
        places = (targets >= 0).nonzero()
        return {int(place) + 1: state for (_, place), state in zip(places, model(inputs)[targets >= 0], strict=True)}

    before = learned(rows)
    assert sorted(before) == [1, 2, 3, 4, 5, 6]
    for changed in range(1, 7):
        other = rows.clone()
        other[0, changed] = 11
        after = learned(other)
        for read in before:
            assert torch.allclose(before[read], after[read]) == (read <= changed)


def test_a_batch_of_fmlprec_in_parts_has_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small("fmlprec").train()
    rows, _ = model.backbone.training_pairs(torch.randint(0, N_ITEMS, (3, 8)), torch.ones(3, 8, dtype=torch.bool))
    direction = torch.randn(*rows.shape, 16)
    gradients = []
    for positions in (1 << 15, 20, 1):
        monkeypatch.setattr("genrec.sequential.fmlprec._POSITIONS", positions)
        model.zero_grad()
        (model(rows) * direction).sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for other in gradients[1:]:
        torch.testing.assert_close(gradients[0], other)


@pytest.mark.parametrize("name", BACKBONES)
def test_answers_within_a_history_are_those_after_what_was_read(name: str) -> None:
    model = small(name)
    histories = [[3, 4, 5, 6], [1, 2, 3, 4, 5, 6, 7], [8]]
    sequences, lengths = torch.tensor([1, 0, 1, 2, 1]), torch.tensor([2, 4, 7, 1, 1])
    states = model.answers_within(padded_rows(Sequences.from_lists(histories)), sequences, lengths)
    begun = [histories[i][:n] for i, n in zip(sequences.tolist(), lengths.tolist(), strict=True)]
    torch.testing.assert_close(states, model.hidden(Sequences.from_lists(begun)), atol=1e-5, rtol=1e-5)


def test_cold_items_are_read_and_ranked_by_their_words() -> None:
    torch.manual_seed(0)
    text = torch.randn(6, 5)
    text[2] = 0.0  # what the table knows of item 2 is wrong; its words come later
    words = np.array([[1, -1, 2, 0, 1]], dtype=np.float32)
    cold = ColdItems(np.array([2]), words)
    model = SequentialModel(WordTable(text, 16), BACKBONES["sasrec"].build(SasRecConfig(width=16)))
    right = text.clone()
    right[2] = torch.from_numpy(words[0])
    reference = SequentialModel(WordTable(right, 16), model.backbone)
    reference.items.load_state_dict(model.items.state_dict())
    histories = Sequences.from_lists([[0, 2, 1], [3, 4]])
    np.testing.assert_allclose(model.scorer(cold)(histories), reference.score(histories), atol=1e-5)
    plain = small("sasrec", n_items=6)
    scores = plain.scorer(cold)(histories)
    assert np.isneginf(scores[:, 2]).all()
    assert np.isfinite(np.delete(scores, 2, axis=1)).all()


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("sasrec", {"heads": 3}, "heads 3 does not divide"),
        ("sasrec", {"layers": 0}, "layers 0"),
        ("gru4rec", {"dropout": 1.0}, r"dropout 1.0"),
        ("gru4rec", {"hidden": 0}, "hidden 0"),
        ("bert4rec", {"mask_share": 0.0}, r"mask_share 0.0"),
        ("bert4rec", {"last_share": 1.5}, r"last_share 1.5"),
        ("bert4rec", {"heads": 3}, "heads 3"),
        ("lrurec", {"width": 0}, "width 0"),
        ("lrurec", {"max_items": -1}, "max_items -1"),
        ("fmlprec", {"layers": 0}, "layers 0"),
    ],
)
def test_bad_shapes_name_the_flag(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        CONFIGS[name](**settings)


def test_a_table_of_another_width_is_refused() -> None:
    with pytest.raises(InputError, match=r"width 16: the item table has 8"):
        SequentialModel(IdTable(5, 8), BACKBONES["sasrec"].build(SasRecConfig(width=16)))
