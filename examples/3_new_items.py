"""An item that nobody has bought: IDs and recommendations without retraining.

python examples/3_new_items.py RUN                # of examples/1_fit_and_recommend.py; works on a copy
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import polars as pl

from genrec import Recommender

run = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example")
copy = run.with_name(f"{run.name}-with-new-items")  # such a run is not trained again in place
shutil.rmtree(copy, ignore_errors=True)
shutil.copytree(run, copy)

recommender = Recommender.from_pretrained(copy)
codes = recommender.semantic_ids.codes
columns = recommender.run.columns  # the table has the columns of the one that the run was fitted on
new = pl.DataFrame(
    {
        columns.item_id: ["new-1"],
        columns.title: ["Clover Court sun balm SPF 50, 100 ml"],
        "brand": ["Clover Court"],
        "categories": [["Beauty", "Sun care"]],
        "price": [19.95],
    }
)
print(recommender.add_items(new), "new item")

assert (recommender.semantic_ids.codes[: len(codes)] == codes).all()  # no published ID moves
print("its codes:", recommender.semantic_ids.codes[recommender.catalog.row("new-1")].tolist())

everything = [item.item_id for item in recommender.recommend([["10001"]], k=len(codes))[0]]
print(f"its place after 10001: {everything.index('new-1') + 1} of {len(everything)}")
print(recommender.search("sun balm", k=3))
