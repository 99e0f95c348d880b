"""A `Ranker` over a tiny real model with random weights, and every component scorer."""

from __future__ import annotations

import math

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from genrec.data.sequences import Sequences
from genrec.decoding.node_scores import NodeScorer, NodeScores
from genrec.decoding.scorer import NextCodeScorer
from genrec.decoding.torch_scorer import TorchScorer
from genrec.decoding.trie import CodeTrie
from genrec.decoding.vocabulary import SidVocabulary
from genrec.ranking.config import RankingConfig
from genrec.ranking.cooccurrence import Cooccurrence
from genrec.ranking.dense_head import DenseHead
from genrec.ranking.ranker import Ranker
from genrec.semtok.aligners.base import FrozenTable
from genrec.sequential.base import SequentialModel
from genrec.sequential.config import SasRecConfig
from genrec.sequential.sasrec import SasRecBackbone


def random_ranker(sizes: tuple[int, ...], n: int, *, beams: int, nodes: bool = False) -> Ranker:
    """Of n items, the last 5 of them without interactions; by codes alone, or by node vectors."""
    rng = np.random.default_rng(0)
    cells = rng.choice(math.prod(sizes), size=n, replace=False)
    codes = np.stack(np.unravel_index(cells, sizes), axis=1).astype(np.int32)
    starts = np.cumsum([1, *sizes[:-1]])
    vocabulary = SidVocabulary(
        tuple(np.arange(begin, begin + size) for begin, size in zip(starts, sizes, strict=True)), 0
    )
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=1 + sum(sizes), num_key_value_heads=2, **shape)).eval()
    with torch.no_grad():
        for weights in model.parameters():
            if weights.ndim > 1:
                weights.normal_(0, 0.3)
    content, seen = torch.randn(n, 5), torch.arange(n) < n - 5
    head = DenseHead(16, 8, torch.from_numpy(codes), sizes, content, seen)
    with torch.no_grad():
        for weights in head.parameters():
            weights.normal_(0, 0.5)
    train = Sequences.from_lists([rng.integers(n - 5, size=6).tolist() for _ in range(max(20, n // 5))])
    trie = CodeTrie(codes, sizes)
    scorer: NextCodeScorer = TorchScorer(model, vocabulary, score_space="level")
    if nodes:
        scores = NodeScores(trie, 16, 8)
        with torch.no_grad():
            for step in scores.steps:
                step.normal_(0, 0.3)
        scorer = NodeScorer(scorer, scores, head)
    config = RankingConfig(beams=beams, dense_weight=0.7, cooccurrence_weight=0.4, sequential_weight=0.2)
    table = FrozenTable(torch.randn(n, 8), torch.randn(n, 8))
    sequential = SequentialModel(table, SasRecBackbone(SasRecConfig(width=8, layers=1, max_items=10))).eval()
    return Ranker(scorer, trie, vocabulary, codes, head, config, Cooccurrence.fit(train, n), sequential)
