"""The main job on the built-in sample shop: two files in, per-user top-K lists out, and a table of what was learned.

python scripts/demo.py            # about ten minutes at most on two cores; run again, it is done at once
python scripts/demo.py --run runs/other --seed 1
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path

import polars as pl

from genrec.cli.parsing import load_config
from genrec.cli.pipeline import fit
from genrec.data.sample_shop import make_sample_shop
from genrec.evaluation.tables import ORACLE, evaluate, format_table, rank
from genrec.run import Run
from genrec.semtok.errors import InputError


def main() -> None:
    """Make the shop, fit, and print the table with the share of the best possible recall."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for room in ("semtok", "genrec", "training", "inference"):
        logging.getLogger(room).setLevel(logging.INFO)
    started = time.perf_counter()
    shop, data = make_sample_shop(options.seed), options.run.with_name(f"{options.run.name}-data")
    data.mkdir(parents=True, exist_ok=True)
    shop.write(data)
    config = load_config(Path(__file__).resolve().parents[1] / "configs/demo.yaml", [
        f"--data.items={data / 'items.jsonl'}", f"--data.interactions={data / 'interactions.csv'}",
        f"--run={options.run}", f"--seed={options.seed}",
    ])  # fmt: skip
    run = fit(config)
    split = run.split()
    best = {ORACLE: rank(shop.oracle_scores, split.test.histories, exclude_seen=True)}
    rows = run.metrics() + evaluate(best, split.test, split.train, len(shop.items))
    print(format_table(rows))
    _print_examples(run)
    print(f"\nreport  {run.report / 'report.html'}\nlists   {run.topk}")
    print(f"done in {time.perf_counter() - started:.0f} s")


def _print_examples(run: Run) -> None:
    """One shopper's last purchases and what they are recommended."""
    catalog = run.catalog()
    users = pl.read_parquet(run.users).head(1)
    lists = pl.read_parquet(run.topk / "part-00000.parquet").head(1)
    print(f"\nuser {users['user_id'][0]} had, lately:")
    for item in users["history"][0].to_list()[-4:]:
        print(f"    {catalog.titles[catalog.row(item)]}")
    print("and is recommended:")
    for item in lists["item_ids"][0].to_list()[:5]:
        print(f"    {catalog.titles[catalog.row(item)]}")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"demo: {error}")
