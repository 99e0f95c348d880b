"""`user_item_matrix`: who has what, apart from `Sequences`, which is imported before anything heavy."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from genrec.data.sequences import Sequences


def user_item_matrix(histories: Sequences, n_items: int) -> csr_array:
    """The matrix float32 [S, N] with 1 where a sequence has an item."""
    ones = np.ones(len(histories.values), dtype=np.float32)
    user_item = csr_array((ones, (histories.owners, histories.values)), shape=(len(histories), n_items))
    user_item.sum_duplicates()
    user_item.data[:] = 1.0
    return user_item
