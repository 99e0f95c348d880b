"""The chat page: its parts as HTML, and the whole of it in headless Chromium over two small runs of the sample shop."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import polars as pl
import pytest
from fastapi.testclient import TestClient
from worlds.ring_recommender import shop
from worlds.small_shop import SMALL, write_shop

pytest.importorskip("gradio")  # the environment with vLLM has no page

from genrec.cli.main import main
from genrec.decoding.vocabulary import spell
from genrec.inference.chat import page_parts as parts
from genrec.inference.chat.config import ChatConfig
from genrec.inference.chat.conversation import Card, Conversation
from genrec.inference.chat.page import _named, build_page, create_page_app, serve_page
from genrec.inference.chat.session import (
    ChatSession,
    ChoiceField,
    RangeField,
    Turn,
    Unfolded,
    choice_of,
    filter_fields,
    range_of,
    where_from_form,
)
from genrec.inference.recommender import Recommender
from genrec.semtok.catalog import Catalog
from genrec.semtok.errors import InputError
from genrec.semtok.semantic_ids import SemanticIds

EVIL = "<script>window.hit = 1</script><img src=x onerror='window.hit = 2'>"
CARD = Card("7", "A mug", {"brand": "X & Y", "price": "4.50"}, "goes with tea", "<a_1><b_2><c_3>", -1.25)


class Tags(HTMLParser):
    """Names of the tags of a text, and its words without them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.words = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)

    def handle_data(self, data: str) -> None:
        self.words += data


def test_a_card_shows_title_attributes_reason_and_named_buttons() -> None:
    html = parts.card(CARD, "card-0-1", 1, "demo")
    assert all(words in Tags(html).words for words in ("A mug", "brandX & Y", "price4.50", "goes with tea"))
    assert re.findall(r'data-act="(\w+)" data-item="7" data-run="demo" aria-label="(\w+): A mug"', html) == [
        ("like", "Like"), ("dislike", "Dislike"), ("why", "Why"), ("codes", "Codes"),
    ]  # fmt: skip


def test_codes_offer_each_prefix_and_list_the_neighbours() -> None:
    other = Card("8", "Another mug", {}, "", "<a_1><b_2><c_9>", float("nan"))
    html = parts.card(CARD, "card-0-1", 1, "demo", Unfolded("codes", level=2, neighbours=(other,)))
    assert re.findall(r'data-level="(\d)" aria-label="[^"]*" aria-pressed="(\w+)"', html) == [
        ("1", "true"),
        ("2", "true"),
    ]
    assert "Others under <a_1><b_2>" in Tags(html).words
    assert "Another mug <a_1><b_2><c_9>" in Tags(html).words
    alone = parts.card(CARD, "card-0-1", 1, "demo", Unfolded("codes", level=1))
    assert "No other item under <a_1>" in Tags(alone).words


def test_words_of_others_never_become_tags() -> None:
    evil = Card(EVIL, EVIL, {EVIL: EVIL, "long": EVIL * 3}, EVIL, EVIL, 0.0)
    harmless = Card("7", "t", {"n": "w" * 61, "long": "w" * 200}, "r", "<a_1><b_2>", 0.0)
    for unfolded in (None, Unfolded("why", EVIL)):
        html = parts.card(evil, "card-0-1", 1, EVIL, unfolded, [EVIL])
        assert Tags(html).names == Tags(parts.card(harmless, "card-0-1", 1, "demo", unfolded, ["e"])).names
        assert EVIL in Tags(html).words
    codes = parts.card(evil, "card-0-1", 1, EVIL, Unfolded("codes", level=1, neighbours=(evil,)))
    assert not {"script", "img"} & set(Tags(codes).names)
    for who in ("you", "did", "answer", "problem"):
        line = Turn(who, EVIL, "model", EVIL, (("", EVIL), (EVIL, EVIL)))
        assert Tags(parts.turn(line)).names == [
            "li", "p", "span", "p", "div", "table", "thead", "tr", "th", "th", "tbody", "tr", "th", "td", "p"
        ]  # fmt: skip
        assert Tags(parts.turn(line)).words.count(EVIL) == 5


@pytest.mark.parametrize("speaker", ["model", "server"])
def test_who_spoke_is_said_of_models(speaker: Any) -> None:
    assert parts.SPEAKERS[speaker] in Tags(parts.turn(Turn("answer", "words", speaker))).words
    assert "speaker" not in parts.turn(Turn("answer", "words", "template"))


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


def test_a_limit_that_nobody_touches_stays_as_it_is() -> None:
    """What a control shows of a limit comes back with the form when another control is changed."""
    attributes = pl.DataFrame({"price": [0.00001, 12345.67, 1_250_000.0], "colour": ["red", "red", "blue"]})
    catalog = Catalog(("a", "b", "c"), ("One", "Two", "Three"), attributes, np.zeros(3, dtype=np.bool_))
    field = filter_fields(catalog)[0]
    assert isinstance(field, RangeField)
    for condition in ((None, 12345.67), (0.00001, 1_250_000.0), (1 / 3, 1e22), (5, 20), 12345.67):
        html = parts._range(field, condition)
        assert re.findall('placeholder="([^"]*)"', html) == ["0.00001", "1250000"]
        form = dict(re.findall(r'name="(\w+:\w+)"[^>]*data-value="([^"]*)"', html))
        new = where_from_form(catalog, {**form, "is:colour": "red"}, {"price": condition})
        assert new == {"price": condition, "colour": "red"}


def test_conditions_as_controls_show_them() -> None:
    assert [range_of(one) for one in (None, (None, 5), (1, 2), 3)] == [(None, None), (None, 5), (1, 2), (3, 3)]
    assert [choice_of(one) for one in (None, "a", ("b", "a"), ["a"])] == ["", "a", "a, b", "a"]


# The page in a browser


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs over one shop, an item of which has a title that is a program; the second run's model learned less."""
    config = write_shop(tmp_path_factory.mktemp("shop"))
    items = config.parent / "items.jsonl"
    rows = [json.loads(line) for line in items.read_text().splitlines()]
    rows[0]["title"] += EVIL
    items.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["fit", str(config), *SMALL]) == 0
    first, second = config.parent / "run", config.parent / "less"
    shutil.copytree(first, second)
    assert main(["fit", str(config), *SMALL, f"--run={second}", "--lm.epochs=1"]) == 0
    return first, second


@dataclass(frozen=True)
class Served:
    """The page as its own process serves it."""

    address: str
    browser: Any

    def open(self, *, width: int = 1280, height: int = 900, run: str | None = "run") -> Any:
        """A new browser session, looking at one run (None: at both), that has failed if the page has an error."""
        page = self.browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(60_000)
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("dialog", lambda dialog: (page.errors.append(dialog.message), dialog.dismiss()))
        page.goto(self.address)
        page.wait_for_selector(".card")
        if run is not None:
            page.get_by_role("button", name=run, exact=True).click()
            page.wait_for_selector('.columns[data-columns="1"]')
        return page


@pytest.fixture(scope="module")
def served(runs: tuple[Path, Path]) -> Iterator[Served]:
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on the path (apt-get install chromium)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = (
        "import sys; from pathlib import Path; from genrec.inference.chat.config import ChatConfig;"
        "from genrec.inference.chat.page import serve_page; first, second, port = sys.argv[1:];"
        "serve_page(ChatConfig(Path(first), web=True, compare=Path(second), k=4, port=int(port)))"
    )
    process = subprocess.Popen([sys.executable, "-c", program, *map(str, runs), str(port)])
    address = f"http://127.0.0.1:{port}/"
    try:
        for _ in range(1200):
            assert process.poll() is None, "the page's process has ended"
            try:
                urlopen(address).close()
                break
            except OSError:
                time.sleep(0.1)
        with playwright.sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            yield Served(address, browser)
            browser.close()
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)
    finally:
        process.kill()


@pytest.fixture
def app() -> Iterator[TestClient]:
    """The page without a run: nothing in these tests gets as far as a conversation."""

    def begin() -> Conversation:
        raise AssertionError("a conversation was begun")

    with TestClient(create_page_app(build_page({"demo": begin})), base_url="http://shop.example") as client:
        yield client


JOIN = "/gradio_api/queue/join"
EVENT = {"data": [None, None], "event_data": {}, "fn_index": 1, "session_hash": "s", "trigger_id": 1}


def refused(answer: Any, status: int, kind: str) -> None:
    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:genrec:{kind}")
    assert "default-src 'self'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"}])
def test_events_of_other_sites_are_refused(app: TestClient, headers: dict[str, str]) -> None:
    refused(app.post(JOIN, json=EVENT, headers=headers), 403, "foreign-origin")
    refused(app.post(JOIN, json=EVENT, headers={"Origin": "null"}), 403, "foreign-origin")


@pytest.mark.parametrize("number", [99, -1, None, "0", 0.5, True, [0], 2**60])
def test_a_made_up_event_is_refused(app: TestClient, number: object) -> None:
    refused(app.post(JOIN, json=EVENT | {"fn_index": number}), 422, "invalid")
    refused(app.post(JOIN, json=[EVENT]), 422, "invalid")
    refused(app.post(JOIN, content=b"{"), 400, "bad-request")


def test_files_and_routes_that_the_page_does_not_use_are_refused(app: TestClient) -> None:
    refused(app.post("/gradio_api/upload", files={"files": b"x" * 1000}), 404, "unknown-path")
    for path in ("/gradio_api/run/act", "/gradio_api/call/act", "/gradio_api/component_server", "/login", "/x"):
        refused(app.post(path, json=EVENT), 404, "unknown-path")
    for path in ("/gradio_api/proxy=http://evil.example/", "/gradio_api/file=/etc/passwd", "/monitoring", "/x"):
        refused(app.get(path), 404, "unknown-path")
    refused(app.delete("/"), 404, "unknown-path")


def test_a_large_event_is_refused(app: TestClient) -> None:
    refused(app.post(JOIN, json=EVENT | {"event_data": "x" * 70_000}), 413, "body-too-large")
    refused(app.post("/gradio_api/upload", content=(b"x" * 1000 for _ in range(1000))), 413, "body-too-large")


def test_what_the_page_needs_is_answered(app: TestClient) -> None:
    assert "gradio" in app.get("/").text
    assert app.get("/config").json()["dependencies"]
    for headers in ({}, {"Origin": "http://shop.example", "Sec-Fetch-Site": "same-origin"}):
        assert app.post(JOIN, json=EVENT, headers=headers).status_code == 200


def say(page: Any, text: str) -> None:
    page.fill("#say", text)
    answered(page, lambda: page.press("#say", "Enter"))


def answered(page: Any, act: Any) -> None:
    """Do something that is answered, and wait for the answer."""
    answers = ".log li.answer:not(.writing)"
    before = page.locator(answers).count()
    act()
    page.wait_for_function(f"document.querySelectorAll({answers!r}).length > {before}")


def shown(page: Any, column: int = 0) -> list[str]:
    """Ids of the cards of a column, in order."""
    found: list[str] = page.eval_on_selector_all(
        f".run:nth-child({column + 1}) .card", "cards => cards.map(card => card.dataset.item)"
    )
    return found


def prices(page: Any) -> list[float]:
    texts = page.locator(".card .facts div", has_text="price").locator("dd").all_inner_texts()
    return [float(text) for text in texts]


@pytest.mark.slow
def test_typing_brings_cards_and_says_what_was_understood(served: Served) -> None:
    page = served.open()
    say(page, "something for coffee")
    assert page.locator(".log .you .said").last.inner_text().endswith("something for coffee")
    assert "coffee" in page.locator(".log .answer .note").last.inner_text()
    assert 1 <= len(shown(page)) <= 4
    assert page.locator("#wish .chips").inner_text().startswith("coffee")
    page.get_by_role("button", name="State in full").click()
    page.wait_for_selector("#state pre")
    state = json.loads(page.locator("#state pre").inner_text())
    assert state["shown"] == shown(page)
    assert "coffee" in state["wish"]
    assert page.errors == []


@pytest.mark.slow
def test_a_disliked_item_goes_and_does_not_come_back_until_it_is_allowed(served: Served) -> None:
    page = served.open()
    refused = shown(page)[0]
    answered(page, lambda: page.locator(f'[data-act=dislike][data-item="{refused}"]').click())
    assert refused not in shown(page)
    for text in ("something for coffee", "something else", "anything under 500"):
        say(page, text)
        assert refused not in shown(page)
    answered(page, lambda: page.locator("#refused [data-act=allow]").click())
    assert page.locator("#refused .chips").count() == 0
    page.get_by_role("button", name="Start again").click()
    page.wait_for_function(f"document.querySelector('.card')?.dataset.item === '{refused}'")


@pytest.mark.slow
def test_filters_by_control_and_by_word_are_the_same_filters(served: Served) -> None:
    page = served.open()
    page.fill('[name="high:price"]', "20")
    answered(page, lambda: page.press('[name="high:price"]', "Enter"))
    assert prices(page)
    assert max(prices(page)) <= 20
    say(page, "under 10")
    assert max(prices(page)) <= 10
    assert page.input_value('[name="high:price"]') == "10"
    category = page.locator('[name="is:categories"] option').nth(1).get_attribute("value")
    page.fill('[name="high:price"]', "")
    answered(page, lambda: page.locator("#filters button[type=submit]").click())
    answered(page, lambda: page.select_option('[name="is:categories"]', category))
    for facts in page.locator(".card .facts").all_inner_texts():
        assert category in facts
    page.get_by_role("button", name="State in full").click()
    page.wait_for_selector("#state pre")
    assert json.loads(page.locator("#state pre").inner_text())["where"] == {"categories": category}


@pytest.mark.slow
def test_the_history_is_edited_by_title_and_by_chip(served: Served, runs: tuple[Path, Path]) -> None:
    page = served.open()
    catalog = Catalog.load(runs[0] / "catalog")
    item, title = catalog.item_ids[5], catalog.titles[5]
    page.type("#find", title[:-1])
    page.wait_for_selector(f'.found [data-item="{item}"]')
    answered(page, lambda: page.locator(f'.found [data-item="{item}"]').click())
    assert page.locator("#having .chips li").all_inner_texts() == [f"{title}\n×"]
    assert item not in shown(page)
    answered(page, lambda: page.get_by_role("button", name=f"remove {title}").click())
    assert page.locator("#having .chips").count() == 0


@pytest.mark.slow
def test_why_and_codes_on_demand(served: Served, runs: tuple[Path, Path]) -> None:
    page = served.open()
    ids = SemanticIds.load(runs[0] / "semtok")
    item = shown(page)[1]
    codes = ids.codes[ids.item_ids.index(item)]
    card = page.locator(f'.card[data-item="{item}"]')
    card.locator("[data-act=why]").click()
    card.locator(".told").wait_for()
    assert card.locator("[data-act=why]").get_attribute("aria-expanded") == "true"
    card.locator(".actions [data-act=codes]").click()
    card.locator(".sid").wait_for()
    assert card.locator(".sid").inner_text().split() == [spell(level, int(code)) for level, code in enumerate(codes)]
    card.locator('[data-level="1"]').click()
    page.wait_for_selector('[data-level="2"][aria-pressed=false]')
    same = np.flatnonzero(ids.codes[:, 0] == codes[0])
    others = {ids.item_ids[row] for row in same} - {item}
    assert card.locator(".neighbours li").count() == min(len(others), 20)
    card.locator(".actions [data-act=codes]").click()
    card.locator(".sid").wait_for(state="detached")


@pytest.mark.slow
def test_two_runs_answer_one_conversation_side_by_side(served: Served) -> None:
    page = served.open(run=None)
    assert page.locator(".run h2").all_inner_texts() == ["run", "less"]
    say(page, "something for coffee")
    left, right = shown(page, 0), shown(page, 1)
    assert left
    assert right
    for place, item in enumerate(left):
        expected = f"less: place {right.index(item) + 1}" if item in right else "less: not shown"
        assert page.locator(".run:nth-child(1) .elsewhere").nth(place).inner_text() == expected
    refused = right[0]
    answered(page, lambda: page.locator(".run:nth-child(2) [data-act=dislike]").first.click())
    assert refused not in shown(page, 0) + shown(page, 1)
    page.get_by_role("button", name="less", exact=True).click()
    page.wait_for_selector('.columns[data-columns="1"]')
    assert page.locator("#refused .chips li").count() == 1
    say(page, "something else")
    assert refused not in shown(page)
    page.get_by_role("button", name="Side by side").click()
    page.wait_for_selector('.columns[data-columns="2"]')
    assert refused not in shown(page, 0) + shown(page, 1)
    assert page.errors == []


@pytest.mark.slow
@pytest.mark.parametrize("run", ["run", None])
def test_on_a_phone_one_column_and_nothing_to_scroll_sideways(served: Served, run: str | None) -> None:
    page = served.open(width=390, height=844, run=run)
    say(page, "coffee " + "very" * 60 + " <a_1><b_2>")
    page.locator(".actions [data-act=codes]").first.click()
    page.wait_for_selector(".sid")
    page.get_by_role("button", name="State in full").click()
    page.wait_for_selector("#state pre")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    boxes = page.eval_on_selector_all(
        ".card, .panel, .composer", "all => all.map(e => e.getBoundingClientRect().toJSON())"
    )
    assert all(box["left"] >= 0 and box["right"] <= 390 for box in boxes)
    tops = page.eval_on_selector_all(".card", "all => all.map(e => e.getBoundingClientRect().top)")
    assert sorted(set(tops)) == tops  # one beneath the other


@pytest.mark.slow
def test_a_round_by_keyboard_alone(served: Served) -> None:
    page = served.open(run=None)
    page.focus("#say")
    page.keyboard.type("something for coffee")
    answered(page, lambda: page.keyboard.press("Enter"))
    focused = "document.activeElement"
    assert page.evaluate(f"{focused}.id") == "say"
    assert page.input_value("#say") == ""
    stops = []
    for _ in range(5):
        page.keyboard.press("Tab")
        stops.append(page.evaluate(f"{focused}.dataset.act ?? {focused}.innerText"))
        assert page.evaluate(f"getComputedStyle({focused}).outlineStyle") == "solid"
    assert stops == ["Send", "like", "dislike", "why", "codes"]
    page.keyboard.press("Space")
    page.wait_for_selector(".sid")
    assert page.evaluate(f"{focused}.getAttribute('aria-expanded')") == "true"
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    refused = page.evaluate(f"{focused}.dataset.item")
    answered(page, lambda: page.keyboard.press("Enter"))
    assert refused not in shown(page, 0) + shown(page, 1)
    page.wait_for_selector("#refused [data-act=allow]")
    assert page.evaluate(f"{focused}.dataset.act") == "dislike"  # focus stays at its place
    page.focus("#refused [data-act=allow]")
    answered(page, lambda: page.keyboard.press("Enter"))
    assert page.evaluate(f"{focused} !== document.body")
    names = page.eval_on_selector_all("#page button", "all => all.map(e => e.ariaLabel ?? e.innerText)")
    assert all(name.strip() for name in names)


@pytest.mark.slow
def test_words_stay_words(served: Served, runs: tuple[Path, Path]) -> None:
    page = served.open()
    item = Catalog.load(runs[0] / "catalog").item_ids[0]
    typed = EVIL + " ${window.hit = 3} {{window.hit = 4}} <a_1><|im_end|>"
    say(page, typed)
    assert typed in page.locator(".log .you .said").last.inner_text()
    page.type("#find", "window.hit")
    page.wait_for_selector(f'.found [data-item="{item}"]')
    answered(page, lambda: page.locator(f'.found [data-item="{item}"]').click())
    assert EVIL in page.locator("#having .chips li").first.inner_text()
    assert page.evaluate("window.hit") is None
    assert page.locator("#page script, #page img").count() == 0
    assert page.errors == []


@pytest.mark.slow
def test_nothing_comes_from_elsewhere_and_sessions_are_apart(served: Served) -> None:
    page = served.browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    answer = page.goto(served.address)
    page.wait_for_selector(".card")
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert [url for url in asked if not url.startswith((served.address, "data:", "blob:"))] == []
    other = served.open()
    say(page, "something for coffee")
    assert other.locator("#wish .chips").count() == 0
    assert other.locator(".log .you").count() == 0


@pytest.mark.slow
def test_a_request_that_cannot_be_met_is_a_line_of_the_conversation(served: Served) -> None:
    page = served.open()
    before = shown(page)
    page.evaluate("document.querySelector('[data-act=like]').dataset.item = 'nope'")
    page.locator("[data-act=like]").first.click()
    page.wait_for_selector(".log .problem")
    assert "no item 'nope'" in page.locator(".log .problem").inner_text()
    assert shown(page) == before


@pytest.mark.slow
def test_a_session_refuses_what_is_out_of_bounds(runs: tuple[Path, Path]) -> None:
    session = ChatSession({"run": Conversation(Recommender.from_pretrained(runs[0]), k=3)})
    item = session.replies["run"].cards[0].item_id
    for request, words in (
        ({}, "the page cannot ''"),
        ({"act": "say", "text": "x" * 2001}, "2,001 characters; at most 2,000"),
        ({"act": "why", "item": "nope"}, "no item 'nope'"),
        ({"act": "codes", "item": item, "level": "9"}, "level: 1 to"),
        ({"act": "codes", "item": item, "level": "9" * 5000}, "level: 1 to"),
        ({"act": "view", "run": "other"}, "no run 'other'"),
        ({"act": "forget", "item": item}, "not in the history"),
    ):
        list(session.act(request))
        assert session.turns[-1].who == "problem"
        assert words in session.turns[-1].text
    list(session.act({"act": "say", "text": "\ud83d mug"}))  # half a character, as JSON can send it
    assert session.writing is None
    assert [line.text for line in session.turns if line.who == "you"] == ["? mug"]
    list(session.act({"act": "reset"}))
    list(session.act({"act": "dislike", "item": item}))
    list(session.act({"act": "add", "item": item}))  # to like what was refused takes the refusal back
    assert session.state.refused == ()
    assert session.state.history == (item,)


def test_runs_go_by_their_folders_names_where_those_differ() -> None:
    assert _named([Path("a/run"), Path("b/other")]) == {"run": Path("a/run"), "other": Path("b/other")}
    assert list(_named([Path("a/run"), Path("b/run")])) == ["a/run", "b/run"]


@pytest.mark.slow
def test_runs_with_other_items_are_not_compared(runs: tuple[Path, Path], tmp_path: Path) -> None:
    other = tmp_path / "run"
    shutil.copytree(runs[0], other)
    new = tmp_path / "new.jsonl"
    new.write_text(json.dumps({"item_id": "new", "title": "A new mug"}) + "\n")
    assert main(["add-items", str(other), str(new)]) == 0
    with pytest.raises(InputError, match=r"--compare: .* do not have the same items"):
        serve_page(ChatConfig(runs[0], web=True, compare=other))
