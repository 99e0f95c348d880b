"""`Conversation`: talk in, cards out. Every item comes out of constrained decoding.

    conversation = Conversation(Recommender.from_pretrained("runs/demo"))
    reply = conversation.say("coffee beans under 20, nothing from Everpan")
    [card.title for card in reply.cards], reply.note, reply.state

A turn is read (`chat.reading`: by rules, or by a language model) and makes a new state. The history becomes codes by
the model's next-item task, the wish by its text-to-codes task, both under the same filter; where there are both, the
two lists are joined by their ranks (reciprocal rank fusion, Cormack et al. 2009): score = sum of weight / (60 + rank),
rank from 1.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrec.data.sequences import Sequences
from genrec.decoding.vocabulary import spell
from genrec.inference.chat.catalog_words import unwanted_rows, words_of, words_of_catalog
from genrec.inference.chat.facts import answer, can_do
from genrec.inference.chat.phrases import FILLER
from genrec.inference.chat.prose import Facts, Prose, ProseError, TemplateProse, checked
from genrec.inference.chat.reading import Reader, Reading, merge_unwanted
from genrec.inference.chat.reasons import Reasons, format_value
from genrec.inference.chat.state import Card, ConversationState, Reply, as_values, say_conditions
from genrec.inference.chat.understanding import RulesReader
from genrec.inference.recommender import Recommender
from genrec.inference.text_search import whole_characters
from genrec.recommendations import Recommendations
from genrec.semtok.errors import InputError

__all__ = ["Card", "Conversation", "ConversationState", "Reply"]

DEPTH = 50  # items of each list that are joined
RANK_OFFSET = 60  # of the paper
# With this weight every item that the search found comes before those that only the history suggests.
WISH_WEIGHT = 2.0
NEIGHBOURS = 20
LONGEST_HISTORY = 200


class Conversation:
    """A conversation with one person about the items of one run.

    Args:
        recommender: the run; several conversations may share it.
        k: cards a turn.
        prose: who writes the sentences; None: templates over true attributes.
        reader: who reads the turns; None: rules.

    Attributes:
        state: the state after the last turn; another state may be put in its place.
    """

    def __init__(
        self, recommender: Recommender, *, k: int = 5, prose: Prose | None = None, reader: Reader | None = None
    ) -> None:
        if k < 1:
            raise InputError(f"k must be at least 1, not {k}")
        self.recommender, self.k = recommender, k
        self.state = ConversationState()
        self._catalog = recommender.catalog
        self._codes = recommender.semantic_ids.codes
        self._words = words_of_catalog(recommender.catalog)
        counted = recommender.ranker.cooccurrence
        transitions, counts = (None, None) if counted is None else (counted.transitions, counted.counts)
        self._reasons = Reasons(self._catalog, self._words, self._codes, transitions, counts)
        self._templates = TemplateProse()
        self._prose = prose or self._templates
        self._reader = reader or RulesReader(self._catalog)
        self._scores: dict[str, float] = {}

    def say(self, text: str) -> Reply:
        """Understand `text`, make the new state, and answer."""
        *_, reply = self.stream(text)
        assert isinstance(reply, Reply)
        return reply

    def stream(self, text: str) -> Iterator[str | Reply]:
        """`say`, with the text in pieces as it is written, and the reply at the end."""
        text = whole_characters(text)
        reading = self._reader.read(text, self.state)
        if reading.command == "reset" or reading.asks:
            reply = self.reset() if reading.command == "reset" else self._reply_in_words(reading)
        else:
            state = self._next_state(reading)
            notes = [*reading.notes, *self._still(reading, state)]
            more = reading.command == "more"
            if more or state != self.state or not state.shown:
                plain = "other items than those shown" if more else "nothing in particular: by the history alone"
                yield from self._answer(state, text, notes or [plain], self._prose)
                return
            told = "I understood nothing new in that, so the table stays as it is."
            reply = self._reply(told, "; ".join(notes) or "nothing new was understood")
        yield reply.text
        yield reply

    def like(self, item_id: str) -> Reply:
        """Put an item at the end of the history; raises InputError for an unknown one."""
        self._catalog.row(item_id)
        history = (*(item for item in self.state.history if item != item_id), item_id)[-LONGEST_HISTORY:]
        return self._act(replace(self.state, history=history), f"you like {self._title(item_id)}")

    def dislike(self, item_id: str) -> Reply:
        """Never show an item again; raises InputError for an unknown one."""
        self._catalog.row(item_id)
        refused = tuple(dict.fromkeys([*self.state.refused, item_id]))
        history = tuple(item for item in self.state.history if item != item_id)
        return self._act(replace(self.state, refused=refused, history=history), f"never again {self._title(item_id)}")

    def forget(self, item_id: str) -> Reply:
        """Take an item out of the history; raises InputError where it isn't in it."""
        if item_id not in self.state.history:
            raise InputError(f"{item_id!r} is not in the history")
        history = tuple(item for item in self.state.history if item != item_id)
        return self._act(replace(self.state, history=history), f"forgot {self._title(item_id)}")

    def set_where(self, where: Mapping[str, Any]) -> Reply:
        """Replace the conditions; raises InputError for an unknown attribute or a value of the wrong type."""
        self.recommender.filters(where)
        return self._act(
            replace(self.state, where=dict(where), passed=()), "conditions set" if where else "no conditions"
        )

    def put_back(self, name: str) -> Reply:
        """Keep a condition that was let go, and let go of others for it; raises InputError for another name."""
        if name not in self.state.relaxed:
            raise InputError(f"no condition on {name!r} was let go")
        where = {**self.state.where, name: self.state.relaxed[name]}
        state = replace(self.state, where=where, relaxed={}, passed=())
        return self._act(state, f"again {say_conditions({name: where[name]})}", keep=(name,))

    def set_history(self, item_ids: Sequence[str], keep: Sequence[str] = ()) -> Reply:
        """Replace the history, oldest first; raises InputError naming an unknown id.

        Args:
            keep: conditions that are not let go where nothing meets them all.
        """
        self._catalog.rows(item_ids)
        history = tuple(dict.fromkeys(item_ids))[-LONGEST_HISTORY:]
        return self._act(replace(self.state, history=history), f"a history of {len(history)}", keep)

    def restate(self, **changes: Any) -> Reply:
        """The answer to the state with some parts changed."""
        self.state = replace(self.state, **changes)
        return self.set_history(self.state.history)

    def allow(self, item_id: str) -> Reply:
        """Let an item that was refused be shown again."""
        return self.restate(refused=tuple(item for item in self.state.refused if item != item_id))

    def allow_value(self, name: str, value: str) -> Reply:
        """Let items with a value that was refused be shown again."""
        return self.restate(unwanted=merge_unwanted(self.state.unwanted, {}, {name: [value]}))

    def reset(self) -> Reply:
        """Begin again with an empty state and an empty table."""
        self.state, self._scores = ConversationState(), {}
        return Reply("All forgotten. What are you looking for?", "template", (), self.state, "a new conversation")

    def why(self, item_id: str) -> str:
        """Why an item is shown, in full."""
        return self._reasons.full(self._catalog.row(item_id), self.state)

    def neighbours(self, item_id: str, level: int) -> list[Card]:
        """Other items under the same first `level` codes, 20 at most; raises InputError for a level that isn't there.

        They come in catalogue order; withdrawn and refused items are left out.
        """
        if not 1 <= level <= self._codes.shape[1]:
            raise InputError(f"level {level}: 1 to {self._codes.shape[1]}")
        row = self._catalog.row(item_id)
        same = (self._codes[:, :level] == self._codes[row, :level]).all(axis=1) & ~self._catalog.withdrawn
        same[[row, *self._catalog.rows(self.state.refused)]] = False
        return [self.card(self._catalog.item_ids[other]) for other in np.flatnonzero(same)[:NEIGHBOURS]]

    def card(self, item_id: str) -> Card:
        """An item as a card, outside of any list; raises InputError for an unknown one."""
        return self._card(item_id, float("nan"))

    # A turn

    def _reply(self, told: str, note: str, table: tuple[tuple[str, ...], ...] = ()) -> Reply:
        """Words alone: the cards stay."""
        return Reply(told, "template", self._on_table(), self.state, note, table)

    def _reply_in_words(self, said: Reading) -> Reply:
        """Answer a question or a why, or say that nothing was understood: history, wish, conditions and cards stay."""
        if said.command == "why":
            told = "There is nothing on the table to explain."
            if said.why:
                told = f"Why {self._title(said.why)}?\n{self.why(said.why)}"
            return self._reply(told, "; ".join(said.notes) or "why")
        if said.question is None:
            told = f"I didn't understand that. {can_do(self._catalog, self._words)}"
            return self._reply(told, "; ".join([*said.notes, "nothing was changed"]))
        found = answer(said.question, self.state, self._catalog, self._words)
        if len(said.question.rows) == 1:
            self.state = replace(self.state, focus=self._catalog.item_ids[said.question.rows[0]])
        return self._reply(found.text, "; ".join([*said.notes, "a question; nothing was changed"]), found.table)

    def _next_state(self, said: Reading) -> ConversationState:
        """The state that a turn asks for, its table still the old one."""
        old = self.state
        unwanted = merge_unwanted(old.unwanted, said.unwanted, said.allowed)
        released = self._released(said)
        where = {
            name: condition
            for name, condition in {**old.where, **said.where}.items()
            if name not in said.lifted and name not in released
        }
        for name, values in unwanted.items():
            kept = [value for value in as_values(where.get(name)) if value not in values]
            if name in where and len(kept) < len(as_values(where[name])):
                where = {**where, name: tuple(kept)} if kept else {key: where[key] for key in where if key != name}
        history = [item for item in dict.fromkeys([*old.history, *said.liked]) if item not in said.refused]
        refused = tuple(item for item in dict.fromkeys([*old.refused, *said.refused]) if item not in said.liked)
        wish = old.wish
        if said.wish is None and self._names(wish, said.unwanted):
            wish = ""  # what was looked for is refused now
        elif said.wish is not None:
            wish = f"{old.wish} {said.wish}" if said.joins and old.wish else said.wish
        order = said.order or (old.order if said.wish is None or said.joins else None)
        changed = wish != old.wish or where != dict(old.where) or order != old.order
        passed = () if changed else old.passed
        if said.command == "more":
            passed = tuple(dict.fromkeys([*old.passed, *old.shown]))
        history = history[-LONGEST_HISTORY:]
        return replace(
            old, history=tuple(history), wish=wish, refused=refused, where=where, unwanted=unwanted, passed=passed,
            order=order, focus=said.liked[-1] if said.liked else old.focus, relaxed={},
        )  # fmt: skip

    def _released(self, said: Reading) -> list[str]:
        """Kinds and brands of earlier turns under which nothing has a word of the new wish, which then falls."""
        if said.wish is None or said.joins:
            return []
        wanted = [word for word in words_of(said.wish) if word not in FILLER]
        released = []
        for name, condition in self.state.where.items():
            if name in said.where or name not in (*self._words.kinds, *self._words.names):
                continue
            rows = np.logical_or.reduce(list(unwanted_rows(self._catalog, self._words, {name: as_values(condition)})))
            if not self._words.holds(rows, wanted):
                released.append(name)
                said.notes.append(f"no longer {name}: {' or '.join(map(str, as_values(condition)))}")
        return released

    def _names(self, wish: str, values: Mapping[str, Sequence[str]]) -> bool:
        """Whether the words of a wish name one of the values."""
        meanings = [meaning for match in self._words.matches(words_of(wish)) for meaning in match.meanings]
        return any(set(meaning.values) & set(values.get(meaning.attribute, ())) for meaning in meanings)

    def _still(self, said: Reading, state: ConversationState) -> list[str]:
        """Conditions of earlier turns that narrow a new wish."""
        if said.wish is None:
            return []
        kept = {name: condition for name, condition in state.where.items() if name not in said.where}
        return [f"still {say_conditions(kept)}"] if kept else []

    def _act(self, state: ConversationState, note: str, keep: Sequence[str] = ()) -> Reply:
        """The reply to a button or a command: cards anew, a template beside them."""
        *_, reply = self._answer(state, note, [note], self._templates, keep)
        assert isinstance(reply, Reply)
        return reply

    def _answer(
        self, state: ConversationState, asked: str, notes: list[str], prose: Prose, keep: Sequence[str] = ()
    ) -> Iterator[str | Reply]:
        """Find items for a state, write about them, and make it the conversation's.

        Args:
            keep: conditions that are not let go where nothing meets them all.
        """
        found = self._find(state)
        if not found:
            state, found = self._relaxed(state, notes, keep)
        state = replace(state, shown=tuple(item_id for item_id, _ in found))
        self.state, self._scores = state, dict(found)
        cards = self._on_table()
        titles = tuple(self._catalog.titles[self._catalog.row(item)] for item in state.history)
        facts = Facts(asked, cards, state, titles, self._words.price)
        pieces, speaker = [], prose.speaker
        for piece in self._written(facts, prose, notes):
            pieces.append(piece)
            yield piece
        if not pieces:
            speaker = self._templates.speaker
            for piece in self._templates.stream(facts):
                pieces.append(piece)
                yield piece
        yield Reply("".join(pieces), speaker, cards, state, "; ".join(notes))

    def _written(self, facts: Facts, prose: Prose, notes: list[str]) -> Iterator[str]:
        """What the writer says; nothing where it can't, or says nothing that is surely true."""
        if prose.speaker == "template":
            yield from prose.stream(facts)
            return
        if not facts.cards:
            return
        some = False
        try:
            for piece in checked(prose.stream(facts), facts, self._words):
                some = True
                yield piece
        except ProseError as error:
            notes.append(f"{error}; {'the text ends early' if some else 'a template speaks'}")
            return
        if not some:
            notes.append(f"what the {prose.speaker} wrote was not surely true; a template speaks")

    # Finding items

    def _find(self, state: ConversationState) -> list[tuple[str, float]]:
        """The k items of a state with their scores, best first."""
        allowed = self._allowed(state)
        gone = list(dict.fromkeys([*state.refused, *state.passed]))
        depth = DEPTH if state.order or (state.wish and state.history) else self.k
        lists: list[tuple[float, list[tuple[str, float]]]] = []
        if state.wish:
            deny = [*gone, *state.history]
            wished = self.recommender.search(
                state.wish, depth, where=state.where, items_to_recommend=allowed, deny=deny
            )
            lists.append((WISH_WEIGHT, wished.pairs()))
        if state.history or not state.wish:
            lists.append((1.0, self._from_history(state, depth, allowed, gone)))
        found = lists[0][1] if len(lists) == 1 else fuse(lists)
        return (found if state.order is None else self._sorted(found, *state.order))[: self.k]

    def _sorted(self, found: list[tuple[str, float]], name: str, descending: bool) -> list[tuple[str, float]]:
        """By a column, those without a value last; of equal ones the better first."""
        values = self._catalog.attributes[name].gather(self._catalog.rows([item_id for item_id, _ in found])).to_list()
        keys = [(value is None, 0 if value is None else -value if descending else value) for value in values]
        return [entry for _, entry in sorted(zip(keys, found, strict=True), key=lambda pair: pair[0])]

    def _relaxed(
        self, state: ConversationState, notes: list[str], keep: Sequence[str]
    ) -> tuple[ConversationState, list[tuple[str, float]]]:
        """Where nothing meets all conditions: the state without the fewest of them, and what it finds.

        What kind of item is looked for falls last, the brand before it, limits first.
        """
        names = [name for name in state.where if name not in keep]
        names.sort(key=lambda name: (name in self._words.kinds, name in self._words.names))
        for count in range(1, len(names) + 1):
            for dropped in combinations(names, count):
                kept = {name: condition for name, condition in state.where.items() if name not in dropped}
                relaxed = {name: state.where[name] for name in dropped}
                tried = replace(state, where=kept, relaxed=relaxed)
                found = self._find(tried)
                if found:
                    notes.append(f"nothing meets all of this, so without {say_conditions(relaxed)}")
                    return tried, found
        return state, []

    def _from_history(
        self, state: ConversationState, k: int, allowed: NDArray[np.bool_] | None, deny: Sequence[str]
    ) -> list[tuple[str, float]]:
        # "rerank" lets the dense head order what the beam retrieved, and propose nothing of its own.
        history = Sequences.from_lists([self._catalog.rows(state.history)])
        lists = self.recommender.recommend_rows(
            history, k=k, beams=max(k, self.recommender.ranker.config.beams), ranking="rerank",
            filter_viewed=True, where=state.where, items_to_recommend=allowed, denied=[self._catalog.rows(deny)],
        )  # fmt: skip
        return Recommendations.of(lists, self._catalog, [0], "history").pairs()

    def _allowed(self, state: ConversationState) -> NDArray[np.bool_] | None:
        """Rows without refused values, or None where nothing is refused."""
        if not state.unwanted:
            return None
        refused = unwanted_rows(self._catalog, self._words, state.unwanted)
        return ~reduce(np.logical_or, refused, np.zeros(len(self._catalog), dtype=np.bool_))

    # Cards

    def _on_table(self) -> tuple[Card, ...]:
        return tuple(self._card(item, self._scores.get(item, float("nan"))) for item in self.state.shown)

    def _card(self, item_id: str, score: float) -> Card:
        row = self._catalog.row(item_id)
        values = self._catalog.attributes.row(row, named=True) if self._catalog.attributes.width else {}
        shown = {name: format_value(value) for name, value in values.items() if value not in (None, "", [])}
        codes = "".join(spell(level, int(code)) for level, code in enumerate(self._codes[row]))
        return Card(item_id, self._catalog.titles[row], shown, self._reasons.short(row, self.state), codes, score)

    def _title(self, item_id: str) -> str:
        return self._reasons.title(self._catalog.row(item_id))


def fuse(lists: Sequence[tuple[float, Sequence[tuple[str, float]]]]) -> list[tuple[str, float]]:
    """Join ranked lists by reciprocal ranks: (item, sum of weight / (60 + rank)), best first; ties by first mention.

    Args:
        lists: a weight, and items with scores, best first; only their order counts.
    """
    score: dict[str, float] = defaultdict(float)
    for weight, ranked in lists:
        for rank, (item_id, _) in enumerate(ranked, start=1):
            score[item_id] += weight / (RANK_OFFSET + rank)
    return sorted(score.items(), key=lambda entry: -entry[1])
