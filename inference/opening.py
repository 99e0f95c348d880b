"""From a run's folder to the parts of a `Recommender`: the model on its engine, and the other component scorers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from genrec.decoding.filters import WhereFilters
from genrec.decoding.item_input import ItemInput, SpelledItems
from genrec.decoding.node_scores import NodeScorer, NodeScores
from genrec.decoding.scorer import NextCodeScorer
from genrec.decoding.trie import CodeTrie
from genrec.decoding.vocabulary import SidVocabulary
from genrec.inference.engines import ENGINES, EngineModel
from genrec.ranking.cooccurrence import Cooccurrence
from genrec.ranking.dense_head import DenseHead
from genrec.ranking.ranker import Ranker
from genrec.run import Run
from genrec.semtok.catalog import Catalog
from genrec.semtok.device import default_device
from genrec.semtok.errors import InputError, first_line
from genrec.semtok.folders import hash_value
from genrec.semtok.nearest import Retrieval, is_approximate
from genrec.semtok.pretrained import ModelFolder, open_folder
from genrec.semtok.semantic_ids import SemanticIds
from genrec.semtok.vectors import unit_rows

Dtype: TypeAlias = Literal["float32", "bfloat16"]


@dataclass(frozen=True, eq=False)
class Opened:
    """What a `Recommender` is made of."""

    catalog: Catalog  # N items
    semantic_ids: SemanticIds  # their codes
    unit_vectors: NDArray[np.float32]  # [N, W] of unit length, for `similar`
    ranker: Ranker  # ranks histories of catalogue rows
    engine: NextCodeScorer  # reads a text's prompt in `search`, by codes alone
    tokenizer: PreTrainedTokenizerBase  # of the LM, for `search`
    filters: WhereFilters  # parses conditions on attributes
    run_id: str  # hash of what decides the lists
    filter_viewed: bool  # whether lists leave out what is in the history where nobody says
    approximate: bool  # whether the ranker and `similar` search by an index


def open_parts(run: Run, engine: str, device: str | None, dtype: Dtype | None, retrieval: Retrieval = "auto") -> Opened:
    """Open a run for recommending; arguments and errors as of `Recommender.from_pretrained`."""
    device = _device(engine, device)
    run_id = hash_value(run.files(("catalog", "vectors/item", "semtok", "lm")))[:16]
    catalog, ids, vectors = run.catalog(), run.semantic_ids(), run.item_vectors()
    approximate = is_approximate(retrieval, len(catalog))
    run.language_model()  # a run of an earlier version says so before its model is opened
    folder = open_folder(run.lm, str(run.lm))
    scorer = _scorer(run, folder, engine, device, dtype or ("bfloat16" if device.startswith("cuda") else "float32"))
    ranker = _ranker(run, scorer, device)
    _check_width(ranker, scorer, run)
    tokenizer = folder.tokenizer()
    ranker.vocabulary.check_spelling(tokenizer, str(run.lm))
    filters = WhereFilters(ranker.trie, catalog)
    if approximate:
        ranker.use_candidates()
    return Opened(
        catalog,
        ids,
        unit_rows(vectors.values),
        ranker,
        scorer,
        tokenizer,
        filters,
        run_id,
        run.exclude_seen,
        approximate,
    )


def open_ranker(run: Run) -> Ranker:
    """The exact ranker of a run, by torch; in float32, so that a report says the same on every device."""
    return open_parts(run, "torch", None, "float32", "exact").ranker


def _device(engine: str, device: str | None) -> str:
    """The device by its name; raises InputError where there is none."""
    if engine not in ENGINES:
        raise InputError(f"engine {engine!r}: choose one of {', '.join(ENGINES)}")
    if device is None or not ENGINES[engine].takes_device:
        device = default_device().type
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device {device!r} is unavailable here ({first_line(error)})") from None
    return device


def _scorer(run: Run, folder: ModelFolder, engine: str, device: str, dtype: Dtype) -> NextCodeScorer:
    """The language model, as an engine runs it."""
    ids, facts, lm = run.semantic_ids(), run.language_model(), run.lm
    vocabulary = SidVocabulary.load(lm)
    if vocabulary.sizes != ids.sizes:
        raise InputError(f"{lm}: trained for codes {vocabulary.sizes}, the semantic IDs have {ids.sizes}")
    content = torch.from_numpy(run.item_vectors().values).to(device)
    item_input = ItemInput.load(lm / "heads", SpelledItems(vocabulary, ids.codes), content)
    item_input = None if item_input is None else item_input.to(device)
    model = EngineModel(lm, folder, vocabulary, facts.score_space, dtype, device, item_input)
    return ENGINES[engine].build(model)


def _check_width(ranker: Ranker, scorer: NextCodeScorer, run: Run) -> None:
    """Raise InputError where the dense head was made for hidden states of another width than the model's."""
    hidden = scorer.start([[ranker.vocabulary.history_token]]).hidden
    if ranker.head is not None and hidden is not None and hidden.shape[-1] != ranker.head.query.in_features:
        width = ranker.head.query.in_features
        raise InputError(
            f"{run.lm}: dense.safetensors reads states of width {width}, the model's are {hidden.shape[-1]}"
        )


def _ranker(run: Run, scorer: NextCodeScorer, device: str) -> Ranker:
    """The language model beside the other component scorers."""
    ids, heads = run.semantic_ids(), run.lm / "heads"
    trie, content = CodeTrie(ids.codes, ids.sizes), torch.from_numpy(run.item_vectors().values).to(device)
    head = DenseHead.load(heads / "dense.safetensors", torch.from_numpy(ids.codes), ids.sizes, content).to(device)
    nodes = NodeScores.load(heads, trie)
    reader = scorer if nodes is None else NodeScorer(scorer, nodes.to(device), head)
    cooccurrence = Cooccurrence.load(heads / "cooccurrence.safetensors").extended(len(ids))
    ranking = run.language_model().ranking
    return Ranker(reader, trie, SidVocabulary.load(run.lm), ids.codes, head, ranking, cooccurrence, run.sequential())
