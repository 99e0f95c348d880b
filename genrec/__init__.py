"""genrec: a generative recommender.

The public names are imported when first asked for, so `import genrec` stays light:

    import genrec

    recommender = genrec.fit(items, interactions, run="runs/shop")    # data frames, or paths of tables
    recommender = genrec.Recommender.from_pretrained("runs/shop")     # later
    recommender.recommend(users=["ann"], k=10).to_pandas()
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "fit": "genrec.cli.python",
    "serve": "genrec.cli.python",
    "Catalog": "genrec.semtok.catalog",
    "CodeTrie": "genrec.decoding.trie",
    "Columns": "genrec.semtok.columns",
    "Evaluation": "genrec.evaluation.evaluation",
    "InputError": "genrec.semtok.errors",
    "Interactions": "genrec.data.interactions",
    "ItemFilter": "genrec.decoding.filters",
    "ItemVectors": "genrec.semtok.vectors",
    "Recommendations": "genrec.recommendations",
    "Recommender": "genrec.inference.recommender",
    "SearchWeights": "genrec.inference.text_search",
    "SemanticIds": "genrec.semtok.semantic_ids",
    "SidVocabulary": "genrec.decoding.vocabulary",
}
__all__ = sorted(_PUBLIC)

if TYPE_CHECKING:
    __version__: str
    from genrec.cli.python import fit as fit
    from genrec.cli.python import serve as serve
    from genrec.data.interactions import Interactions as Interactions
    from genrec.decoding.filters import ItemFilter as ItemFilter
    from genrec.decoding.trie import CodeTrie as CodeTrie
    from genrec.decoding.vocabulary import SidVocabulary as SidVocabulary
    from genrec.evaluation.evaluation import Evaluation as Evaluation
    from genrec.inference.recommender import Recommender as Recommender
    from genrec.inference.text_search import SearchWeights as SearchWeights
    from genrec.recommendations import Recommendations as Recommendations
    from genrec.semtok.catalog import Catalog as Catalog
    from genrec.semtok.columns import Columns as Columns
    from genrec.semtok.errors import InputError as InputError
    from genrec.semtok.semantic_ids import SemanticIds as SemanticIds
    from genrec.semtok.vectors import ItemVectors as ItemVectors


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("genrec")
    raise AttributeError(f"module 'genrec' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
