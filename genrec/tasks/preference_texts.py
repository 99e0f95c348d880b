"""What a user likes, in words: a short text written from a history, to be encoded like the words of an item.

RecGOAT (Li et al. 2026, arXiv 2602.00682) lets a reasoning model write it from titles, categories and ratings. Here a
template does, which is free and the same on every machine:

    Likes Sponges & Scrubbers, Fasteners. Brands: Scotch-Brite, 3M. Prices: 6.49 to 19.99. Lately: Magic Eraser; …

`preference_texts` has the template's facts put into sentences by a causal language model where one is named
(`--aligner.recgoat.writer`), here or behind an OpenAI-compatible server.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from genrec.data.sequences import Sequences
from genrec.semtok import smollm2
from genrec.semtok.catalog import Catalog
from genrec.semtok.chat_template import chat_frame
from genrec.semtok.device import default_device
from genrec.semtok.errors import InputError
from genrec.semtok.pretrained import open_folder
from genrec.semtok.schema import parse_as
from genrec.tasks.chat_server import ChatServer, ServerError, is_address
from genrec.tasks.facets import names_in

TEMPLATE = "template"
_COMMON = 0.5  # a category that more than this share of all items has says nothing about a user
_LONGEST = 500  # characters of a text that a model wrote
_PATIENCE = 120.0  # seconds for an answer of a server, which may have a queue


def template_texts(
    catalog: Catalog, histories: Sequences, *, most: int = 4, titles: int = 5, max_characters: int = 500
) -> list[str]:
    """The template's text for each history of catalogue rows; columns that the item table lacks are passed over.

    Args:
        most: categories and brands that are named at most, each.
        titles: last titles that are named.
        max_characters: a text is cut to this length, at a space.
    """
    columns = _Columns.of(catalog)
    return [_cut(columns.describe(history.tolist(), most, titles), max_characters) for history in histories]


class LanguageModelWriter:
    """A causal language model that is told the template's facts and asked what the person likes; greedy, so that it
    writes the same every time.

    Args:
        model: smollm2, or a Hugging Face causal LM by folder or hub id; read on a GPU where one answers.
        max_new_tokens: an answer is cut to.
        batch: histories written about at once.

    Raises:
        InputError: the model cannot be loaded.
    """

    def __init__(self, model: str | Path, *, max_new_tokens: int = 64, batch: int = 16) -> None:
        name = f"preference writer {model}"
        folder = open_folder(smollm2.smollm2_folder(name) if model == smollm2.NAME else model, name)
        self._tokenizer = folder.tokenizer(padding_side="left")
        self._model = folder.model("causal", torch.float32).to(default_device())
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._frame = chat_frame(self._tokenizer, name)
        self.max_new_tokens, self.batch = max_new_tokens, batch

    @torch.inference_mode()
    def __call__(self, facts: Sequence[str]) -> list[str]:
        """One text for the template's facts about each history; where the model has nothing to say, these stand."""
        texts: list[str] = []
        for start in range(0, len(facts), self.batch):
            some = facts[start : start + self.batch]
            given = self._tokenizer([self._prompt(text) for text in some], return_tensors="pt", padding=True)
            options = {"do_sample": False, "num_beams": 1, "max_new_tokens": self.max_new_tokens}
            ids = self._tokenizer.pad_token_id
            tokens = self._model.generate(**given.to(self._model.device), **options, pad_token_id=ids)
            answers = self._tokenizer.batch_decode(tokens[:, given["input_ids"].shape[1] :], skip_special_tokens=True)
            texts += map(_one_line, answers, some)
        return texts

    def _prompt(self, facts: str) -> str:
        question = _question(facts)
        return question.join(self._frame or ("", "\nThis customer likes"))


class ServerWriter:
    """The same by the model of an OpenAI-compatible server, asked about several histories at once.

    Args:
        address: such as http://localhost:8000.
        batch: histories that are asked about at once.
    """

    def __init__(self, address: str, *, batch: int = 32) -> None:
        self._server, self.address, self.batch = ChatServer(address, timeout=_PATIENCE), address, batch

    def __call__(self, facts: Sequence[str]) -> list[str]:
        """One text for the template's facts about each history; where the model has nothing to say, these stand.

        Raises:
            InputError: the server does not answer; what it answered before is kept.
        """
        try:
            with ThreadPoolExecutor(self.batch) as pool:
                answers = list(pool.map(self._ask, facts))
        except ServerError as error:
            kept = "the answers so far are kept, and the same command goes on"
            raise InputError(f"--aligner.recgoat.writer {self.address}: the server {error}; {kept}") from None
        return list(map(_one_line, answers, facts))

    def _ask(self, facts: str) -> str:
        return self._server.answer([{"role": "user", "content": _question(facts)}])


def _one_line(answer: str, facts: str) -> str:
    return _cut(" ".join(answer.split()) or facts, _LONGEST)


def _question(facts: str) -> str:
    return f"A customer of a shop. {facts}\nIn two sentences, what does this customer like?"


def preference_texts(writer: str, catalog: Catalog, histories: Sequences, answers: Path) -> list[str]:
    """One text for every history of catalogue rows, oldest first; without history it is empty.

    Args:
        writer: `template`, a model of `LanguageModelWriter`, or the address of a server. It is asked once about
            histories of which the template says the same.
        answers: JSON lines that a model's answers are added to as they come; those that stand there are not asked for
            again, so that an interrupted job goes on.
    """
    facts = template_texts(catalog, histories)
    if writer == TEMPLATE:
        return facts
    written = _read_answers(answers)
    missing = sorted({fact for fact in facts if fact} - written.keys(), key=lambda fact: (len(fact), fact))
    if missing:
        model = ServerWriter(writer) if is_address(writer) else LanguageModelWriter(writer)
        with open(answers, "a", encoding="utf-8") as file, tqdm(total=len(missing), desc="preference texts") as bar:
            for start in range(0, len(missing), model.batch):
                some = missing[start : start + model.batch]
                for fact, text in zip(some, model(some), strict=True):
                    written[fact] = text
                    file.write(json.dumps({"facts": fact, "text": text}) + "\n")
                file.flush()
                bar.update(len(some))
    return [written.get(fact, fact) for fact in facts]


def _read_answers(path: Path) -> dict[str, str]:
    """Texts by the facts that they were written from, without a line that a kill cut; raises InputError."""
    if not path.is_file():
        return {}
    whole = path.read_bytes()
    whole = whole[: whole.rfind(b"\n") + 1]
    path.write_bytes(whole)
    rows = [parse_as(line.decode(errors="replace"), dict[str, str], str(path)) for line in whole.splitlines()]
    if any(row.keys() != {"facts", "text"} for row in rows):
        raise InputError(f"{path}: not the answers of a preference writer")
    return {row["facts"]: row["text"] for row in rows}


@dataclass(frozen=True)
class _Columns:
    """What the template names of each item."""

    titles: Sequence[str]
    categories: Sequence[tuple[str, ...]]  # without those that most items share
    brands: Sequence[tuple[str, ...]]
    prices: Sequence[tuple[float, ...]]

    @classmethod
    def of(cls, catalog: Catalog) -> _Columns:
        categories = _cells(catalog, "categories", names_in)
        shares = Counter(name for names in categories for name in set(names))
        told = [tuple(name for name in names if shares[name] <= _COMMON * len(catalog)) for names in categories]
        return cls(catalog.titles, told, _cells(catalog, "brand", names_in), _cells(catalog, "price", _number))

    def describe(self, history: Sequence[int], most: int, titles: int) -> str:
        parts = []
        if named := _most_frequent(self.categories, history, most):
            parts.append(f"Likes {', '.join(named)}.")
        if named := _most_frequent(self.brands, history, most):
            parts.append(f"Brands: {', '.join(named)}.")
        if prices := [price for row in history for price in self.prices[row]]:
            low, high = np.quantile(prices, (0.25, 0.75), method="nearest")
            parts.append(f"Prices: {low:g} to {high:g}.")
        newest = (self.titles[row].strip().rstrip(".") for row in reversed(history))
        if different := [title for title in dict.fromkeys(newest) if title]:
            parts.append(f"Lately: {'; '.join(different[:titles])}.")
        return " ".join(parts)


def _cells(catalog: Catalog, name: str, read: Callable[[Any], tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    if name not in catalog.attributes.columns:
        return [()] * len(catalog)
    return [read(value) for value in catalog.attributes[name].to_list()]


def _most_frequent(values: Sequence[Sequence[str]], history: Sequence[int], most: int) -> list[str]:
    """The values of most items of the history; ties go to the newest item's."""
    counts = Counter(value for row in reversed(history) for value in dict.fromkeys(values[row]))
    return [value for value, _ in counts.most_common(most)]


def _number(value: object) -> tuple[float, ...]:
    return (float(value),) if isinstance(value, (int, float)) and np.isfinite(value) else ()


def _cut(text: str, length: int) -> str:
    if len(text) <= length:
        return text
    return text[: length + 1].rsplit(" ", 1)[0][:length]
