"""From two CSV files with column names of their own to recommendations, in Python alone.

python examples/1_fit_and_recommend.py            # a small shop into runs/example; half a minute
python examples/1_fit_and_recommend.py runs/mine
"""

from __future__ import annotations

import sys
from pathlib import Path

import polars as pl

import genrec
from genrec.data.sample_shop import make_sample_shop

# Far too little training, so that the example is quick. Leave these out for your own data.
QUICK = {
    "lm": {"epochs": 3, "width": 64},
    "aligner": {"training": {"epochs": 3}},
}

run = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example")
data = run.with_name(f"{run.name}-data")
data.mkdir(parents=True, exist_ok=True)

make_sample_shop(seed=0, users=300, items=100).write(data)
goods = pl.read_ndjson(data / "items.jsonl").rename({"item_id": "sku", "title": "name"})
orders = pl.read_csv(data / "interactions.csv").rename({"item_id": "sku", "user_id": "customer"})
orders.write_csv(data / "orders.csv")  # a path of CSV, JSONL or Parquet is as good as a data frame

recommender = genrec.fit(
    goods, data / "orders.csv", run=run, columns={"item_id": "sku", "title": "name", "user_id": "customer"}, **QUICK
)
print(recommender.evaluate())

lists = recommender.recommend(histories=[["10001", "10006"], []], k=5)  # an empty history: an anonymous user
for history, items in zip(("10001 and 10006", "nothing"), lists, strict=True):
    print(f"after {history}:")
    for item in items:
        print(f"    {item.item_id}  {item.title}")
