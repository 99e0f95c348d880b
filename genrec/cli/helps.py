"""What `--help` says of the commands that take no options."""

from __future__ import annotations

HELPS = {
    "evaluate": """usage: genrec evaluate RUN [RUN ...]

Of one run: the table of its report, made again where it is out of date (nothing is trained), a sentence on who wins,
where and by how much, and differences to every other model over the same test cases with 95% intervals. Of several
runs of one configuration by other seeds: mean and spread of every figure, and the differences over all seeds.

  Recall@K  share of test cases whose held-back item is among the first K; 1 is best
  NDCG@K    the same, worth more at the top; MRR@K: one over its place
  head, tail, cold   Recall@10 where that item is among the most popular fifth, is not, was never seen in training
  tail users         Recall@10 of the shortest 80% of the histories
  coverage@10        share of the catalogue that is in some list

An interval of a difference that holds 0 is within chance.

  genrec evaluate runs/shop
  genrec evaluate runs/seed-0 runs/seed-1 runs/seed-2
""",
    "inspect": """usage: genrec inspect RUN [ITEM ...]

With items: each one's semantic ID, and the items that share its codes from the longest prefix to the first code. They
should be alike; where they are not, the codes say little.

Without: how good the IDs of the run are, with what is good and what is bad of each figure. They show collapse and
collisions; of two healthy runs the better is known by `genrec evaluate`.

  genrec inspect runs/shop
  genrec inspect runs/shop 10001 10037
""",
    "add-items": """usage: genrec add-items RUN FILE

New items get text vectors, item vectors and semantic IDs with what the run has learned, and can be recommended at once;
nothing is trained, and no ID that was given before moves. FILE is an item table (CSV, JSONL or Parquet) of new items
alone, with the columns of the one that the run was fitted on. Servers take the items in when they are started again,
stored lists with the next `genrec recommend`. Killed, the same command goes on.

A run with added items is not trained again in place: fit another one from time to time.

  genrec add-items runs/shop new_items.csv
""",
}
