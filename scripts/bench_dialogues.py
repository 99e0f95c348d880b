"""Which turns of written dialogues are understood: the share of acts, of conditions, and of turns altogether.

    python scripts/bench_dialogues.py RUN tests/dialogues/sample_shop.yaml [--reader rules|URL] [--part held_out]

Each dialogue is held with the run from an empty state, one turn after the other, so that a turn that is misread can
spoil those after it. A turn's act is right where the reading has it, and is no question where a change is meant or
the other way round; its conditions (wish, category, brand, price, order, cards liked and refused, nothing changed) are
right where all that the file names are so after the turn. "said so" counts turns that were not understood and where
the reply says it and nothing changed; the others that are wrong were misread. tests/dialogues/sample_shop.yaml tells
the keys of a turn.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from genrec.inference.chat.conversation import Conversation, ConversationState, Reply
from genrec.inference.chat.model_reader import reader_for
from genrec.inference.chat.reading import Act, Reader, Reading
from genrec.inference.recommender import Recommender
from genrec.semtok.errors import InputError
from genrec.semtok.folders import to_json, write_atomic

CHANGES: frozenset[Act] = frozenset({"wish", "refine", "refuse", "accept", "sort"})
QUICK = 10  # dialogues


@dataclass(frozen=True)
class Result:
    """How one turn went.

    Attributes:
        said: what was typed.
        wrong_act: the acts that were read, where they are not the meant one; "" where they are.
        wrong: conditions that are not as meant, each with what they are.
        conditions: how many of them the file names.
        said_so: whether it was not understood, and the reply says so.
        kept: whether history, wish, conditions and refusals are as before.
        asks: whether it was read as a question.
    """

    dialogue: str
    said: str
    wrong_act: str
    wrong: tuple[str, ...]
    conditions: int
    said_so: bool
    kept: bool
    asks: bool

    @property
    def understood(self) -> bool:
        """Whether act and conditions are right."""
        return not self.wrong_act and not self.wrong


def read_dialogues(path: Path, part: str = "all") -> list[dict[str, Any]]:
    """The dialogues of a file: all of them, those held out, or those that rules were written with."""
    dialogues: list[dict[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return [one for one in dialogues if part == "all" or one.get("held_out", False) == (part == "held_out")]


def hold(dialogues: Sequence[Mapping[str, Any]], recommender: Recommender, reader: Reader) -> Iterator[Result]:
    """Hold dialogues, each from an empty state, and judge every turn."""
    for dialogue in dialogues:
        heard = _Heard(reader)
        talk = Conversation(recommender, reader=heard)
        for turn in dialogue["turns"]:
            before = talk.state
            reply = talk.say(turn["say"])
            assert heard.last is not None
            yield _judge(dialogue["name"], turn, heard.last, before, reply)


class _Heard:
    """A reader that remembers its last reading."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.last: Reading | None = None

    def read(self, text: str, state: ConversationState) -> Reading:
        self.last = self._reader.read(text, state)
        return self.last


def _judge(name: str, turn: Mapping[str, Any], said: Reading, before: ConversationState, reply: Reply) -> Result:
    meant = turn["act"].split("|")
    acts = said.acts
    right = any(act in acts for act in meant) and (CHANGES.isdisjoint(acts) or not CHANGES.isdisjoint(meant))
    wrong, count = _conditions(turn, said, before, reply)
    kept = remembered(before) == remembered(reply.state)
    return Result(
        name, turn["say"], "" if right else ", ".join(acts), tuple(wrong), count, acts == ("unclear",), kept, said.asks
    )


def _conditions(
    turn: Mapping[str, Any], said: Reading, before: ConversationState, reply: Reply
) -> tuple[list[str], int]:
    """What is not as the turn means it, and how many things the turn names."""
    after = reply.state
    where = _plain(after.where)
    found: dict[str, Any] = {
        "kind": said.question.kind if said.question else None,
        "where": where,
        "order": list(after.order) if after.order else None,
        "liked": len(after.history),
        "refused": len(after.refused),
        "unwanted": _plain(after.unwanted),
        "keeps": remembered(before) == remembered(after),
        "has": {name: where.get(name) for name in turn.get("has", {})},
    }
    named = found.keys() & turn.keys()
    wrong = [f"{key}: {found[key]}" for key in sorted(named) if found[key] != turn[key]]
    if "wish" in turn and not re.search(turn["wish"] or r"^$", after.wish, re.IGNORECASE):
        wrong.append(f"wish: {after.wish!r}")
    if "says" in turn and not re.search(turn["says"], reply.text, re.IGNORECASE):
        wrong.append(f"says: {reply.text!r}")
    if len(reply.cards) < turn.get("cards", 0):
        wrong.append(f"{len(reply.cards)} cards")
    return wrong, len(named) + len({"wish", "says", "cards"} & turn.keys())


def remembered(state: ConversationState) -> tuple[Any, ...]:
    """What a question must not change."""
    return state.history, state.wish, dict(state.where), dict(state.unwanted), state.refused, state.order


def _plain(conditions: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in conditions.items()}


def figures(results: Sequence[Result]) -> dict[str, float]:
    """Shares over turns: acts, conditions (of those named), turns, and those that said that they understood nothing."""
    turns, conditions = len(results), sum(result.conditions for result in results)
    return {
        "turns": turns,
        "acts": sum(not result.wrong_act for result in results) / turns,
        "conditions": 1 - sum(len(result.wrong) for result in results) / max(1, conditions),
        "understood": sum(result.understood for result in results) / turns,
        "said_so": sum(result.said_so and not result.understood for result in results) / turns,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--reader", default="rules", help="rules, or the address of an OpenAI-compatible server")
    parser.add_argument("--part", choices=["all", "tuned", "held_out"], default="all")
    parser.add_argument("--quick", action="store_true", help=f"the first {QUICK} dialogues")
    parser.add_argument("--wrong", action="store_true", help="print the turns that were not understood")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    recommender = Recommender.from_pretrained(arguments.run)
    reader = reader_for(arguments.reader, recommender.catalog)
    dialogues = read_dialogues(arguments.file, arguments.part)[: QUICK if arguments.quick else None]
    results = list(hold(dialogues, recommender, reader))
    if not results:
        raise InputError(f"{arguments.file}: no dialogue of the part {arguments.part!r}")
    if arguments.wrong:
        for result in results:
            if not result.understood:
                acts = [f"acts: {result.wrong_act}"] if result.wrong_act else []
                print(f"{result.dialogue} | {result.said} | {'; '.join([*acts, *result.wrong])}")
        print()
    shares = figures(results)
    print(
        f"{arguments.file.name}, {arguments.part}: {len(dialogues)} dialogues, {len(results)} turns; {arguments.reader}"
    )
    print(f"{'acts':>8}{'conditions':>12}{'understood':>12}{'said so':>9}")
    print(f"{shares['acts']:>8.3f}{shares['conditions']:>12.3f}{shares['understood']:>12.3f}{shares['said_so']:>9.3f}")
    if arguments.json:
        conditions = {
            "run": arguments.run.name, "items": len(recommender.catalog), "file": arguments.file.name,
            "part": arguments.part, "dialogues": len(dialogues), "reader": arguments.reader,
        }  # fmt: skip
        write_atomic(arguments.json, to_json({"figures": shares, "conditions": conditions}))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"bench_dialogues: {error}")
