"""Language models that write the sentences beside the cards: the run's own, or a vLLM server with it.

    prose = prose_for(Path("runs/qwen"), recommender, server="http://localhost:8001")
    Conversation(recommender, prose=prose)

The server is vLLM's OpenAI one on RUN/lm: `python -m vllm.entrypoints.openai.api_server --model RUN/lm`. It gets its
prompt as token ids, made here, in which nothing that a person typed can be a control token; tokens of semantic IDs and
control tokens are forbidden in what is written. What a model says is shown only if `prose.checked` lets it.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from genrec.decoding.cache_argument import cache_argument
from genrec.decoding.torch_scorer import TorchScorer
from genrec.decoding.vocabulary import SidVocabulary, encode_text
from genrec.inference.chat.prose import Facts, Prose, ProseError, TemplateProse
from genrec.inference.chat.state import Speaker
from genrec.inference.recommender import Recommender
from genrec.run import Run
from genrec.semtok.chat_template import chat_frame
from genrec.semtok.pretrained import open_folder
from genrec.tasks.chat_server import connect, respond

MAX_TOKENS = 64
TIMEOUT = 20.0  # seconds for connecting, for each piece, and for the whole
LONGEST_TITLE = 120  # characters
_TASK = (
    "You help a customer of a shop. In one or two short plain sentences, introduce the items below. "
    "Say nothing that is not written here.\n"
)


def prose_for(run: Path, recommender: Recommender, *, server: str | None = None, verify: bool = True) -> Prose:
    """Who writes for a run: the server where one is given, the run's LM where its base was a pretrained model, else
    templates."""
    tokenizer = open_folder(run / "lm", str(run / "lm")).tokenizer()
    vocabulary = SidVocabulary.load(run / "lm")
    if server is not None:
        return ServerProse(server, tokenizer, vocabulary)
    scorer = recommender.engine
    if base_of(run, verify=verify) != "scratch" and isinstance(scorer, TorchScorer):
        return ModelProse(scorer.model, tokenizer, vocabulary)
    return TemplateProse()


def base_of(run: Path, *, verify: bool = True) -> str:
    """What a run's LM was fine-tuned from, by its own manifest: `scratch`, or a model's folder or id."""
    config = Run(run, hashes=verify).made_from("lm").get("config", {})
    return str(config.get("lm", {}).get("base", "scratch"))


def prose_prompt(tokenizer: PreTrainedTokenizerBase, facts: Facts) -> list[int]:
    """Token ids that ask for a lead. Control tokens come from the model's chat template alone, never from a text."""
    lines = [_TASK]
    if facts.state.wish:
        lines.append(f"The customer looks for: {facts.state.wish}\n")
    if facts.history_titles:
        lines.append(f"The customer has: {facts.history_titles[-1][:LONGEST_TITLE]}\n")
    lines.append("Items:\n")
    for place, card in enumerate(facts.cards, start=1):
        shown = [f"{name}: {value}" for name, value in card.attributes.items() if len(value) <= LONGEST_TITLE]
        lines.append(f"{place}. {card.title[:LONGEST_TITLE]}; {'; '.join(shown)}\n")
    words = "".join(lines)
    frame = chat_frame(tokenizer, str(tokenizer.name_or_path))
    if frame is None:
        return encode_text(tokenizer, f"{words}Answer:")
    before, after = (tokenizer.encode(part, add_special_tokens=False) for part in frame)
    return [*before, *encode_text(tokenizer, words), *after]


def forbidden_tokens(tokenizer: PreTrainedTokenizerBase, vocabulary: SidVocabulary) -> list[int]:
    """Ids that prose must not have: semantic IDs and control tokens, but for the one that ends a text."""
    added = tokenizer.added_tokens_decoder.items()
    control = {
        token for token, added_token in added if added_token.special or added_token.content.strip()
    }  # runs of spaces are words
    codes = {int(token) for ids in vocabulary.token_ids for token in ids}
    return sorted((codes | control | {vocabulary.history_token}) - {tokenizer.eos_token_id})


class ModelProse:
    """Prose by the run's own LM, the likeliest token each time."""

    speaker: Speaker = "model"

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, vocabulary: SidVocabulary) -> None:
        chat_frame(tokenizer, str(tokenizer.name_or_path))  # a template that cannot be used is refused here
        self._model, self._tokenizer = model, tokenizer
        self._forbidden = torch.tensor(forbidden_tokens(tokenizer, vocabulary), device=model.device)
        self._cache_name = cache_argument(model, input_ids=self._forbidden[:1, None])

    def stream(self, facts: Facts) -> Iterator[str]:
        """Pieces of text as tokens are drawn, up to the end token or `MAX_TOKENS`."""
        fed = torch.tensor([prose_prompt(self._tokenizer, facts)], device=self._model.device)
        drawn: list[int] = []
        cache, told = DynamicCache(config=self._model.config), ""
        for _ in range(MAX_TOKENS):
            with torch.inference_mode():
                output = self._model(input_ids=fed, use_cache=True, **{self._cache_name: cache})
                logits = output.logits[0, -1].index_fill(0, self._forbidden, -torch.inf)
                token = int(logits[: len(self._tokenizer)].argmax())
            if token == self._tokenizer.eos_token_id:
                return
            fed = fed.new_tensor([[token]])
            drawn.append(token)
            text = self._tokenizer.decode(drawn, skip_special_tokens=True)
            if not text.endswith("\ufffd"):  # half of a character of several bytes
                yield text[len(told) :]
                told = text


class ServerProse:
    """Prose by a vLLM OpenAI-compatible server on RUN/lm.

    Args:
        address: such as http://localhost:8001.
        tokenizer: the run's, which is the server's too.
        timeout: seconds for connecting, for each piece, and for the whole text.
    """

    speaker: Speaker = "server"

    def __init__(
        self,
        address: str,
        tokenizer: PreTrainedTokenizerBase,
        vocabulary: SidVocabulary,
        *,
        timeout: float = TIMEOUT,
    ) -> None:
        chat_frame(tokenizer, str(tokenizer.name_or_path))
        self._address, self._tokenizer, self._timeout = urlsplit(address), tokenizer, timeout
        self._bias = {str(token): -100 for token in forbidden_tokens(tokenizer, vocabulary)}
        self._model: str | None = None

    def stream(self, facts: Facts) -> Iterator[str]:
        """Pieces of text as the server sends them.

        Raises:
            ProseError: the server is down, slow, or answers something else.
        """
        try:
            yield from self._complete(prose_prompt(self._tokenizer, facts))
        except (OSError, http.client.HTTPException, ValueError, KeyError, IndexError, TypeError) as error:
            raise ProseError(f"the prose server does not answer ({type(error).__name__})") from error

    def _complete(self, prompt: list[int]) -> Iterator[str]:
        end = time.monotonic() + self._timeout
        if self._model is None:
            self._model = str(json.loads(self._ask("GET", "/v1/models", None).read())["data"][0]["id"])
        asked = {
            "model": self._model, "prompt": prompt, "max_tokens": MAX_TOKENS, "temperature": 0, "stream": True,
            "logit_bias": self._bias, "skip_special_tokens": True,
        }  # fmt: skip
        for line in self._ask("POST", "/v1/completions", asked):
            if time.monotonic() > end:
                raise TimeoutError
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                return
            yield str(json.loads(data)["choices"][0]["text"])

    def _ask(self, method: str, path: str, body: Any) -> http.client.HTTPResponse:
        """The response, whose connection closes with it."""
        return respond(connect(self._address, self._timeout), self._address, method, path, body)
