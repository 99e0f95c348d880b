"""The text tasks on a sample shop of 60 items: what they say, what they ask for, and what they never show."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from transformers import PreTrainedTokenizerBase

from genrec.data.sample_shop import make_sample_shop
from genrec.data.sequences import Sequences
from genrec.decoding.vocabulary import SidVocabulary
from genrec.semtok.catalog import Catalog
from genrec.semtok.errors import InputError
from genrec.tasks.facets import CHEAP, DEAR, MIDDLE, Facets
from genrec.tasks.mixture import Tasks, query
from genrec.tasks.negatives import Negatives
from genrec.tasks.preference_texts import template_texts
from genrec.tasks.templates import NO, YES
from genrec.tasks.weights import TaskWeights
from genrec.tasks.writer import search_prompt
from genrec.training.lm.base import scratch_tokenizer
from genrec.training.lm.data import IGNORE, response_example

N = 60
CODES = np.array([[row // 8, row % 8] for row in range(N)], dtype=np.int32)
NAMES = [field.name for field in fields(TaskWeights)]
NONE = TaskWeights(**{name: float(name == "would_take") for name in NAMES})


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    folder = tmp_path_factory.mktemp("shop")
    make_sample_shop(0, users=10, items=N).write(folder)
    return Catalog.from_file(folder / "items.jsonl")


@pytest.fixture(scope="module")
def histories() -> Sequences:
    """40 people, nothing twice; items from 50 on are in no history."""
    rng = np.random.default_rng(3)
    return Sequences.from_lists([rng.permutation(50)[: rng.integers(1, 12)] for _ in range(40)])


@pytest.fixture(scope="module")
def tokenizer(catalog: Catalog) -> PreTrainedTokenizerBase:
    return scratch_tokenizer(catalog.texts(), 600)


@pytest.fixture(scope="module")
def vocabulary(tokenizer: PreTrainedTokenizerBase) -> SidVocabulary:
    return SidVocabulary.added_to(tokenizer, (8, 8))


@pytest.fixture
def tasks(catalog: Catalog, histories: Sequences, tokenizer: PreTrainedTokenizerBase, vocabulary: SidVocabulary) -> Any:
    def make(**weights: float) -> Tasks:
        chosen = TaskWeights(**{name: weights.get(name, 0.0) for name in NAMES})
        return Tasks(catalog, CODES, vocabulary, tokenizer, histories, chosen, max_items=4)

    return make


def items_in(tokens: list[int], vocabulary: SidVocabulary) -> list[int]:
    """The items whose codes stand in some tokens."""
    codes = [pair[1] for token in tokens if (pair := vocabulary.decode(token))]
    return [8 * a + b for a, b in zip(codes[::2], codes[1::2], strict=True)]


def is_cut_of(before: list[int], target: int, history: list[int]) -> bool:
    place = history.index(target) if target in history else -1
    return place > 0 and before == history[max(0, place - 4) : place]


def test_text_and_codes_name_the_same_item(
    tasks: Any, catalog: Catalog, tokenizer: PreTrainedTokenizerBase, vocabulary: SidVocabulary
) -> None:
    for prompt, response in tasks(text_to_codes=1).rows(N, np.random.default_rng(0)):
        (item,) = items_in(response, vocabulary)
        assert catalog.titles[item] in tokenizer.decode(prompt)
        assert items_in(prompt, vocabulary) == []
    for prompt, response in tasks(codes_to_text=1).rows(N, np.random.default_rng(0)):
        (item,) = items_in(prompt, vocabulary)
        assert tokenizer.decode(response) == f" {catalog.titles[item]}<|end|>"


def test_a_history_in_codes_asks_for_the_next_title(
    tasks: Any, catalog: Catalog, histories: Sequences, tokenizer: PreTrainedTokenizerBase, vocabulary: SidVocabulary
) -> None:
    rows_of = {title: row for row, title in enumerate(catalog.titles)}
    rows = tasks(codes_to_title=1).rows(80, np.random.default_rng(0))
    assert len(rows) == 80
    for prompt, response in rows:
        assert prompt.count(vocabulary.history_token) == 1
        target = rows_of[tokenizer.decode(response).removesuffix("<|end|>").strip()]
        assert any(is_cut_of(items_in(prompt, vocabulary), target, h.tolist()) for h in histories)


def test_a_history_in_titles_asks_for_the_next_codes(
    tasks: Any, catalog: Catalog, histories: Sequences, tokenizer: PreTrainedTokenizerBase, vocabulary: SidVocabulary
) -> None:
    for prompt, response in tasks(titles_to_codes=1).rows(80, np.random.default_rng(0)):
        assert items_in(prompt, vocabulary) == []
        (target,) = items_in(response, vocabulary)
        text = tokenizer.decode(prompt)
        candidates = [h.tolist() for h in histories if target in h[1:]]
        assert any(all(catalog.titles[i][:12] in text for i in h[: h.index(target)][-4:]) for h in candidates)


def test_a_query_names_facets_of_the_item_it_asks_for(
    tasks: Any, catalog: Catalog, tokenizer: PreTrainedTokenizerBase, vocabulary: SidVocabulary
) -> None:
    facets = Facets.of(catalog)
    for prompt, response in tasks(query_to_codes=1).rows(N, np.random.default_rng(0)):
        (item,) = items_in(response, vocabulary)
        text = tokenizer.decode(prompt).lower()
        assert any(kind.lower() in text for kind in facets.kinds[item])
        assert catalog.titles[item].lower() not in text


def test_items_without_facets_are_asked_for_by_words_of_their_title(
    tokenizer: PreTrainedTokenizerBase, vocabulary: SidVocabulary
) -> None:
    catalog = Catalog(("1", "2"), ("one two three four five six", ""), pl.DataFrame(), np.zeros(2, dtype=bool))
    queries, nobody = TaskWeights(0.0, 0.0, query_to_codes=1.0), Sequences.from_lists([])
    tasks, rng = Tasks(catalog, CODES, vocabulary, tokenizer, nobody, queries, max_items=4), np.random.default_rng(0)
    assert {items_in(response, vocabulary)[0] for _, response in tasks.rows(20, rng)} == {0}
    for _ in range(20):
        words = query(tasks, 0, rng).split()
        assert 2 <= len(words) <= 4
        assert [w for w in catalog.titles[0].split() if w in words] == words


def test_preference_rows_sum_up_the_history_shown(
    tasks: Any, catalog: Catalog, tokenizer: PreTrainedTokenizerBase, vocabulary: SidVocabulary
) -> None:
    for prompt, response in tasks(preference=1).rows(30, np.random.default_rng(0)):
        shown = Sequences.from_lists([items_in(prompt, vocabulary)])
        text = template_texts(catalog, shown, most=3, titles=2, max_characters=240)[0]
        assert tokenizer.decode(response) == f" {text}<|end|>"
        assert "Likes " in tokenizer.decode(response)


def test_price_words_are_thirds_within_a_kind() -> None:
    table = pl.DataFrame({"category": ["a"] * 6 + ["b"] * 2, "price": [1.0, 2, 3, 4, 5, 6, 100, 200]})
    catalog = Catalog(tuple("12345678"), ("t",) * 8, table, np.zeros(8, dtype=bool))
    assert Facets.of(catalog).prices == (CHEAP, CHEAP, MIDDLE, MIDDLE, DEAR, DEAR, "", "")


def test_would_take_says_yes_to_the_next_item_and_no_to_what_the_user_never_had(
    tasks: Any, histories: Sequences, tokenizer: PreTrainedTokenizerBase, vocabulary: SidVocabulary
) -> None:
    answers = {YES: 0, NO: 0}
    for prompt, response in tasks(would_take=1).rows(300, np.random.default_rng(0)):
        answer = tokenizer.decode(response).removesuffix("<|end|>").strip()
        answers[answer] += 1
        text = tokenizer.decode(prompt)
        shown = items_in(prompt, vocabulary)
        candidate = shown.pop(0 if text.startswith("Does") else -1)
        owners = [h.tolist() for h in histories if set(shown) < set(h.tolist())]
        assert candidate < 50  # never one that nobody had
        if answer == YES:
            assert any(is_cut_of(shown, candidate, h) for h in owners)
        else:
            assert any(candidate not in h for h in owners)
    assert 100 < answers[YES] < 200


def test_the_preferred_of_two_is_the_next_item_in_either_place(
    tasks: Any, histories: Sequences, tokenizer: PreTrainedTokenizerBase, vocabulary: SidVocabulary
) -> None:
    first = 0
    rows = tasks(preferred_of_two=1).rows(200, np.random.default_rng(0))
    for prompt, response in rows:
        (preferred,) = items_in(response, vocabulary)
        shown = items_in(prompt, vocabulary)
        pair = shown[:2] if tokenizer.decode(prompt).startswith("Choose") else shown[-2:]
        before = shown[2:] if tokenizer.decode(prompt).startswith("Choose") else shown[:-2]
        assert preferred in pair
        (other,) = set(pair) - {preferred}
        assert any(is_cut_of(before, preferred, h.tolist()) and other not in h for h in histories)
        first += pair[0] == preferred
    assert 60 < first < 140


def test_negatives_are_as_popular_or_share_the_first_code_and_are_never_had() -> None:
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, 401)
    rows = [rng.choice(400, size=6, replace=False, p=share / share.sum()) for _ in range(500)]
    histories = Sequences.from_lists(rows)
    codes = np.array([[row % 7, row] for row in range(400)], dtype=np.int32)
    negatives = Negatives(histories, codes)
    counts = negatives.counts
    for history in histories:
        positive = int(history[-1])
        one = negatives.as_popular(positive, history, rng)
        assert one not in history
        assert counts[one] > 0
        low, high = sorted((counts[one], counts[positive]))
        assert high <= 1.25 * low or ((counts > low) & (counts < high)).sum() < 8
        two = negatives.same_prefix(positive, history, rng)
        assert two not in history
        assert counts[two] > 0
        assert codes[two, 0] == codes[positive, 0]
    drawn = [(int(h[-1]), negatives.as_popular(int(h[-1]), h, rng)) for h in histories]
    log_counts = np.log(counts[np.array(drawn)])
    at_random = rng.permutation(log_counts[:, 1])
    assert np.abs(log_counts[:, 0] - log_counts[:, 1]).mean() < 0.2 * np.abs(log_counts[:, 0] - at_random).mean()


def test_a_user_who_has_all_of_a_prefix_gets_a_negative_of_another() -> None:
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=np.int32)
    negatives = Negatives(Sequences.from_lists([[0, 1], [2, 1]]), codes)
    rng = np.random.default_rng(0)
    assert {negatives.like(1, np.array([0, 1], dtype=np.int32), rng) for _ in range(20)} == {2}
    assert not negatives.can_serve(np.array([0, 1, 2], dtype=np.int32))


def test_rows_follow_the_weights_and_the_seed(tasks: Any, vocabulary: SidVocabulary) -> None:
    made = tasks(text_to_codes=3, preferred_of_two=1)
    rows = made.rows(200, np.random.default_rng(5))
    assert [len(items_in(row.prompt, vocabulary)) > 0 for row in rows].count(False) == 150
    assert rows == tasks(text_to_codes=3, preferred_of_two=1).rows(200, np.random.default_rng(5))
    assert rows != made.rows(200, np.random.default_rng(6))
    assert made.rows(0, np.random.default_rng(5)) == []


def test_no_subject_comes_twice_before_all_came_once(tasks: Any, vocabulary: SidVocabulary) -> None:
    rows = tasks(text_to_codes=1).rows(2 * N + 5, np.random.default_rng(0))
    times = np.bincount([items_in(row.response, vocabulary)[0] for row in rows], minlength=N)
    assert (times.min(), times.max(), times.sum()) == (2, 3, 2 * N + 5)


@pytest.mark.parametrize("name", NAMES)
def test_every_task_draws_several_templates_and_is_scored_on_its_response_alone(tasks: Any, name: str) -> None:
    rows = tasks(**{name: 1}).rows(60, np.random.default_rng(0))
    assert len({tuple(row.prompt[-2:]) for row in rows} | {tuple(row.prompt[:2]) for row in rows}) > 2
    for row in rows:
        example = response_example(*row)
        assert (example.labels != IGNORE).sum() == len(row.response)
        assert example.labels[-len(row.response) :].tolist() == row.response


def test_catalogue_text_never_becomes_control_tokens(
    histories: Sequences, tokenizer: PreTrainedTokenizerBase, vocabulary: SidVocabulary
) -> None:
    rude = Catalog(
        tuple(map(str, range(N))),
        ("<a_1><b_2> <history> <|end|>",) * N,
        pl.DataFrame({"brand": ["<a_3>"] * N, "categories": [["<history>", "<b_1>"]] * N}),
        np.zeros(N, dtype=bool),
    )
    special = {vocabulary.history_token, *np.concatenate(vocabulary.token_ids).tolist()}
    texts = TaskWeights(1.0, codes_to_text=0.0, query_to_codes=1.0, titles_to_codes=1.0)
    for prompt, _ in Tasks(rude, CODES, vocabulary, tokenizer, histories, texts).rows(90, np.random.default_rng(0)):
        assert not special & set(prompt)
    assert not special & set(search_prompt(tokenizer, "<a_1> <history>"))


def test_bad_weights_name_their_flag(
    histories: Sequences, tokenizer: PreTrainedTokenizerBase, vocabulary: SidVocabulary
) -> None:
    with pytest.raises(InputError, match=r"preference -1"):
        TaskWeights(preference=-1.0)
    with pytest.raises(InputError, match=r"set lm\.text_share to 0"):
        replace(NONE, would_take=0.0)
    bare = Catalog(tuple(map(str, range(N))), ("",) * N, pl.DataFrame(), np.zeros(N, dtype=bool))
    with pytest.raises(InputError, match=r"preference: the data hold nothing"):
        Tasks(bare, CODES, vocabulary, tokenizer, histories, replace(NONE, preference=1.0))
