"""The chat page in headless Chromium, at the sizes of a desk and of a phone, over two small runs of the sample shop."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
from worlds.small_shop import SMALL, write_shop

from genrec.cli.main import main
from genrec.decoding.vocabulary import spell
from genrec.semtok.catalog import Catalog
from genrec.semtok.semantic_ids import SemanticIds

pytestmark = pytest.mark.slow
EVIL = "<script>window.hit = 1</script><img src=x onerror='window.hit = 2'>"
PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
SETTLED = "() => !document.body.classList.contains('busy')"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs over one shop, an item of which has a title that is a program; the second run's model learned less."""
    config = write_shop(tmp_path_factory.mktemp("shop"))
    items = config.parent / "items.jsonl"
    rows = [json.loads(line) for line in items.read_text().splitlines()]
    rows[0]["title"] += EVIL
    for place, row in enumerate(rows):
        row["image"] = PIXEL if place % 2 else "https://pictures.example/nothing.jpg"
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

    def open(
        self,
        *,
        width: int = 1280,
        height: int = 900,
        run: str | None = "run",
        dark: bool = False,
        developer: bool = False,
    ) -> Any:
        """A new browser session, looking at one run (None: at both), that has failed if the page has an error."""
        page = self.browser.new_page(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            reduced_motion="reduce",
        )
        page.set_default_timeout(60_000)
        page.errors = []
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.on("console", lambda said: page.errors.append(said.text) if _is_error(said) else None)
        page.on("dialog", lambda dialog: (page.errors.append(dialog.message), dialog.dismiss()))
        page.goto(self.address)
        page.wait_for_selector(".card[data-item]")
        if run is not None:
            page.get_by_role("button", name=run, exact=True).click()
            page.wait_for_selector('.columns[data-columns="1"]')
        if developer:
            page.get_by_role("switch", name="Developer").click()
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
        "serve_page(ChatConfig(Path(first), web=True, compare=Path(second), k=4, port=int(port), images=True))"
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


def _is_error(said: Any) -> bool:
    """Whether a line of the console is an error, but for the pictures that aren't there."""
    return bool(said.type == "error") and not said.location["url"].startswith("https://pictures.example/")


def say(page: Any, text: str) -> None:
    page.fill("#say", text)
    answered(page, lambda: page.press("#say", "Enter"))


def answered(page: Any, act: Any) -> None:
    """Do something that is answered, and wait for the answer."""
    answers = ".log li.answer:not(.writing)"
    before = page.locator(answers).count()
    act()
    page.wait_for_function(f"() => document.querySelectorAll({answers!r}).length > {before}")
    page.wait_for_function(SETTLED)


def shown(page: Any, column: int = 0) -> list[str]:
    """Ids of the cards of a column, in order."""
    found: list[str] = page.eval_on_selector_all(
        f".run:nth-child({column + 1}) .card", "cards => cards.map(card => card.dataset.item)"
    )
    return found


def prices(page: Any) -> list[float]:
    return [float(text.removeprefix("Price ")) for text in page.locator(".card .price").all_text_contents()]


def drawer(page: Any) -> None:
    page.click("#open-known")
    page.wait_for_selector("#known[open]")


def state(page: Any) -> dict[str, Any]:
    """The state as the page has it, shown or not."""
    found: dict[str, Any] = json.loads(page.locator("#state pre").text_content())
    return found


def test_typing_brings_cards_and_says_what_was_understood(served: Served) -> None:
    page = served.open(developer=True)
    say(page, "something for coffee")
    assert page.locator(".log .you .said").last.text_content() == "You: something for coffee"
    assert "coffee" in page.locator(".log .answer .note").last.inner_text()
    assert 1 <= len(shown(page)) <= 4
    assert page.locator("#bar .wish").inner_text().startswith("coffee")
    assert page.locator("#told").text_content().endswith("items are shown.")  # for those who listen
    drawer(page)
    assert page.locator("#wish .chips").inner_text().startswith("coffee")
    assert page.locator("#state pre").is_visible()
    assert state(page)["shown"] == shown(page)
    assert "coffee" in state(page)["wish"]
    assert page.errors == []


def test_words_to_press_are_said(served: Served) -> None:
    page = served.open()
    first = page.locator("#suggestions button").first.inner_text()
    answered(page, lambda: page.locator("#suggestions button").first.click())
    assert page.locator(".log .you .said").last.text_content() == f"You: {first}"
    answered(page, lambda: page.get_by_role("button", name="compare the first two").click())
    table = page.locator(".log .compared")
    assert table.locator("thead th").count() == 2
    assert table.locator("tbody tr").count() >= 1


def test_a_reload_keeps_the_conversation(served: Served) -> None:
    page = served.open()
    say(page, "something for coffee")
    cards = shown(page)
    page.reload()
    page.wait_for_selector(".card[data-item]")
    assert page.locator(".log .you").count() == 1
    assert shown(page) == cards
    page.evaluate("sessionStorage.setItem('conversation', 'forgotten')")
    page.reload()
    page.wait_for_selector(".card[data-item]")
    assert page.locator(".log .you").count() == 0


def test_a_disliked_item_goes_and_does_not_come_back_until_it_is_allowed(served: Served) -> None:
    page = served.open()
    refused = shown(page)[0]
    answered(page, lambda: page.locator(f'[data-act=dislike][data-item="{refused}"]').click())
    assert refused not in shown(page)
    for text in ("something for coffee", "something else", "anything under 500"):
        say(page, text)
        assert refused not in shown(page)
    answered(page, lambda: page.locator("#bar .no [data-act=allow]").click())
    assert page.locator("#refused .chips").count() == 0
    page.get_by_role("button", name="Start again").click()
    page.wait_for_function(f"() => document.querySelector('.card')?.dataset.item === '{refused}'")


def test_filters_by_control_and_by_word_are_the_same_filters(served: Served) -> None:
    page = served.open()
    drawer(page)
    page.fill('[name="high:price"]', "20")
    answered(page, lambda: page.press('[name="high:price"]', "Enter"))
    assert prices(page)
    assert max(prices(page)) <= 20
    page.keyboard.press("Escape")
    say(page, "under 10")
    assert max(prices(page)) <= 10
    assert page.input_value('[name="high:price"]') == "10"
    drawer(page)
    category = page.locator('[name="is:categories"] option').nth(1).get_attribute("value")
    page.fill('[name="high:price"]', "")
    answered(page, lambda: page.press('[name="high:price"]', "Enter"))
    answered(page, lambda: page.select_option('[name="is:categories"]', category))
    catalogue = {item: page.locator(f'.card[data-item="{item}"] .facts').inner_text() for item in shown(page)}
    assert catalogue
    assert state(page)["where"] == {"categories": category}
    assert page.locator("#bar .where").all_inner_texts() == [f"categories: {category}\n×"]
    page.keyboard.press("Escape")
    answered(page, lambda: page.locator("#bar .where button").click())
    assert state(page)["where"] == {}


def test_what_was_left_out_comes_back_by_one_press(served: Served) -> None:
    page = served.open()
    say(page, "anything under 0.01")
    assert page.locator(".relaxed").inner_text().startswith("Nothing meets all of it")
    assert shown(page)
    answered(page, lambda: page.locator(".relaxed button").click())
    assert page.locator(".empty-table .ways button").all_inner_texts() == ["Without price up to 0.01", "Start again"]
    answered(page, lambda: page.locator(".ways button").first.click())
    assert shown(page)
    assert page.errors == []


def test_the_history_is_edited_by_title_and_by_chip(served: Served, runs: tuple[Path, Path]) -> None:
    page = served.open()
    catalog = Catalog.load(runs[0] / "catalog")
    item, title = catalog.item_ids[5], catalog.titles[5]
    drawer(page)
    page.type("#find", title[:-1])
    page.wait_for_selector(f'#found [data-item="{item}"]')
    answered(page, lambda: page.locator(f'#found [data-item="{item}"]').click())
    assert page.locator("#having .chips li").all_inner_texts() == [f"{title}\n×"]
    assert page.input_value("#find") == ""
    assert item not in shown(page)
    answered(page, lambda: page.locator("#having").get_by_role("button", name=f"remove {title}").click())
    assert page.locator("#having .chips").count() == 0


def test_why_and_codes_on_demand(served: Served, runs: tuple[Path, Path]) -> None:
    page = served.open()
    ids = SemanticIds.load(runs[0] / "semtok")
    item = shown(page)[1]
    codes = ids.codes[ids.item_ids.index(item)]
    card, details = page.locator(f'.card[data-item="{item}"]'), page.locator("#details")
    assert not card.locator(".codes").is_visible()
    card.locator("[data-act=why]").click()
    assert details.locator(".told").inner_text()
    assert not details.locator(".sid").is_visible()
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.dataset.act") == "why"  # back where it was asked
    page.get_by_role("switch", name="Developer").click()
    assert card.locator(".codes").is_visible()
    card.locator("h3 button").click()
    spelled = [spell(level, int(code)) for level, code in enumerate(codes)]
    assert details.locator(".sid > *").all_text_contents() == spelled
    assert details.locator("svg.trie text.own:not(.end)").all_text_contents() == spelled
    details.locator('[data-level="1"]').click()
    page.wait_for_selector('[data-level="2"][aria-pressed=false]')
    assert page.evaluate("document.activeElement.dataset.level") == "1"
    same = np.flatnonzero(ids.codes[:, 0] == codes[0])
    others = {ids.item_ids[row] for row in same} - {item}
    assert details.locator(".neighbours li").count() == min(len(others), 20)
    details.get_by_role("button", name="Close").click()
    assert not details.is_visible()
    assert page.errors == []


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


def boxes(page: Any, selector: str) -> list[dict[str, float]]:
    found: list[dict[str, float]] = page.eval_on_selector_all(
        selector, "all => all.map(e => e.getBoundingClientRect().toJSON())"
    )
    return found


def test_on_a_desk_the_cards_stand_in_rows_without_holes(served: Served) -> None:
    page = served.open()
    say(page, "something for coffee")
    composer, log, cards = (boxes(page, selector) for selector in ("#composer", "#log", ".card"))
    assert composer[0]["bottom"] == 900
    assert log[0]["bottom"] <= composer[0]["top"]
    rows: dict[float, list[dict[str, float]]] = {}
    for box in cards:
        rows.setdefault(box["top"], []).append(box)
    assert [len(row) for row in rows.values()] == [2, 2]
    assert all(len({box["height"] for box in row}) == 1 for row in rows.values())
    for card, price in zip(cards, boxes(page, ".card .price"), strict=True):  # at the top right
        assert card["right"] - price["right"] < 20
        assert price["top"] - card["top"] < 20
    for _ in range(6):
        say(page, "something else")
    assert boxes(page, "#composer") == composer  # the conversation scrolls above it
    assert page.evaluate("document.documentElement.scrollHeight") <= 900


@pytest.mark.parametrize("run", ["run", None])
def test_on_a_phone_one_column_and_nothing_to_scroll_sideways(served: Served, run: str | None) -> None:
    page = served.open(width=390, height=844, run=run, developer=True)
    say(page, "coffee " + "very" * 60 + " <a_1><b_2>")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    found = boxes(page, ".card, #composer, #header, .log li")
    assert all(box["left"] >= 0 and box["right"] <= 390 for box in found)
    tops = [box["top"] for box in boxes(page, ".card")]
    assert sorted(set(tops)) == tops  # one beneath the other
    assert boxes(page, "#composer")[0]["bottom"] == 844
    drawer(page)
    assert all(box["left"] >= 0 and box["right"] <= 390 for box in boxes(page, "#known, #known .panel, #state pre"))
    page.keyboard.press("Escape")
    page.locator(".card h3 button").first.click()
    page.wait_for_selector("#details[open] .trie")
    assert all(box["left"] >= 0 and box["right"] <= 390 for box in boxes(page, "#details, #details .trie, .sid"))
    assert page.evaluate("document.getElementById('details').scrollWidth") <= 390


def test_a_round_by_keyboard_alone(served: Served) -> None:
    page = served.open(run=None)
    page.focus("#say")
    page.keyboard.type("something for coffee")
    answered(page, lambda: page.keyboard.press("Enter"))
    focused = "document.activeElement"
    assert page.evaluate(f"{focused}.id") == "say"
    assert page.input_value("#say") == ""
    stops = []
    for _ in range(7):
        page.keyboard.press("Tab")
        stops.append(page.evaluate(f"{focused}.dataset.act ?? {focused}.ariaLabel"))
        assert page.evaluate(f"getComputedStyle({focused}).outlineStyle") == "solid"
    bar = ["unwish", *["lift"] * page.locator("#bar .where").count()]
    expected = ["Send", *bar, "open", "like", "dislike", "why"]
    assert stops == expected[:7]
    page.locator(".card [data-act=why]").first.focus()
    page.keyboard.press("Space")
    page.wait_for_selector("#details[open]")
    assert page.evaluate(f"document.getElementById('details').contains({focused})")
    page.keyboard.press("Escape")
    page.keyboard.press("Shift+Tab")
    refused = page.evaluate(f"{focused}.dataset.item")
    answered(page, lambda: page.keyboard.press("Enter"))
    assert refused not in shown(page, 0) + shown(page, 1)
    page.wait_for_selector("#bar [data-act=allow]")
    assert page.evaluate(f"{focused}.dataset.act") == "dislike"  # focus stays at its place
    page.focus("#bar [data-act=allow]")
    answered(page, lambda: page.keyboard.press("Enter"))
    assert page.evaluate(f"{focused} !== document.body")
    names = page.eval_on_selector_all("button", "all => all.map(e => e.ariaLabel ?? e.textContent)")
    assert all(name.strip() for name in names)


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_nothing_serious_by_axe(served: Served, width: int, height: int, dark: bool) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")

    def check(page: Any, where: str) -> None:
        found = axe.Axe().run(page).response["violations"]
        serious = [
            f"{where}: {rule['id']}: {node['html'][:200]}"
            for rule in found
            if rule["impact"] in ("serious", "critical", "moderate")
            for node in rule["nodes"]
        ]
        assert serious == []

    page = served.open(width=width, height=height, run=None, dark=dark, developer=True)
    check(page, "at first")
    for text in ("something for coffee", "compare the first two", "anything under 0.01"):
        say(page, text)
    answered(page, lambda: page.locator("[data-act=dislike]").first.click())
    check(page, "after some turns")
    drawer(page)
    check(page, "the drawer")
    page.keyboard.press("Escape")
    page.locator("[data-act=why]").first.click()
    page.wait_for_selector("#details[open]")
    check(page, "a card's details")
    page.keyboard.press("Escape")
    answered(page, lambda: page.locator(".relaxed button").first.click())
    check(page, "an empty table")


def test_words_stay_words(served: Served, runs: tuple[Path, Path]) -> None:
    page = served.open(developer=True)
    item = Catalog.load(runs[0] / "catalog").item_ids[0]
    typed = EVIL + " ${window.hit = 3} {{window.hit = 4}} <a_1><|im_end|>"
    say(page, typed)
    assert typed in page.locator(".log .you .said").last.text_content()
    drawer(page)
    page.type("#find", "window.hit")
    page.wait_for_selector(f'#found [data-item="{item}"]')
    answered(page, lambda: page.locator(f'#found [data-item="{item}"]').click())
    assert EVIL in page.locator("#having .chips li").first.text_content()
    page.keyboard.press("Escape")
    answered(page, lambda: page.locator("#bar .heart button").click())
    say(page, "window hit")
    page.locator(f'.card[data-item="{item}"] h3 button').click()
    page.wait_for_selector("#details[open]")
    assert EVIL in page.locator("#details-title").text_content()
    assert page.evaluate("window.hit") is None
    assert page.locator("#page script, dialog script, img[onerror]").count() == 0
    assert page.errors == []


def test_pictures_of_the_table_and_drawings_where_one_fails(served: Served) -> None:
    page = served.open()
    page.wait_for_function("() => [...document.images].every(image => image.complete)")
    rows = {item: page.locator(f'.card[data-item="{item}"] .picture') for item in shown(page)}
    for picture in rows.values():
        image = picture.locator("img")
        if image.count():
            assert image.get_attribute("src") == PIXEL
            assert image.evaluate("image => image.naturalWidth") == 1
        else:
            assert picture.locator("svg.art").count() == 1


def test_nothing_comes_from_elsewhere_and_sessions_are_apart(served: Served) -> None:
    page = served.browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    answer = page.goto(served.address)
    page.wait_for_selector(".card[data-item]")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    pictures = ("data:", "https://pictures.example/")  # --images was asked for, and the table names this site
    assert [url for url in asked if not url.startswith((served.address, *pictures))] == []
    assert "img-src 'self' data: https://pictures.example;" in policy
    other = served.open()
    say(page, "something for coffee")
    assert other.locator("#bar .wish").count() == 0
    assert other.locator(".log .you").count() == 0


def test_a_request_that_cannot_be_met_is_a_line_of_the_conversation(served: Served) -> None:
    page = served.open()
    before = shown(page)
    page.evaluate("document.querySelector('[data-act=like]').dataset.item = 'nope'")
    page.locator("[data-act=like]").first.click()
    page.wait_for_selector(".log .problem")
    assert "no item 'nope'" in page.locator(".log .problem").inner_text()
    assert shown(page) == before
    page.route(re.compile("/api/act"), lambda route: route.abort())
    page.fill("#say", "coffee")
    page.press("#say", "Enter")
    page.wait_for_selector(".log .problem:last-child:has-text('does not answer')")
    page.wait_for_function(SETTLED)
