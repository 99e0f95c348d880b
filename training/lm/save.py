"""A trained language model as a Hugging Face folder, and back to be trained further."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from genrec.decoding.item_input import ItemInput
from genrec.decoding.node_scores import FILE as NODES
from genrec.semtok.arrays import read_tensors, state_spec
from genrec.semtok.errors import InputError
from genrec.semtok.folders import to_json, write_atomic
from genrec.training.lm.build import LanguageModel, LmInputs, build_lm
from genrec.training.lm.config import LmConfig


def save_lm(lm: LanguageModel, folder: Path, facts: Mapping[str, Any]) -> None:
    """Write a folder that `transformers` and vLLM open as it is (adapters merged); head and item input go below it.

    Args:
        facts: written to `genrec.json`: score space, ranking, what else a reader of the run needs.
    """
    if lm.adapter is not None:
        lm.adapter.merge_and_unload()
    lm.model.export().save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    lm.vocabulary.save(folder)
    write_atomic(folder / "genrec.json", to_json(dict(facts)))
    (folder / "heads").mkdir(exist_ok=True)
    lm.model.head.save(folder / "heads" / "dense.safetensors")
    for part in (lm.model.item_input, lm.model.nodes):
        if part is not None:
            part.save(folder / "heads")


def load_lm(folder: Path, inputs: LmInputs, config: LmConfig) -> LanguageModel:
    """What `save_lm` wrote, to be trained further; merged adapters stay merged, and new ones stand beside them.

    Args:
        config: that it was trained with.

    Raises:
        InputError: no model is there, or it was trained otherwise.
    """
    lm = build_lm(inputs, replace(config, base=str(folder), sid_init="random"))
    model = lm.model
    here = slice(model.first, model.first + len(model.rows))
    with torch.no_grad():
        model.rows.copy_(model.lm.get_input_embeddings().weight[here])
        if model.output_rows is not None:
            model.output_rows.copy_(model.lm.get_output_embeddings().weight[here])
    head = read_tensors(folder / "heads/dense.safetensors", state_spec(model.head), "a dense head of these items")
    model.head.load_state_dict(head)
    if model.item_input is not None:
        saved = ItemInput.load(folder / "heads", model.item_input.spelled, model.item_input.content)
        if saved is None:
            raise InputError(f"{folder}: trained without item vectors at its input")
        model.item_input.map.load_state_dict(saved.map.state_dict())
    if model.nodes is not None:
        if not (folder / "heads" / NODES).is_file():
            raise InputError(f"{folder}: trained without node vectors")
        nodes = read_tensors(folder / "heads" / NODES, state_spec(model.nodes), "node scores of these codes")
        model.nodes.load_state_dict(nodes)
    model.eval()
    return lm
