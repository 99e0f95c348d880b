"""The items of the sample shop, put together from the words in `sample_shop.yaml`.

Legend: N items, S shelves.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from genrec.semtok.errors import InputError

TIERS = {"budget": 0.7, "mid": 1.0, "premium": 1.7}  # price tier: factor on the price


@dataclass(frozen=True)
class Items:
    """The items as a person sees them, and as the laws of the shop see them; arrays are by catalogue row."""

    # the lines of `items.jsonl`: item_id, title, brand, categories (department, shelf), description, price
    records: tuple[dict[str, Any], ...]
    shelf: NDArray[np.int64]  # [N], which shelf an item stands on
    department: NDArray[np.int64]  # [N]
    brand: NDArray[np.int64]  # [N]
    tier: NDArray[np.int64]  # [N], price tier in the order of `TIERS`
    lasting: NDArray[np.bool_]  # [N], one of its shelf is enough for years
    follows: NDArray[np.bool_]  # [S, S], whether people turn from one shelf to another

    def __len__(self) -> int:
        return len(self.records)


def make_items(rng: np.random.Generator, count: int) -> Items:
    """Draw different items, spread evenly over the shelves, in mixed order; raises InputError for fewer items than
    shelves, or more than there are words for.
    """
    words = yaml.safe_load(Path(__file__).with_name("sample_shop.yaml").read_text(encoding="utf-8"))
    departments = list(words)
    brands = [(department, brand) for department in departments for brand in words[department]["brands"]]
    shelves = [(department, shelf) for department in departments for shelf in words[department]["products"]]
    choices = [list(_choices(words[department], shelf)) for department, shelf in shelves]
    most = min(map(len, choices)) * len(shelves)
    if not len(shelves) <= count <= most:
        raise InputError(f"items: {count}; the sample shop can have {len(shelves)} to {most}")

    share = np.full(len(shelves), count // len(shelves))
    share[rng.permutation(len(shelves))[: count % len(shelves)]] += 1
    drawn = [
        (shelf, choices[shelf][choice])
        for shelf in range(len(shelves))
        for choice in rng.permutation(len(choices[shelf]))[: share[shelf]]
    ]
    drawn = [drawn[i] for i in rng.permutation(count)]

    records, brand, tier = [], [], []
    for row, (shelf, (name, maker, option)) in enumerate(drawn):
        department, shelf_name = shelves[shelf]
        goods = words[department]["products"][shelf_name]
        maker_tier, maker_line = words[department]["brands"][maker]
        price = goods["price"] * goods["options"][option] * TIERS[maker_tier]
        records.append(
            {
                "item_id": str(10_001 + row),
                "title": f"{maker} {name}, {option}",
                "brand": maker,
                "categories": [department, shelf_name],
                "description": f"{goods['names'][name]} {maker_line}",
                "price": max(0.95, round(2 * price) / 2 - 0.05),
            }
        )
        brand.append(brands.index((department, maker)))
        tier.append(list(TIERS).index(maker_tier))

    goods_of_shelf = [words[department]["products"][name] for department, name in shelves]
    names = [name for _, name in shelves]
    shelf_of = np.array([shelf for shelf, _ in drawn])
    return Items(
        records=tuple(records),
        shelf=shelf_of,
        department=np.array([departments.index(department) for department, _ in shelves])[shelf_of],
        brand=np.array(brand),
        tier=np.array(tier),
        lasting=np.array([goods.get("lasting", False) for goods in goods_of_shelf])[shelf_of],
        follows=np.array([[name in goods["then"] for name in names] for goods in goods_of_shelf]),
    )


def _choices(department: dict[str, Any], shelf: str) -> product[tuple[str, str, str]]:
    goods = department["products"][shelf]
    return product(goods["names"], department["brands"], goods["options"])
