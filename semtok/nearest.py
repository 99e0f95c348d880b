"""`ItemIndex`: the items of largest inner product with a query, approximately, in catalogues that are large.

    if is_approximate("auto", len(vectors)):
        index = ItemIndex(vectors)
        rows = index.search(queries, 500, allowed)       # candidates: their scores are the caller's to compute

Items are sorted into about sqrt(N) lists by k-means, and a query reads the eighth of them whose centroids have the
largest inner product with it (inverted file; Jegou et al., 2011), in half precision, by faiss. The index is built where
vectors are read, in seconds for a million items, and is stored nowhere: the same vectors give the same index, whatever
the number of threads.

Shapes: N items, D width, B queries, M items asked for.
"""

from __future__ import annotations

import logging
from importlib.util import find_spec
from math import isqrt
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from genrec.semtok.errors import InputError
from genrec.semtok.installed import lacks_extra

Retrieval: TypeAlias = Literal["auto", "exact", "approximate"]
EXACT_BELOW = 200_000  # items that are read one and all where nobody says otherwise

_PROBED = 8  # a query reads one list of so many
_LEAST_PROBED = 16
_FEW = 4  # of a smaller share than one in so many, an index finds too little
_POINTS, _ITERATIONS = 64, 10  # items a centroid that k-means reads, and how often
_log = logging.getLogger(__name__)


def is_approximate(retrieval: Retrieval, n_items: int) -> bool:
    """Whether N items are searched by an index.

    Raises:
        InputError: approximate was asked for and the extra is not installed; or something else was.
    """
    if retrieval not in get_args(Retrieval):
        raise InputError(f"retrieval {retrieval!r}: choose one of {', '.join(get_args(Retrieval))}")
    if retrieval == "exact" or (retrieval == "auto" and n_items < EXACT_BELOW):
        return False
    if find_spec("faiss") is not None:
        return True
    missing = lacks_extra("faiss", "faiss")
    if retrieval == "approximate":
        raise missing
    _log.warning("%s items are searched exactly, which takes its time: %s", f"{n_items:,}", missing)
    return False


def is_few(allowed: int, n_items: int) -> bool:
    """Whether so few of N items are allowed that they are read one and all: an index would find too few of them."""
    return allowed < min(EXACT_BELOW, n_items // _FEW)


class ItemIndex:
    """An index of vectors float32 [N, D]."""

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        import faiss

        self.n_items, width = vectors.shape
        lists = max(1, isqrt(self.n_items))
        half = faiss.ScalarQuantizer.QT_fp16
        index = faiss.IndexIVFScalarQuantizer(
            faiss.IndexFlatIP(width), width, lists, half, faiss.METRIC_INNER_PRODUCT, False
        )
        index.cp.niter, index.cp.max_points_per_centroid, index.cp.min_points_per_centroid = _ITERATIONS, _POINTS, 1
        vectors = np.ascontiguousarray(vectors)
        index.train(vectors)
        index.add(vectors)
        self._index, self._probed = index, min(lists, max(_LEAST_PROBED, lists // _PROBED))

    def search(
        self, queries: NDArray[np.float32], m: int, allowed: NDArray[np.bool_] | None = None
    ) -> NDArray[np.int64]:
        """Rows [B, M] by falling inner product with queries [B, D]; -1 behind the last that was found.

        Args:
            allowed: bool [N]; no other row is found.
        """
        import faiss

        bits = None if allowed is None else np.packbits(allowed, bitorder="little")
        selector = None if bits is None else faiss.IDSelectorBitmap(bits)  # both are read until the search is done
        parameters = faiss.SearchParametersIVF(nprobe=self._probed, sel=selector)
        _, rows = self._index.search(np.ascontiguousarray(queries), min(m, self.n_items), params=parameters)
        found: NDArray[np.int64] = rows
        return found
