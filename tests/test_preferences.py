"""Preference texts of histories small enough to write by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from worlds.chat_server import ChatHandler, answering
from worlds.small_shop import SMALL, write_shop

from genrec.cli.main import main
from genrec.data.sequences import Sequences
from genrec.run import Run
from genrec.semtok.catalog import Catalog
from genrec.semtok.errors import InputError
from genrec.tasks.preference_texts import LanguageModelWriter, preference_texts, template_texts


def catalog(**columns: Any) -> Catalog:
    titles = ("Red polish", "Blue polish.", "Hose", "Tap", "")
    attributes = pl.DataFrame(
        columns
        or {
            "categories": [["Shop", "Nails"], ["Shop", "Nails", "Blue"], ["Shop", "Garden"], ["Shop", None], None],
            "brand": ["Opi", "Opi", "Aqua", "Aqua", None],
            "price": [8.0, 9.5, 20.0, None, 3.0],
        }
    )
    return Catalog(tuple("abcde"), titles, attributes, np.zeros(5, dtype=bool))


def text(*history: int, items: Catalog | None = None, **config: int) -> str:
    histories = Sequences.from_lists([history])
    return template_texts(items or catalog(), histories, **config)[0]


def test_a_history_in_words() -> None:
    assert text(2, 0, 1) == (
        "Likes Nails, Blue, Garden. Brands: Opi, Aqua. Prices: 8 to 20. Lately: Blue polish; Red polish; Hose."
    )


def test_a_category_that_most_items_share_is_not_named() -> None:
    assert "Shop" not in text(0, 1, 2, 3)


def test_ties_go_to_the_newest() -> None:
    assert text(0, 2).startswith("Likes Garden, Nails. Brands: Aqua, Opi.")
    assert text(2, 0).startswith("Likes Nails, Garden. Brands: Opi, Aqua.")


def test_prices_are_a_band_without_the_extremes() -> None:
    items = catalog(price=[1.0, 10.0, 11.0, 12.0, 99.0])
    assert text(0, 1, 2, 3, 4, items=items).startswith("Prices: 10 to 12. Lately:")


def test_as_much_as_is_asked_for() -> None:
    assert text(0, 1, 2, most=1, titles=1) == "Likes Nails. Brands: Opi. Prices: 8 to 20. Lately: Hose."
    assert text(0, 0, 0, 1, titles=2).endswith("Lately: Blue polish; Red polish.")  # a title once
    whole = text(0, 1, 2)
    for length in (1, 10, 30, len(whole), 999):
        cut = text(0, 1, 2, max_characters=length)
        assert len(cut) <= length
        assert whole.startswith(cut)
        assert cut == whole or whole[len(cut)] == " " or " " not in whole[: length + 1]


def test_what_is_missing_is_passed_over() -> None:
    assert text() == ""
    assert text(4) == "Prices: 3 to 3."
    assert text(0, 3, items=catalog(colour=["red"] * 5)) == "Lately: Tap; Red polish."
    assert text(0, items=catalog(categories=["Nails", "Hair", "Feet", "Hands", "Hair"])).startswith("Likes Nails.")


def test_the_same_texts_every_time() -> None:
    histories = Sequences.from_lists([[0, 1], [], [2, 3, 4]])
    first, second = (template_texts(catalog(), histories) for _ in range(2))
    assert first == second
    assert len(first) == 3


def test_a_model_is_asked_once_about_the_same_and_goes_on_where_it_stopped(model: Path, tmp_path: Path) -> None:
    histories, answers = Sequences.from_lists([[2, 3], [0, 1], [], [2, 3], [4]]), tmp_path / "answers.jsonl"
    facts = template_texts(catalog(), histories)
    assert preference_texts("template", catalog(), histories, answers) == facts
    assert not answers.exists()
    whole = preference_texts(str(model), catalog(), histories, answers)
    assert whole == [LanguageModelWriter(model)([fact])[0] if fact else "" for fact in facts]
    kept = answers.read_bytes()
    assert len(kept.splitlines()) == 3
    answers.write_bytes(kept[: kept.index(b"\n") + 20])  # a kill in the second line
    assert preference_texts(str(model), catalog(), histories, answers) == whole
    assert answers.read_bytes() == kept
    answers.write_bytes(kept.replace(json.dumps(whole[4]).encode(), b'"Likes tests."'))
    assert preference_texts(str(model), catalog(), histories, answers)[4] == "Likes tests."


def test_a_server_is_asked_once_about_the_same_and_goes_on_where_it_was_down(tmp_path: Path) -> None:
    """Answers that came stay; a server that is down is named with the flag, in one line."""
    histories, answers = Sequences.from_lists([[2, 3], [0, 1], [], [2, 3], [4]]), tmp_path / "answers.jsonl"
    facts = template_texts(catalog(), histories)

    def answer(request: dict[str, Any]) -> str:
        told = request["messages"][0]["content"]
        assert "response_format" not in request
        return f"They like\n {next(fact for fact in facts if fact and fact in told)}" if "Hose" in told else " "

    with answering() as address:
        ChatHandler.answer = answer
        found = preference_texts(address, catalog(), histories, answers)
        assert found == [f"They like {fact}" if "Hose" in fact else fact for fact in facts]
        assert any("Hose" in fact for fact in facts)
        assert len(ChatHandler.asked) == 3
        ChatHandler.answer = "500"
        with pytest.raises(
            InputError, match=rf"--aligner.recgoat.writer {address}: the server does not answer"
        ) as refused:
            preference_texts(address, catalog(), Sequences.from_lists([[0, 1], [1]]), answers)
        assert "\n" not in str(refused.value)
        assert len(ChatHandler.asked) == 4
    assert preference_texts(address, catalog(), histories, answers) == found


def test_recgoat_reads_what_the_model_wrote(model: Path, tmp_path: Path) -> None:
    config, told = write_shop(tmp_path), ["--aligner.name=recgoat", "--before_lm", *SMALL]
    run = Run(tmp_path / "run")
    assert main(["fit", str(config), *told]) == 0
    by_template = Run(run.path).user_vectors().values
    assert main(["fit", str(config), *told, f"--aligner.recgoat.writer={model}"]) == 0
    assert not np.allclose(Run(run.path).user_vectors().values, by_template)
    answers = [json.loads(line) for line in (run.path / "vectors/users/answers.jsonl").read_text().splitlines()]
    template = template_texts(Run(run.path).catalog(), Run(run.path).split().train)
    assert {row["facts"] for row in answers} == set(template) - {""}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random causal LM, saved as a user has it."""
    folder = tmp_path_factory.mktemp("llama")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        catalog().titles, trainers.BpeTrainer(vocab_size=300, special_tokens=["<end>"], initial_alphabet=alphabet)
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained(folder)
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(vocab_size=300, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    ).save_pretrained(folder)
    return folder


def test_a_language_model_writes_by_greedy_search(model: Path) -> None:
    histories = Sequences.from_lists([[0, 1], [2, 3, 4], []])
    writer = LanguageModelWriter(model, max_new_tokens=6, batch=2)
    everything = template_texts(catalog(), histories)
    texts = writer(everything)
    assert len(texts) == 3
    assert LanguageModelWriter(model, max_new_tokens=6, batch=1)(everything) == texts  # alone or in a batch
    tokenizer, network = PreTrainedTokenizerFast.from_pretrained(model), LlamaForCausalLM.from_pretrained(model).eval()
    facts = everything[0]
    tokens = tokenizer.encode(
        f"A customer of a shop. {facts}\nIn two sentences, what does this customer like?\nThis customer likes"
    )
    start = len(tokens)
    with torch.inference_mode():
        while len(tokens) < start + 6 and tokens[-1] != tokenizer.eos_token_id:
            tokens.append(int(network(torch.tensor([tokens])).logits[0, -1].argmax()))
    expected = " ".join(tokenizer.decode(tokens[start:], skip_special_tokens=True).split())
    assert texts[0] == (expected or facts)


def test_a_chat_model_is_asked_in_its_own_form(model: Path, tmp_path: Path) -> None:
    LlamaForCausalLM.from_pretrained(model).save_pretrained(tmp_path)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model)
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %} [answer]"
    tokenizer.save_pretrained(tmp_path)
    prompt = LanguageModelWriter(tmp_path)._prompt("Likes soap.")
    assert prompt.startswith("[user] A customer of a shop. Likes soap.\n")
    assert prompt.endswith("like? [answer]")


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"preference writer {tmp_path}: the model cannot be loaded"):
        LanguageModelWriter(tmp_path)
