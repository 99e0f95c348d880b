"""The night's work: lists for a file of users, loaded into a store that a service reads.

python examples/4_batch_and_store.py RUN          # of examples/1_fit_and_recommend.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from genrec.cli.main import main
from genrec.inference.store.lmdb_store import LmdbStore

run = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/example")
users = run.with_name("users.jsonl")
rows = [{"user_id": "ann", "history": ["10001", "10006"]}, {"user_id": "ben", "history": []}]
users.write_text("".join(json.dumps(row) + "\n" for row in rows))

# Killed at any moment, the same command goes on and ends with the same bytes.
lists = run.with_name("lists")
if main(["recommend", str(run), "--users", str(users), "--out", str(lists), "--k", "5", "--restart", "true"]) != 0:
    sys.exit(1)

store = LmdbStore(run.with_name("store"))
loaded = store.load(lists)  # all or nothing: readers see the version before until this one is whole
print(f"{loaded.version}: {loaded.users} users, {loaded.items} items")
answer = store.get("ann")
assert answer is not None
print("ann:", ", ".join(answer.item_ids))

store.add_events("ann", ["10002"])  # bought since: the list is stale, and a service answers live
again = store.get("ann")
assert again is not None
print("stale after an event:", again.stale)
