"""A world with a known answer for the language model: after item x comes 5 x + 3 modulo 16."""

from __future__ import annotations

import numpy as np
import polars as pl
import torch

from genrec.data.cases import Cases, Split
from genrec.data.sequences import Sequences
from genrec.semtok.aligners.base import FrozenTable
from genrec.semtok.catalog import Catalog
from genrec.semtok.semantic_ids import SemanticIds
from genrec.semtok.vectors import ItemVectors
from genrec.sequential import BACKBONES
from genrec.sequential.base import SequentialModel
from genrec.training.lm.build import LmInputs
from genrec.training.lm.config import LmConfig

N = 16
CODES = np.array([[row // 4, row % 4] for row in range(N)], dtype=np.int32)
TINY = LmConfig(width=16, layers=1, heads=2, text_vocabulary=300, epochs=2, dense_width=8, valid_cases=30, max_items=6)


def world(seed: int = 0) -> LmInputs:
    """After item x comes 5 x + 3 modulo 16."""
    rng = np.random.default_rng(seed)

    def walk(start: int, length: int) -> list[int]:
        rows = [start]
        while len(rows) < length:
            rows.append((5 * rows[-1] + 3) % N)
        return rows

    walks = [walk(int(rng.integers(N)), int(rng.integers(3, 5))) for _ in range(120)]
    train = Sequences.from_lists([w[:-1] for w in walks])
    names = tuple(str(i) for i in range(len(walks)))
    targets = np.array([w[-1] for w in walks], dtype=np.int32)
    cases = Cases(names, names, train, targets, None, np.zeros(len(walks), dtype=bool))
    split = Split(train, names, cases, cases, "given")
    titles = tuple(f"item {i}" for i in range(N))
    catalog = Catalog(tuple(map(str, range(N))), titles, pl.DataFrame(), np.zeros(N, dtype=bool))
    books = [rng.standard_normal((4, 6)).astype(np.float32) for _ in range(2)]
    vectors = ItemVectors(rng.standard_normal((N, 6)).astype(np.float32), "random")
    return LmInputs(catalog, SemanticIds(catalog.item_ids, CODES, (4, 4)), books, vectors, split, exclude_seen=False)


def recommender(n_items: int, seed: int = 0, max_items: int = 4, backbone: str = "sasrec") -> SequentialModel:
    """A random one, by the seed, that knows nothing of the walk."""
    torch.manual_seed(seed)
    entry = BACKBONES[backbone]
    network = entry.build(entry.config(width=8, layers=1, max_items=max_items))
    return SequentialModel(FrozenTable(torch.randn(n_items, 8), 0.7 * torch.randn(n_items, 8)), network).eval()
