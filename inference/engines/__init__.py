"""Engines: what runs a run's language model. A new engine is one file here and one entry in `ENGINES`.

Importing this module is light: an entry imports its engine where it builds one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from genrec.decoding.item_input import ItemInput
    from genrec.decoding.scorer import NextCodeScorer
    from genrec.decoding.torch_scorer import ScoreSpace
    from genrec.decoding.vocabulary import SidVocabulary
    from genrec.semtok.pretrained import ModelFolder


@dataclass(frozen=True)
class EngineModel:
    """The language model that an engine is to run."""

    lm: Path  # its folder, for engines that open it themselves
    folder: ModelFolder  # the same, opened and checked
    vocabulary: SidVocabulary
    score_space: ScoreSpace  # what the softmax over a code ran over in training
    dtype: Literal["float32", "bfloat16"]
    device: str
    item_input: ItemInput | None  # adds items' vectors to their last codes; None where the model does not read them


@dataclass(frozen=True)
class Engine:
    """An entry of the registry."""

    build: Callable[[EngineModel], NextCodeScorer]  # makes the scorer of next codes
    takes_device: bool = True  # it runs where it is told; otherwise it takes the GPU where there is one


def _torch(model: EngineModel) -> NextCodeScorer:
    import torch

    from genrec.decoding.torch_scorer import TorchScorer
    from genrec.semtok.errors import InputError
    from genrec.semtok.pretrained import check_forward

    network = model.folder.model("causal", getattr(torch, model.dtype), whole=True).to(model.device)
    highest = [int(ids.max()) for ids in model.vocabulary.token_ids]
    hidden = network.get_input_embeddings().embedding_dim
    if model.item_input is not None and model.item_input.map.out_features != hidden:
        width = model.item_input.map.out_features
        raise InputError(f"{model.lm}: item_input.safetensors is of width {width}, the model of width {hidden}")
    check_forward(network, [model.vocabulary.history_token, *highest], str(model.lm))
    return TorchScorer(network, model.vocabulary, score_space=model.score_space, item_input=model.item_input)


def _vllm(model: EngineModel) -> NextCodeScorer:
    from genrec.inference.engines.vllm_engine import VllmScorer

    return VllmScorer(
        model.lm, model.vocabulary, score_space=model.score_space, dtype=model.dtype, item_input=model.item_input
    )


ENGINES: dict[str, Engine] = {"torch": Engine(_torch), "vllm": Engine(_vllm, takes_device=False)}
