from __future__ import annotations

import asyncio

import pytest
from worlds.ring_recommender import RingRecommender, shop

from genrec.inference.serve.microbatch import LiveList, MicroBatcher, Overloaded, Question
from genrec.semtok.errors import InputError


def ids(found):
    return tuple(item for item, _ in found.items)


def run(check, **options):
    """Run `check(batcher, ring)` in a loop with a batcher."""

    async def main():
        ring = RingRecommender(shop())
        batcher = MicroBatcher(ring, **{"batch": 4, "wait_ms": 50, "queue": 8} | options)
        try:
            await check(batcher, ring)
        finally:
            ring.gate.set()
            await batcher.close()

    asyncio.run(main())


def test_questions_that_arrive_together_go_together_and_each_gets_its_own_answer():
    async def check(batcher, ring):
        found = await asyncio.gather(*(batcher.ask(Question((f"i{n}",), 2)) for n in range(3)))
        assert found[0] == LiveList([("i1", -1.0), ("i2", -2.0)], None)
        assert [ids(one) for one in found] == [("i1", "i2"), ("i2", "i3"), ("i3", "i4")]
        assert ring.batches == [[("i0",), ("i1",), ("i2",)]]

    run(check)


def test_a_batch_is_no_larger_than_asked():
    async def check(batcher, ring):
        await asyncio.gather(*(batcher.ask(Question((f"i{n}",), 1)) for n in range(7)))
        assert [len(batch) for batch in ring.batches] == [4, 3]

    run(check)


def test_only_questions_that_ask_alike_share_a_batch():
    async def check(batcher, ring):
        questions = [
            Question(("i0",), 2),
            Question(("i1",), 3),
            Question(("i2",), 2),
            Question(("i3",), 2, where=(("colour", "red"),)),
            Question(("i4",), 2, where=(("colour", "red"), ("price", (0, 9)))),
            Question(("i5",), 2, where=(("price", (0, 9)), ("colour", "red"))),
            Question(("i6",), 2, exclude_seen=False),
            Question(("i7",), 2, deny=("i8",)),
        ]
        found = await asyncio.gather(*map(batcher.ask, questions))
        assert [len(one.items) for one in found] == [2, 3, 2, 2, 2, 2, 2, 2]
        assert ids(found[7]) == ("i9", "i10")
        assert sorted(map(len, ring.batches)) == [1, 1, 1, 2, 3]

    run(check)


def test_a_short_list_says_why():
    async def check(batcher, ring):
        found = await batcher.ask(Question((), 5, where=(("price", (10, None)),)))
        assert found == LiveList([("i10", -11.0), ("i11", -12.0)], "2 items are allowed")

    run(check)


def test_an_error_reaches_those_who_asked_and_nobody_else():
    async def check(batcher, ring):
        bad = batcher.ask(Question((), 2, where=(("size", 1),)))
        found = await asyncio.gather(bad, batcher.ask(Question((), 2)), return_exceptions=True)
        assert isinstance(found[0], InputError)
        assert ids(found[1]) == ("i0", "i1")
        assert ids(await batcher.ask(Question((), 1))) == ("i0",)

    run(check)


def test_a_full_queue_refuses_and_who_gave_up_is_dropped():
    async def check(batcher, ring):
        ring.gate.clear()
        first = asyncio.create_task(batcher.ask(Question(("i0",), 1)))
        while not ring.batches:
            await asyncio.sleep(0.001)
        others = [asyncio.create_task(batcher.ask(Question((f"i{n}",), 1))) for n in range(8)]
        await asyncio.sleep(0)
        assert batcher.waiting == 8
        with pytest.raises(Overloaded, match="8 requests"):
            await batcher.ask(Question((), 1))
        for other in others[1:]:
            other.cancel()
        await asyncio.sleep(0)
        ring.gate.set()
        assert ids(await first) == ("i1",)
        assert ids(await others[0]) == ("i1",)
        assert ring.batches == [[("i0",)], [("i0",)]]

    run(check)


def test_closing_answers_what_waits():
    async def main():
        ring = RingRecommender(shop())
        batcher = MicroBatcher(ring, batch=2, wait_ms=1000, queue=8)
        waiting = [asyncio.create_task(batcher.ask(Question((f"i{n}",), 1))) for n in range(3)]
        await asyncio.sleep(0)
        await batcher.close()
        assert [ids(task.result()) for task in waiting] == [("i1",), ("i2",), ("i3",)]

    asyncio.run(main())
