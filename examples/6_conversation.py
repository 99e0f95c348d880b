"""A conversation: every answer out of constrained decoding, every sentence true of the cards.

python examples/6_conversation.py RUN             # of examples/1_fit_and_recommend.py
"""

from __future__ import annotations

import sys

from genrec import Recommender
from genrec.inference.chat.conversation import Conversation

recommender = Recommender.from_pretrained(sys.argv[1] if len(sys.argv) > 1 else "runs/example")
conversation = Conversation(recommender, k=3)
for turn in ("a present under 20", "not the first", "something like the second, but cheaper", "why the first?"):
    reply = conversation.say(turn)
    print(f"> {turn}\n{reply.text}")
    if reply.note:
        print(f"  ({reply.note})")
    for card in reply.cards:
        print(f"    {card.title}: {card.reason}")

print("all that it remembers:", conversation.state.to_json())
