"""What a list may hold, items like another, and search by text.

python examples/2_filters_and_search.py RUN       # of examples/1_fit_and_recommend.py
"""

from __future__ import annotations

import sys

from genrec import Recommender

recommender = Recommender.from_pretrained(sys.argv[1] if len(sys.argv) > 1 else "runs/example")
catalog = recommender.catalog
history = ["10001", "10006"]


def show(title: str, item_ids: list[str]) -> None:
    print(title)
    for item_id in item_ids:
        row = catalog.row(item_id)
        print(f"    {item_id}  {catalog.titles[row]}, {catalog.attributes['price'][row]}")


# Filters are part of the search: a filtered list is as long as it can be, and says why where it is short.
for where in ({"price": {"max": 10}}, {"categories": "Beauty"}, {"brand": ["Everpan", "Clover Court"]}):
    lists = recommender.recommend([history], k=3, where=where)
    show(f"where {where}", [catalog.item_ids[row] for row in lists.rows[0]])
    if lists.reasons[0]:
        print(f"    ({lists.reasons[0]})")

refused = [catalog.item_ids[row] for row in recommender.recommend([history], k=1).rows[0]]
lists = recommender.recommend([history], k=3, deny=[refused])
show(f"without {refused[0]}", [catalog.item_ids[row] for row in lists.rows[0]])

show("like 10001", [item_id for item_id, _ in recommender.similar("10001", 3)])
show("search: something for a hot day", [item_id for item_id, _ in recommender.search("sun spray SPF", 3)])
