"""An item that nobody has bought: IDs and recommendations without retraining.

python examples/3_new_items.py RUN                # of examples/1_fit_and_recommend.py; works on a copy
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from genrec import Recommender
from genrec.cli.main import main

run = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example")
copy = run.with_name(f"{run.name}-with-new-items")  # such a run is not trained again in place
shutil.rmtree(copy, ignore_errors=True)
shutil.copytree(run, copy)

new = {
    "item_id": "new-1",
    "title": "Clover Court sun balm SPF 50, 100 ml",
    "brand": "Clover Court",
    "categories": ["Beauty", "Sun care"],
    "price": 19.95,
}
file = copy.with_suffix(".jsonl")
file.write_text(json.dumps(new) + "\n")
if main(["add-items", str(copy), str(file)]) != 0:
    sys.exit(1)

before, after = Recommender.from_pretrained(run), Recommender.from_pretrained(copy)
assert (after.semantic_ids.codes[: len(before.catalog)] == before.semantic_ids.codes).all()  # no published ID moves
print("codes of the new item:", after.semantic_ids.codes[after.catalog.row("new-1")].tolist())

everything = after.recommend([["10001"]], k=len(after.catalog) - 1).rows[0]
place = [after.catalog.item_ids[row] for row in everything].index("new-1") + 1
print(f"its place after 10001: {place} of {len(everything)}")
