"""Semantic IDs that were made elsewhere: `codes = read_codes("Beauty.index.json", item_ids)`.

They are read from what LETTER, LC-Rec and MiniOneRec publish, a JSON object of item id to codes, as numbers or as
tokens such as `<a_12>`. Their codebooks are the means of what the levels before leave over of the items' vectors, so
that items that come later get codes as with residual k-means.

Shapes: N items, D input width, L levels, V_l codes on level l.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from genrec.semtok import options
from genrec.semtok.errors import InputError
from genrec.semtok.folders import read_json
from genrec.semtok.quantizers.residual import Codes, Floats
from genrec.semtok.quantizers.residual_kmeans import spread_like_rows

_TOKEN = re.compile(r"<[a-z]_(\d{1,7})>")


def read_codes(path: Path, item_ids: Sequence[str]) -> Codes:
    """The codes of the items of a catalogue, int32 [N, L]; items of the file that are not in it are left out.

    Raises:
        InputError: the file is missing or no such object, an item has no codes, or numbers of codes differ.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        raise InputError(f"--semtok.codes {path}: not a JSON object of item id and codes")
    lacking = [item for item in item_ids if item not in found]
    if lacking:
        raise InputError(
            f"--semtok.codes {path}: none for {len(lacking)} of {len(item_ids)} items, such as {lacking[0]!r}"
        )
    codes = [_numbers(path, item, found[item]) for item in item_ids]
    levels = len(codes[0])
    for item, row in zip(item_ids, codes, strict=True):
        if len(row) != levels:
            raise InputError(f"--semtok.codes {path}: {len(row)} for item {item!r}, {levels} for {item_ids[0]!r}")
    return np.array(codes, dtype=np.int32)


def sizes_of(codes: Codes, sizes: Sequence[int]) -> tuple[int, ...]:
    """Codes on each level: those asked for, else what the codes need; raises InputError where they do not fit."""
    needed = tuple(int(most) + 1 for most in codes.max(axis=0))
    if not sizes:
        return needed
    if len(sizes) != len(needed) or any(size < least for size, least in zip(sizes, needed, strict=True)):
        raise InputError(f"--semtok.sizes {list(sizes)}: the codes given have sizes {list(needed)}")
    return tuple(sizes)


def codebooks_of(vectors: Floats, codes: Codes, sizes: Sequence[int], seed: int) -> list[Floats]:
    """One codebook float32 [V_l, D] a level: the means of what a code's items have left over.

    Codes that no item has lie about as the items do.

    Args:
        vectors: float32 [N, D].
        codes: int32 [N, L].
    """
    rest, codebooks = vectors.astype(np.float32), []
    for level, size in enumerate(sizes):
        here = codes[:, level]
        counts = np.bincount(here, minlength=size)
        book = spread_like_rows(rest, size, seed + level)
        sums = np.zeros_like(book)
        np.add.at(sums, here, rest)
        book[counts > 0] = sums[counts > 0] / counts[counts > 0, None]
        codebooks.append(book)
        rest = rest - book[here]
    return codebooks


def _numbers(path: Path, item: str, told: object) -> list[int]:
    """An item's codes as numbers."""
    if isinstance(told, list) and 0 < len(told) <= 26:
        tokens = [_TOKEN.fullmatch(code) if isinstance(code, str) else None for code in told]
        numbers = [int(token[1]) if token else code for token, code in zip(tokens, told, strict=True)]
        if all(type(code) is int and 0 <= code < options.MOST_CODES for code in numbers):
            return numbers
    raise InputError(f"--semtok.codes {path}: item {item!r} has {str(told)[:80]}, not a list of codes")
