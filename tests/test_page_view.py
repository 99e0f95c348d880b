"""What the chat page shows and takes, without a browser: JSON of cards, filters and the trie, sessions, refusals."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from fastapi.testclient import TestClient
from worlds.ring_recommender import shop

from genrec.cli.main import main
from genrec.decoding.vocabulary import spell
from genrec.inference.chat import page_sessions
from genrec.inference.chat.catalog_words import words_of_catalog
from genrec.inference.chat.config import ChatConfig
from genrec.inference.chat.conversation import Card, Conversation, Reply
from genrec.inference.chat.page import _named, create_page_app, serve_page
from genrec.inference.chat.page_guard import policy
from genrec.inference.chat.page_sessions import KEPT_SECONDS, Send, Sessions, Turns
from genrec.inference.chat.page_view import _Cards, _turn, details_view, picture_origins, session_view, shop_view
from genrec.inference.chat.session import (
    ChatSession,
    ChoiceField,
    RangeField,
    Turn,
    choice_of,
    filter_fields,
    range_of,
    where_from_form,
)
from genrec.inference.chat.starters import follow_ups, starters
from genrec.inference.chat.understanding import RulesReader
from genrec.inference.recommender import Recommender
from genrec.inference.serve.problem import Problem
from genrec.semtok.catalog import Catalog
from genrec.semtok.errors import InputError, OptionError

PIXEL = "data:image/png;base64,iVBORw0KGgo="


def table(**columns: Any) -> Catalog:
    n = len(next(iter(columns.values())))
    frame = pl.DataFrame(columns)
    return Catalog(
        tuple(map(str, range(n))), tuple(f"Item {row}" for row in range(n)), frame, np.zeros(n, dtype=np.bool_)
    )


def drawn(catalog: Catalog, row: int = 0, *, images: bool = False, **attributes: str) -> dict[str, Any]:
    card = Card(str(row), catalog.titles[row], attributes, "goes with tea", "<a_1><b_2>", -1.25)
    return _Cards(catalog, images=images).card(card, "demo")


# Cards


def test_a_card_has_its_price_apart_and_a_line_of_short_facts() -> None:
    catalog = table(
        price=[4.5, 6.0], brand=["X & Y", "Z"], categories=[["Kitchen", "Mugs"], ["Kitchen"]],
        year=[1995, 1996], description=["w" * 61, "x" * 61],
    )  # fmt: skip
    card = drawn(catalog, price="4.50", brand="X & Y", categories="Kitchen, Mugs", year="1995", description="w" * 61)
    assert (card["price"], card["line"], card["kind"]) == ("4.50", "X & Y · Kitchen, Mugs · 1995", "Mugs")
    assert (card["reason"], card["codes"], card["score"]) == ("goes with tea", "<a_1><b_2>", -1.25)
    genres = table(genres=[["Action", "Adventure", "Animation", "Children", "Comedy", "IMAX"], ["Coffee & Tea", "Tea"]])
    listed = [drawn(genres, row, genres="…") for row in (0, 1)]
    assert [card["line"] for card in listed] == ["Action, Adventure, Animation", "Coffee & Tea, Tea"]  # as many as fit
    assert [card["kind"] for card in listed] == [", ".join(genres.attributes["genres"][0]), "Tea"]  # drawn by that
    nothing = drawn(table(weight=[1.5]))
    assert (nothing["price"], nothing["line"], nothing["image"]) == ("", "", "")


@pytest.mark.parametrize(
    ("columns", "attributes", "price"),
    [
        ({"price": [4.5]}, {"price": "4.50"}, "4.50"),  # no currency is made up
        ({"price": [4.5], "currency": ["NOK"]}, {"price": "4.50", "currency": "NOK"}, "4.50 NOK"),
        ({"price_eur": [4.5]}, {"price_eur": "4.50"}, "4.50 EUR"),
        ({"price_each": [4.5]}, {"price_each": "4.50"}, "4.50"),
    ],
)
def test_a_currency_stands_only_where_the_data_has_one(
    columns: dict[str, Any], attributes: dict[str, str], price: str
) -> None:
    assert drawn(table(**columns), **attributes)["price"] == price


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("https://img.example/1.jpg", True), (PIXEL, True), ("http://img.example/1.jpg", False), ("x.jpg", False),
        ("javascript:alert(1)", False), ("data:text/html;base64,AAAA", False), (None, False),
        ("https://img.example/1.jpg\n", False),
    ],
)  # fmt: skip
def test_pictures_are_shown_where_that_was_asked_for(value: str | None, shown: bool) -> None:
    catalog = table(image_url=[value, "https://img.example/2.jpg"])
    assert drawn(catalog, images=True)["image"] == (value if shown else "")
    assert drawn(catalog, images=False)["image"] == ""
    assert "image_url" not in drawn(catalog, images=True, image_url="https://i/1.jpg")["line"]
    assert words_of_catalog(catalog).columns == ()  # an address is no fact to compare


def test_the_policy_names_the_sites_of_the_pictures_alone() -> None:
    urls = [
        "https://b.example/1.jpg",
        "https://a.example:8443/x",
        "http://c.example/y",
        "https://e;script-src *;/z",
        PIXEL,
    ]
    assert picture_origins(table(image=[[url] for url in urls])) == ["https://a.example:8443", "https://b.example"]
    assert picture_origins(table(picture=["x"])) == []
    assert picture_origins(table(colour=["https://b.example/1.jpg"])) == []
    assert "img-src 'self' data:;" in policy()
    assert "img-src 'self' data: https://b.example;" in policy(["https://b.example"])
    for wide in ("unsafe-inline", "unsafe-eval", "*"):
        assert wide not in policy()


@pytest.mark.parametrize("speaker", ["model", "server", "template"])
def test_who_wrote_an_answer_is_said_of_models_alone(speaker: Any) -> None:
    assert _turn(Turn("answer", "words", speaker))["by"] == (None if speaker == "template" else speaker)


# Filters


def test_filters_are_offered_for_numbers_and_for_words_that_repeat() -> None:
    items = shop(12)
    named = items.attributes.with_columns(asin=pl.Series([f"B{row}" for row in range(12)]), one=pl.lit("x"))
    catalog = Catalog(items.item_ids, items.titles, named, np.zeros(12, dtype=np.bool_))
    assert filter_fields(catalog) == (
        RangeField("price", 0.0, 11.0),
        ChoiceField("colour", {"blue": 6, "red": 6}),
        ChoiceField("tags", {"new": 3, "old": 9, "sale": 9}),
    )
    counted = Catalog(items.item_ids, items.titles, pl.DataFrame({"count": ["40", "20"] * 6}), items.withdrawn)
    assert filter_fields(counted) == (ChoiceField("count", {"20": 6, "40": 6}),)
    assert filter_fields(Catalog(("1",), ("t",), pl.DataFrame(), np.zeros(1, dtype=np.bool_))) == ()


@pytest.mark.parametrize(
    ("form", "where", "expected"),
    [
        ({}, {}, {}),
        ({"high:price": "5"}, {}, {"price": (None, 5.0)}),
        ({"low:price": " 1.5 ", "high:price": "5"}, {"price": (None, 5)}, {"price": (1.5, 5.0)}),
        ({}, {"price": (None, 5)}, {}),
        ({"is:colour": "red"}, {"made_in": "x"}, {"colour": "red", "made_in": "x"}),
        ({"is:colour": "red"}, {"colour": "blue"}, {"colour": "red"}),
        (
            {"is:tags": "new, old"},
            {"tags": ("old", "new")},
            {"tags": ("old", "new")},
        ),  # several values, left as they were
        ({"low:price": "3", "high:price": "3"}, {"price": 3}, {"price": 3}),
    ],
)
def test_the_form_changes_what_its_controls_say(
    form: Mapping[str, str], where: Mapping[str, Any], expected: Mapping[str, Any]
) -> None:
    assert where_from_form(shop(), form, where) == expected


@pytest.mark.parametrize(
    ("form", "words"), [({"high:price": "cheap"}, "price: 'cheap' is not a number"), ({"is:colour": "pink"}, "colour")]
)
def test_a_form_that_no_control_can_send_is_refused(form: Mapping[str, str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        where_from_form(shop(), form, {})


def test_conditions_as_controls_show_them() -> None:
    assert [range_of(one) for one in (None, (None, 5), (1, 2), 3)] == [(None, None), (None, 5), (1, 2), (3, 3)]
    assert [choice_of(one) for one in (None, "a", ("b", "a"), ["a"])] == ["", "a", "a, b", "a"]


# Sessions over a small run


@pytest.fixture(scope="module")
def recommender(tiny_run: Path) -> Recommender:
    return Recommender.from_pretrained(tiny_run, device="cpu")


@pytest.fixture
def session(recommender: Recommender) -> ChatSession:
    return ChatSession({"run": Conversation(recommender, k=4)})


def done(session: ChatSession, **request: str) -> dict[str, Any]:
    list(session.act(request))
    return session_view(session)


def test_a_limit_that_nobody_touches_stays_as_it_is(session: ChatSession) -> None:
    """What a control shows of a limit comes back with the form when another control is changed."""
    category = session.catalog.attributes["categories"][0][0]
    for condition in ((None, 12345.67), (0.00001, 1_250_000.0), (1 / 3, 1e22), (5, 20), 12345.67):
        session.lead.state = replace(session.state, where={"price": condition})
        ends = json.loads(json.dumps(session_view(session)["where"]["price"]))
        form = {f"{end}:price": "" if value is None else repr(value) for end, value in ends.items()}
        new = where_from_form(session.catalog, {**form, "is:categories": category}, session.state.where)
        assert new == {"price": condition, "categories": category}


def test_all_that_is_known_can_be_taken_back(session: ChatSession) -> None:
    first, second, *_ = (card["id"] for card in session_view(session)["columns"][0]["cards"])
    done(session, act="like", item=first)
    done(session, act="dislike", item=second)
    brand = session.catalog.attributes["brand"][0]
    done(session, act="say", text=f"a mug under 40, nothing from {brand}")
    view = session_view(session)
    assert [chip["text"] for chip in view["known"]["having"]] == [session.title(first)]
    assert {chip["text"] for chip in view["known"]["refused"]} == {session.title(second), f"brand: {brand}"}
    assert {chip["name"] for chip in view["known"]["where"]} >= {"price"}
    for _ in range(8):
        chips = [chip for listed in session_view(session)["known"].values() for chip in listed]
        if not chips:
            break
        done(session, **{name: value for name, value in chips[0].items() if name not in ("text", "about")})
        assert session.turns[-1].who == "answer", session.turns[-1].text
    state = session.state
    assert (state.history, state.wish, state.refused, dict(state.where), dict(state.unwanted)) == ((), "", (), {}, {})


def test_what_was_left_out_can_be_kept(session: ChatSession) -> None:
    view = done(session, act="say", text="anything under 0.01")
    (chip,) = view["known"]["relaxed"]
    assert chip["text"] == "price up to 0.01"
    view = done(session, act=chip["act"], name=chip["name"])
    assert view["columns"][0]["cards"] == []
    labels = [way["label"] for way in view["columns"][0]["empty"]]
    assert labels == ["Without price up to 0.01", "Start again"]
    way = view["columns"][0]["empty"][0]
    assert done(session, act=way["act"], name=way["name"])["columns"][0]["cards"]


def test_the_other_run_keeps_what_the_first_one_keeps(recommender: Recommender) -> None:
    two = ChatSession({name: Conversation(recommender, k=4) for name in ("a", "b")})
    done(two, act="say", text="anything under 0.01")
    view = done(two, act="put_back", name="price")
    assert [column["cards"] for column in view["columns"]] == [[], []]


def test_an_empty_table_offers_ways_out_of_everything(session: ChatSession) -> None:
    for _ in range(20):
        view = done(session, act="say", text="something else")
        if not view["columns"][0]["cards"]:
            break
    ways = view["columns"][0]["empty"]
    assert [way["act"] for way in ways] == ["again", "reset"]
    assert done(session, act="again")["columns"][0]["cards"]


def test_what_can_be_pressed_is_understood(session: ChatSession, recommender: Recommender) -> None:
    said = starters(session.lead)
    assert len(said) == 4
    assert re.search(r" under \d+$", said[0])
    assert follow_ups(session.lead) == []  # nothing was asked for yet
    for text in said[:-1]:
        assert done(session, act="say", text=text)["columns"][0]["cards"]
        assert session.state.wish or session.state.where or session.state.order
    before = session.state
    for text in follow_ups(session.lead):
        assert RulesReader(session.catalog).read(text, before).command != "unclear", text
    view = done(session, act="say", text="compare the first two")
    heading, *rows = view["turns"][-1]["table"]
    assert len(heading) == 3
    assert rows


def test_details_draw_the_trie_around_an_item(session: ChatSession, recommender: Recommender) -> None:
    ids = recommender.semantic_ids
    item = session_view(session)["columns"][0]["cards"][1]["id"]
    own = ids.codes[recommender.catalog.row(item)]
    found = details_view(session, "run", item, 1, images=False)
    for depth, level in enumerate(found["levels"]):
        below = ids.codes[(ids.codes[:, :depth] == own[:depth]).all(axis=1)]
        expected = {spell(depth, int(code)): int((below[:, depth] == code).sum()) for code in below[:, depth]}
        told = {branch["code"]: branch["items"] for branch in level["codes"]}
        assert told.items() <= expected.items()
        assert len(told) + level["before"] + level["after"] == len(expected)
        assert [branch["code"] for branch in level["codes"] if branch["own"]] == [spell(depth, int(own[depth]))]
    others = (ids.codes[:, 0] == own[0]).sum() - 1
    assert len(found["neighbours"]) == min(others, 20)
    assert item not in found["codes"]
    assert found["told"] == session.lead.why(item)
    assert details_view(session, "run", item, None, images=False)["level"] == len(own) - 1


def test_details_hide_no_fact(session: ChatSession) -> None:
    card = session.replies["run"].cards[0]
    found = details_view(session, "run", card.item_id, None, images=False)
    assert dict(found["facts"]) | {"price": found["price"]} == card.attributes


def test_a_session_refuses_what_is_out_of_bounds(session: ChatSession) -> None:
    item = session.replies["run"].cards[0].item_id
    for request, words in (
        ({}, "the page cannot ''"),
        ({"act": "say", "text": "x" * 2001}, "2,001 characters; at most 2,000"),
        ({"act": "like", "item": "nope"}, "no item 'nope'"),
        ({"act": "view", "run": "other"}, "no run 'other'"),
        ({"act": "forget", "item": item}, "not in the history"),
    ):
        list(session.act(request))
        assert session.turns[-1].who == "problem"
        assert words in session.turns[-1].text
    for arguments, words in (
        (("other", item, None), "no run"),
        (("run", "nope", None), "no item"),
        (("run", item, 9), "level 9"),
    ):
        with pytest.raises(InputError, match=words):
            details_view(session, *arguments, images=False)
    list(session.act({"act": "say", "text": "\ud83d mug"}))  # half a character, as JSON can send it
    assert session.writing is None
    assert [line.text for line in session.turns if line.who == "you"] == ["? mug"]
    list(session.act({"act": "reset"}))
    list(session.act({"act": "dislike", "item": item}))
    list(session.act({"act": "add", "item": item}))  # to like what was refused takes the refusal back
    assert session.state.refused == ()
    assert session.state.history == (item,)


def test_sessions_end_an_hour_after_they_were_used(session: ChatSession, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    sessions = Sessions(lambda: session, clock=lambda: now)
    name, opened = sessions.open("a guess")
    assert opened is session
    assert name != "a guess"
    assert sessions.get("a guess") is None
    now += KEPT_SECONDS - 1
    assert sessions.open(name) == (name, session)
    now += KEPT_SECONDS - 1
    other, _ = sessions.open("")
    assert sessions.get(name) is session
    now += KEPT_SECONDS + 1
    assert [sessions.get(kept) for kept in (name, other)] == [None, None]
    monkeypatch.setattr(page_sessions, "MOST_SESSIONS", 2)
    names = [sessions.open("")[0] for _ in range(3)]
    assert [sessions.get(kept) is not None for kept in names] == [False, True, True]


# The application


@pytest.fixture
def app(recommender: Recommender) -> Iterator[TestClient]:
    with TestClient(
        create_page_app({"demo": partial(Conversation, recommender, k=4)}), "http://shop.example"
    ) as client:
        yield client


@pytest.fixture
def closed() -> Iterator[TestClient]:
    """The page without a run: nothing in these tests gets as far as a conversation."""

    def begin() -> Conversation:
        raise AssertionError("a conversation was begun")

    with TestClient(create_page_app({"demo": begin}), base_url="http://shop.example") as client:
        yield client


ACT = {"act": "say", "text": "a mug"}


def refused(answer: Any, status: int, kind: str) -> None:
    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:genrec:{kind}")
    assert "default-src 'none'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}])
@pytest.mark.parametrize("path", ["/api/act", "/api/details", "/api/titles"])
def test_requests_of_other_sites_are_refused(closed: TestClient, path: str, headers: dict[str, str]) -> None:
    refused(closed.post(path, json=ACT, headers=headers), 403, "foreign-origin")
    refused(closed.post(path, json=ACT, headers={"Origin": "null"}), 403, "foreign-origin")


@pytest.mark.parametrize("body", ["[]", '{"act": 1}', '{"act": null}', '{"act": {"x": "y"}}', "7", '"say"'])
def test_a_body_that_the_page_does_not_send_is_refused(closed: TestClient, body: str) -> None:
    for path in ("/api/act", "/api/details", "/api/titles"):
        refused(closed.post(path, content=body), 422, "invalid")
        refused(closed.post(path, content="{"), 400, "bad-request")


def test_files_and_routes_that_the_page_does_not_have_are_refused(closed: TestClient) -> None:
    for path in ("/upload", "/api/run", "/docs", "/openapi.json", "/x"):
        refused(closed.post(path, json=ACT), 404, "unknown-path")
    for path in ("/page.py", "/../page.py", "/%2e%2e/page.py", "/static/page.js", "/api/", "/docs", "/openapi.json"):
        refused(closed.get(path), 404, "unknown-path")
    refused(closed.get("/api/act"), 405, "wrong-method")
    refused(closed.delete("/"), 405, "wrong-method")


def test_a_large_body_is_refused(closed: TestClient) -> None:
    refused(closed.post("/api/act", json=ACT | {"text": "x" * 70_000}), 413, "body-too-large")
    refused(closed.post("/api/act", content=(b"x" * 1000 for _ in range(1000))), 413, "body-too-large")


def test_what_the_page_is_made_of(closed: TestClient) -> None:
    page = closed.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert re.findall(r'(?:href|src)="(?!data:)([^"]*)"', page.text) == ["page.css", "page.js"]
    assert not re.search(r"<style|\son\w+=|\sstyle=|<script(?![^>]*src=)", page.text)  # the policy would refuse them
    assert closed.get("/page.css").headers["content-type"].startswith("text/css")
    assert closed.get("/page.js").headers["content-type"].startswith("text/javascript")


def test_no_word_becomes_markup() -> None:
    script = (Path(create_page_app.__code__.co_filename).parent / "page.js").read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|eval\(|Function\(", script)


def lines(answer: Any) -> list[dict[str, Any]]:
    assert answer.status_code == 200
    return [json.loads(line) for line in answer.text.splitlines()]


def test_an_act_streams_and_ends_with_the_page(app: TestClient) -> None:
    assert app.get("/api/shop").json()["runs"] == ["demo"]
    same = {"Origin": "http://shop.example", "Sec-Fetch-Site": "same-origin"}
    opened, page = lines(app.post("/api/act", json={"act": "open"}, headers=same))
    assert [turn["who"] for turn in page["page"]["turns"]] == ["answer"]
    name = {"X-Conversation": opened["conversation"]}
    first, *writing, last = lines(app.post("/api/act", json=ACT, headers=name))
    assert first == opened
    assert writing[0] == {"writing": ""}
    texts = [line["writing"] for line in writing]
    assert all(after.startswith(before) for before, after in pairwise(texts))
    assert last["page"]["turns"][-1]["text"] == texts[-1]
    assert [turn["who"] for turn in last["page"]["turns"]] == ["answer", "you", "answer"]
    card = last["page"]["columns"][0]["cards"][0]
    details = app.post("/api/details", json={"run": "demo", "item": card["id"], "level": "1"}, headers=name)
    assert details.json()["title"] == card["title"]
    word = card["title"].split()[0]
    found = app.post("/api/titles", json={"text": word}, headers=name).json()
    assert found
    assert all(word.casefold() in item["title"].casefold() for item in found)


def test_a_conversation_that_is_not_known(app: TestClient) -> None:
    forged = {"X-Conversation": "x" * 32}
    refused(app.post("/api/details", json={"item": "1"}, headers=forged), 409, "no-conversation")
    refused(app.post("/api/titles", json={"text": "mug"}), 409, "no-conversation")
    first, *_ = lines(app.post("/api/act", json={"act": "open"}, headers=forged))
    assert first["conversation"] != forged["X-Conversation"]
    name = {"X-Conversation": first["conversation"]}
    for asked, words in (({"level": "x"}, "level: 'x'"), ({"level": "99"}, "level 99"), ({"item": "nope"}, "no item")):
        item = app.get("/api/shop") and lines(app.post("/api/act", json={"act": "open"}, headers=name))[1]
        body = {"item": item["page"]["columns"][0]["cards"][0]["id"], **asked}
        answer = app.post("/api/details", json=body, headers=name)
        refused(answer, 422, "invalid")
        assert words in answer.json()["detail"]


def test_conversations_are_apart(app: TestClient) -> None:
    names = [lines(app.post("/api/act", json={"act": "open"}))[0]["conversation"] for _ in range(2)]
    assert names[0] != names[1]
    lines(app.post("/api/act", json=ACT, headers={"X-Conversation": names[0]}))
    *_, other = lines(app.post("/api/act", json={"act": "open"}, headers={"X-Conversation": names[1]}))
    assert len(other["page"]["turns"]) == 1
    assert other["page"]["known"]["wish"] == []


def test_turns_are_taken_in_order_whether_or_not_somebody_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_sessions, "MOST_WAITING", 2)
    gate, taken = threading.Event(), []

    def work(number: int, send: Send) -> None:
        send(b"%d begins" % number)
        if number == 1:
            assert gate.wait(60)
        taken.append(number)
        send(b"%d ends" % number)

    async def ask() -> list[bytes]:
        turns = Turns()
        first, second = (turns.stream(partial(work, number)) for number in (1, 2))
        assert await anext(first) == b"1 begins"
        with pytest.raises(Problem, match="too many turns"):
            turns.stream(partial(work, 3))
        assert taken == []
        await first.aclose()  # the browser has gone
        gate.set()
        lines = [line async for line in second]
        lines += [line async for line in turns.stream(partial(work, 4))]
        turns.close()
        return lines

    assert asyncio.run(ask()) == [b"2 begins", b"2 ends", b"4 begins", b"4 ends"]
    assert taken == [1, 2, 4]


def test_a_turn_that_fails_is_said(recommender: Recommender, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Conversation):
        def stream(self, text: str) -> Iterator[str | Reply]:
            raise RuntimeError("secret")
            yield

    with TestClient(create_page_app({"demo": partial(Broken, recommender)}), "http://shop.example") as client:
        *_, last = lines(client.post("/api/act", json=ACT))
    assert last == {"failed": "The server failed; its log says why."}
    assert "secret" in caplog.text


# Runs


def test_shop_of_two_runs(recommender: Recommender) -> None:
    found = shop_view({"a": Conversation(recommender), "b": Conversation(recommender)})
    assert (found["runs"], found["items"]) == (["a", "b"], len(recommender.catalog))
    assert [field["name"] for field in found["fields"]] == [one.name for one in filter_fields(recommender.catalog)]


def test_runs_go_by_their_folders_names_where_those_differ() -> None:
    assert _named([Path("a/run"), Path("b/other")]) == {"run": Path("a/run"), "other": Path("b/other")}
    assert list(_named([Path("a/run"), Path("b/run")])) == ["a/run", "b/run"]


def test_runs_with_other_items_are_not_compared(tiny_run: Path, tmp_path: Path) -> None:
    other = tmp_path / "run"
    shutil.copytree(tiny_run, other)
    new = tmp_path / "new.jsonl"
    new.write_text(json.dumps({"item_id": "new", "title": "A new mug"}) + "\n")
    assert main(["add-items", str(other), str(new)]) == 0
    with pytest.raises(InputError, match=r"--compare: .* do not have the same items"):
        serve_page(ChatConfig(tiny_run, web=True, compare=other))


def test_pictures_need_the_page(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--web"):
        ChatConfig(tmp_path, images=True)
