"""The language model before it is trained: the base, the SID tokens and their embeddings, item input and dense head.

Shapes: N items, L levels, V_l codes on level l, W width of the item vectors, R SID token embeddings, H hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from genrec.data.splits import Split
from genrec.decoding.item_input import ItemInput, SpelledItems
from genrec.decoding.node_scores import NodeScorer, NodeScores
from genrec.decoding.scorer import NextCodeScorer
from genrec.decoding.torch_scorer import TorchScorer
from genrec.decoding.trie import CodeTrie
from genrec.decoding.vocabulary import SidVocabulary
from genrec.ranking.dense_head import DenseHead
from genrec.semtok.catalog import Catalog
from genrec.semtok.semantic_ids import SemanticIds
from genrec.semtok.vectors import ItemVectors
from genrec.sequential.base import SequentialModel
from genrec.training.lm.base import load_base, plain_generation_config, scratch_model, scratch_tokenizer
from genrec.training.lm.config import SCRATCH, LmConfig
from genrec.training.lm.joint_model import JointModel
from genrec.training.lm.sid_embeddings import aligned_rows, item_words, random_rows
from genrec.training.sequential.config import FULL_SOFTMAX, NEGATIVES
from genrec.training.sequential.sampled_softmax import inclusion


@dataclass(frozen=True)
class LmInputs:
    """What the stage reads of the stages before it.

    Attributes:
        catalog: N items.
        semantic_ids: codes [N, L].
        codebooks: [V_l, W] for each level of the quantiser, from which the SID token embeddings start.
        item_vectors: [N, W], what was quantised; content of the dense head, and of items at the input.
        split: histories to train on and cases to choose the epoch on.
        exclude_seen: validate without the items of the history.
        sequential: the recommender of the run's aligner, where it has one: the teacher, and a part of the fusion.
    """

    catalog: Catalog
    semantic_ids: SemanticIds
    codebooks: Sequence[NDArray[np.float32]]
    item_vectors: ItemVectors
    split: Split
    exclude_seen: bool = True
    sequential: SequentialModel | None = None


@dataclass(frozen=True)
class LanguageModel:
    """What is trained, and what it takes to read it: the adapter is None unless the run uses LoRA."""

    model: JointModel
    tokenizer: PreTrainedTokenizerBase
    vocabulary: SidVocabulary
    adapter: PeftModel | None

    def scorer(self) -> NextCodeScorer:
        """Constrained decoding by the weights of this moment."""
        model, space = self.model, self.model.score_space
        scorer = TorchScorer(model.export(), self.vocabulary, score_space=space, item_input=model.item_input)
        return scorer if model.nodes is None else NodeScorer(scorer, model.nodes, model.head)


def build_lm(inputs: LmInputs, config: LmConfig) -> LanguageModel:
    """The untrained model, its tokenizer with the SID tokens, and their vocabulary."""
    sizes = inputs.semantic_ids.sizes
    lm: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    if config.base == SCRATCH:
        tokenizer = scratch_tokenizer(inputs.catalog.texts(), config.text_vocabulary)
        lm = scratch_model(tokenizer, width=config.width, layers=config.layers, heads=config.heads, seed=config.seed)
    else:
        lm, tokenizer = load_base(config.base, torch.float32)
    torch.manual_seed(config.seed)
    vocabulary = SidVocabulary.added_to(tokenizer, sizes)
    plain_generation_config(lm, tokenizer)
    rows = first_rows(lm.get_input_embeddings().weight, tokenizer, inputs, config)
    n_tokens = vocabulary.history_token + len(rows)
    if lm.get_input_embeddings().weight.shape[0] < n_tokens:
        lm.resize_token_embeddings(n_tokens, mean_resizing=False)
    adapter = None
    if config.lora_rank:
        lora = LoraConfig(
            r=config.lora_rank, lora_alpha=2 * config.lora_rank, target_modules="all-linear", task_type="CAUSAL_LM"
        )
        adapter = get_peft_model(lm, lora)
    if config.gradient_checkpointing:
        lm.gradient_checkpointing_enable({"use_reentrant": False})
    counts = np.bincount(inputs.split.train.values, minlength=len(inputs.catalog))
    seen = counts > 0
    head = DenseHead(
        rows.shape[1],
        config.dense_width,
        torch.from_numpy(inputs.semantic_ids.codes),
        sizes,
        torch.from_numpy(inputs.item_vectors.values),
        torch.from_numpy(seen),
        config.identity_dropout,
    )
    head.requires_grad_(config.dense_weight > 0 or bool(config.node_vectors))
    nodes = None
    if config.node_vectors:
        nodes = NodeScores(CodeTrie(inputs.semantic_ids.codes, sizes), rows.shape[1], config.dense_width)
    item_input = None
    if config.item_input:
        spread = float(rows.std()) * float(getattr(lm.get_input_embeddings(), "embed_scale", 1.0))
        item_input = ItemInput(SpelledItems(vocabulary, inputs.semantic_ids.codes), head.content, rows.shape[1], spread)
    model = JointModel(
        lm,
        head,
        vocabulary,
        rows,
        item_input=item_input,
        score_space=config.score_space,
        dropout=config.dropout,
        nodes=nodes,
    )
    model.dense_weight = config.dense_weight
    if seen.sum() > FULL_SOFTMAX:
        model.probability = inclusion(counts[seen], NEGATIVES)
    return LanguageModel(model, tokenizer, vocabulary, adapter)


def first_rows(embeddings: Tensor, tokenizer: PreTrainedTokenizerBase, inputs: LmInputs, config: LmConfig) -> Tensor:
    """The SID token embeddings [R, H] that fine-tuning starts from."""
    codebooks, codes, sizes = inputs.codebooks, inputs.semantic_ids.codes, inputs.semantic_ids.sizes
    if config.sid_init == "random":
        return random_rows(embeddings, sizes, config.seed)
    words = item_words(embeddings, tokenizer, inputs.catalog.texts())
    return aligned_rows(embeddings, codebooks, codes, words, sizes, config.seed)
