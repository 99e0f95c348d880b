"""An item as a prompt of its attributes, whole or as one of many random views (LLMEmb, Liu et al. 2024, arXiv
2409.19925, stage 1).

    The item has following attributes:
    name is Magic Eraser; brand is Mr. Clean; categories is Janitorial, Sponges

A view has the attributes in random order, some of them dropped.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from genrec.semtok.catalog import Catalog
from genrec.semtok.errors import OptionError

INSTRUCTION = "The item has following attributes:"
MAX_VALUE = 100  # characters, as published: a long description must not drown the rest

Attribute = tuple[str, str]


def item_attributes(catalog: Catalog, columns: Sequence[str] | None = None) -> list[list[Attribute]]:
    """The (name, value) pairs of every item: its title as "name", then each filled attribute that is words.

    Values are cut to 100 characters, lists joined by commas, and semicolons, which separate attributes, become full
    stops. As in `Catalog.texts`, numbers and identifiers are left out.

    Args:
        columns: which attributes; None takes `catalog.text_columns`.
    """
    columns = catalog.text_columns if columns is None else list(columns)
    rows = catalog.attributes.select(columns).iter_rows() if columns else (() for _ in catalog.titles)
    return [
        [(name, value) for name, value in zip(("name", *columns), map(_plain, (title, *row)), strict=True) if value]
        for title, row in zip(catalog.titles, rows, strict=True)
    ]


def attribute_prompt(attributes: Sequence[Attribute]) -> str:
    """The prompt of some attributes, in their order."""
    return INSTRUCTION + "\n" + "; ".join(f"{name} is {value}" for name, value in attributes)


def attribute_prompts(catalog: Catalog, columns: Sequence[str] | None = None) -> list[str]:
    """The whole prompt of every item: what an encoder tuned on views is given afterwards."""
    return [attribute_prompt(attributes) for attributes in item_attributes(catalog, columns)]


def random_view(attributes: Sequence[Attribute], drop_rate: float, rng: np.random.Generator) -> str:
    """The prompt with int(n * drop_rate) of the n attributes dropped and the others in random order.

    Raises:
        OptionError: the rate is not in [0, 1).
    """
    if not 0 <= drop_rate < 1:
        raise OptionError("drop_rate", f"{drop_rate} is not in [0, 1)")
    kept = len(attributes) - int(len(attributes) * drop_rate)
    return attribute_prompt([attributes[i] for i in rng.permutation(len(attributes))[:kept]])


def disjoint_views(attributes: Sequence[Attribute], rng: np.random.Generator) -> tuple[str, str]:
    """Two prompts that share no attribute, a random half each: whoever pairs them knows what goes together.

    A lone attribute is in both.
    """
    order = [attributes[i] for i in rng.permutation(len(attributes))]
    half = len(order) // 2
    return attribute_prompt(order[: half or 1]), attribute_prompt(order[half:])


def _plain(value: str | list[str | None] | None) -> str:
    words = ", ".join(filter(None, value)) if isinstance(value, list) else value or ""
    return " ".join(words.replace(";", ".").split())[:MAX_VALUE].strip()
