"""genrec: a generative recommender.

The public names are imported when first asked for, so `import genrec` stays light:

    from genrec import Recommender
    recommender = Recommender.from_pretrained("runs/beauty")
    recommender.recommend([["1", "2"]], k=10)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_PUBLIC = {
    "Catalog": "semtok.catalog",
    "CodeTrie": "genrec.trie",
    "Interactions": "genrec.interactions",
    "ItemFilter": "genrec.filters",
    "ItemVectors": "semtok.vectors",
    "Recommendations": "genrec.recommendations",
    "Recommender": "inference.recommender",
    "SemanticIds": "semtok.semantic_ids",
    "SidVocabulary": "genrec.vocabulary",
}
__all__ = sorted(_PUBLIC)

if TYPE_CHECKING:
    from genrec.filters import ItemFilter as ItemFilter
    from genrec.interactions import Interactions as Interactions
    from genrec.recommendations import Recommendations as Recommendations
    from genrec.trie import CodeTrie as CodeTrie
    from genrec.vocabulary import SidVocabulary as SidVocabulary
    from inference.recommender import Recommender as Recommender
    from semtok.catalog import Catalog as Catalog
    from semtok.semantic_ids import SemanticIds as SemanticIds
    from semtok.vectors import ItemVectors as ItemVectors


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'genrec' has no attribute {name!r}")
