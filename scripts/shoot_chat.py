"""Takes the pictures of the chat page that the docs show, in headless Chromium.

    python scripts/shoot_chat.py runs/demo --compare runs/other --movies runs/movielens --out docs/images

    chat_desktop, chat_phone, chat_dark, chat_codes   the sample shop: a conversation, a card's details with its codes
    chat_dialogue                                     a strip of ten turns, for the README
    chat_compare                                      two runs side by side
    chat_movies_desktop, chat_movies_phone            MovieLens

Needs the `chat` extra, Playwright, and a Chromium on the path (Debian's `chromium`).
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import uvicorn
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from genrec.inference.chat.conversation import Conversation
from genrec.inference.chat.page import create_page_app
from genrec.inference.recommender import Recommender
from genrec.semtok.errors import InputError

DESK, PHONE = (1280, 900), (390, 844)
SHOP = ("I have a french press", "something for coffee under 40", "nothing from Two Rivers")
MOVIES = ("I loved Toy Story", "animation for children", "something else")
DIALOGUE = (
    ("hi there!", "coffee beans under 20"), ("nothing from Two Rivers", "how much is the second?"),
    ("compare the first two", "I like the first"), ("the cheapest", "why the first?"),
    ("a mug under 2", "something else"),
)  # fmt: skip


@contextmanager
def serving(names: dict[str, Path]) -> Iterator[str]:
    """The page over some runs, from a thread: its address."""
    makers = {name: partial(Conversation, Recommender.from_pretrained(run), k=6) for name, run in names.items()}
    server = uvicorn.Server(uvicorn.Config(create_page_app(makers), port=0, log_level="warning"))
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True


def opened(browser: Browser, address: str, size: tuple[int, int], *, dark: bool = False) -> Page:
    """A new conversation."""
    page = browser.new_page(
        viewport={"width": size[0], "height": size[1]}, color_scheme="dark" if dark else "light",
        reduced_motion="reduce",
    )  # fmt: skip
    page.goto(address)
    page.wait_for_selector(".card[data-item]")
    return page


def say(page: Page, *texts: str) -> None:
    """Type turns, and wait for their answers."""
    answers = page.locator(".log li.answer:not(.writing)")
    for text in texts:
        before = answers.count()
        page.fill("#say", text)
        page.press("#say", "Enter")
        page.wait_for_function("n => document.querySelectorAll('.log li.answer:not(.writing)').length > n", arg=before)
        page.wait_for_function("() => !document.body.classList.contains('busy')")


def picture(page: Page) -> Image.Image:
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def save(image: Image.Image, path: Path) -> None:
    """In 96 colours, which a page of text does not miss and which make the file a third as large."""
    image.quantize(96).save(path, optimize=True)


def strip(pictures: Sequence[Image.Image], width: int = 300, gap: int = 12) -> Image.Image:
    """Pictures side by side, smaller."""
    small = [one.resize((width, one.height * width // one.width), Image.Resampling.LANCZOS) for one in pictures]
    whole = Image.new("RGB", (len(small) * (width + gap) - gap, small[0].height), "white")
    for place, one in enumerate(small):
        whole.paste(one, (place * (width + gap), 0))
    return whole


def shoot_shop(browser: Browser, address: str, out: Path) -> None:
    page = opened(browser, address, DESK)
    say(page, *SHOP)
    save(picture(page), out / "chat_desktop.png")
    page.get_by_role("switch", name="Developer").click()
    page.locator("[data-act=why]").first.click()
    page.wait_for_selector("#details[open] .trie")
    page.locator("#details .neighbours").scroll_into_view_if_needed()
    save(picture(page), out / "chat_codes.png")
    page = opened(browser, address, DESK, dark=True)
    say(page, *SHOP[:2], "compare the first two")
    save(picture(page), out / "chat_dark.png")
    page = opened(browser, address, PHONE)
    say(page, *SHOP)
    save(picture(page), out / "chat_phone.png")
    page = opened(browser, address, PHONE)
    shots = []
    for turns in DIALOGUE:
        say(page, *turns)
        page.evaluate("n => [...document.querySelectorAll('.you')].at(-n).scrollIntoView()", len(turns))
        shots.append(picture(page))
    save(strip(shots), out / "chat_dialogue.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="of the sample shop")
    parser.add_argument("--compare", type=Path, help="a second run with the same items")
    parser.add_argument("--movies", type=Path, help="a run of MovieLens")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("no chromium on the path")
    options.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        with serving({options.run.name: options.run}) as address:
            shoot_shop(browser, address, options.out)
        if options.compare is not None:
            runs = {options.run.name: options.run, options.compare.name: options.compare}
            with serving(runs) as address:
                page = opened(browser, address, DESK)
                say(page, *SHOP)
                save(picture(page), options.out / "chat_compare.png")
        if options.movies is not None:
            with serving({options.movies.name: options.movies}) as address:
                for name, size in (("desktop", DESK), ("phone", PHONE)):
                    page = opened(browser, address, size)
                    say(page, *MOVIES)
                    save(picture(page), options.out / f"chat_movies_{name}.png")
        browser.close()


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"shoot_chat: {error}")
