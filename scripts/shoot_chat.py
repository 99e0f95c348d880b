"""Takes the screenshots of the chat page that the docs show, in headless Chromium.

    python scripts/shoot_chat.py runs/demo --compare runs/other --out docs/images

Needs the `chat` extra, Playwright, and a Chromium on the path (Debian's `chromium`).
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
import threading
import time
from functools import partial
from pathlib import Path

import uvicorn
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from genrec.inference.chat.conversation import Conversation
from genrec.inference.chat.page import build_page, create_page_app
from genrec.inference.recommender import Recommender
from genrec.semtok.errors import InputError


def serve(names: dict[str, Path]) -> tuple[uvicorn.Server, str]:
    """Serve the page over some runs from a thread; returns the server and the page's address."""
    makers = {name: partial(Conversation, Recommender.from_pretrained(run), k=6) for name, run in names.items()}
    server = uvicorn.Server(uvicorn.Config(create_page_app(build_page(makers)), port=0, log_level="warning"))
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.05)
    return server, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"


def say(page: Page, text: str) -> None:
    """Type a turn and wait for its answer."""
    answers = page.locator(".log li.answer:not(.writing)")
    before = answers.count()
    page.fill("#say", text)
    page.press("#say", "Enter")
    page.wait_for_function("n => document.querySelectorAll('.log li.answer:not(.writing)').length > n", arg=before)


def talk(page: Page, address: str) -> None:
    """A short conversation that leaves something in every part of the page."""
    page.goto(address)
    page.wait_for_selector(".card")
    for text in ("I have a french press", "something for coffee under 40", "nothing from Two Rivers"):
        say(page, text)


def shoot(page: Page, path: Path) -> None:
    """A picture in 96 colours, which a page of text does not miss and which make the file a third as large."""
    Image.open(io.BytesIO(page.screenshot())).convert("RGB").quantize(96).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--compare", type=Path, required=True, help="a second run with the same items")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("no chromium on the path")
    options.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        server, address = serve({options.run.name: options.run})
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        talk(page, address)
        page.locator("button[data-act=dislike]").nth(3).click()
        page.wait_for_selector("#refused button[data-act=allow]")
        page.locator("button[data-act=codes]").nth(1).click()
        page.locator('.sid [data-level="1"]').click()
        page.wait_for_selector('.sid [data-level="2"][aria-pressed=false]')
        shoot(page, options.out / "chat_desktop.png")
        page = browser.new_page(viewport={"width": 390, "height": 844})
        talk(page, address)
        shoot(page, options.out / "chat_phone.png")
        server.should_exit = True
        server, address = serve({options.run.name: options.run, options.compare.name: options.compare})
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        talk(page, address)
        shoot(page, options.out / "chat_compare.png")
        server.should_exit = True
        browser.close()


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"shoot_chat: {error}")
