"""From two files to recommendations, in one process.

python examples/1_fit_and_recommend.py            # a small shop into runs/example; half a minute
python examples/1_fit_and_recommend.py runs/mine
"""

from __future__ import annotations

import sys
from pathlib import Path

from genrec import Recommender
from genrec.cli.main import main
from genrec.data.sample_shop import make_sample_shop

# Far too little training, so that the example is quick. Leave these out for your own data.
QUICK = ["--lm.epochs=3", "--collaborative.epochs=3", "--aligner.training.epochs=3", "--lm.width=64"]

run = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example")
data = run.with_name(f"{run.name}-data")
data.mkdir(parents=True, exist_ok=True)

shop = make_sample_shop(seed=0, users=300, items=100)
shop.write(data)  # items.jsonl and interactions.csv: yours would lie here
config = data / "config.yaml"
config.write_text(f"data: {{items: {data}/items.jsonl, interactions: {data}/interactions.csv}}\nrun: {run}\n")
if main(["fit", str(config), *QUICK]) != 0:
    sys.exit(1)

recommender = Recommender.from_pretrained(run)
lists = recommender.recommend([["10001", "10006"], []], k=5)  # an empty history: an anonymous user
for history, rows in zip(("10001 and 10006", "nothing"), lists.rows, strict=True):
    print(f"after {history}:")
    for row in rows:
        print(f"    {recommender.catalog.item_ids[row]}  {recommender.catalog.titles[row]}")
