"""What a list may hold, items like another, and search by text.

python examples/2_filters_and_search.py RUN       # of examples/1_fit_and_recommend.py
"""

from __future__ import annotations

import sys

from genrec import Recommender

recommender = Recommender.from_pretrained(sys.argv[1] if len(sys.argv) > 1 else "runs/example")
history = ["10001", "10006"]

# Filters are part of the search: a filtered list is as long as it can be, and says why where it is short.
for where in ({"price": {"max": 10}}, {"categories": "Beauty"}, {"brand": ["Everpan", "Clover Court"]}):
    print(f"where {where}:")
    print(recommender.recommend([history], k=3, where=where))

refused = recommender.recommend([history], k=1)[0][0]
print(f"without {refused.title}:")
print(recommender.recommend([history], k=3, deny=[[refused.item_id]]))

print("of some items only:")
print(recommender.recommend([history], k=3, items_to_recommend=["10002", "10003", "10004", "10005"]))

print(recommender.similar(["10001", "10002"], k=3))
print(recommender.search("sun spray SPF", k=3, where={"price": {"max": 30}}))
