"""Take the pictures of the page that docs/page.md shows: docs/images/page-*.png.

    python scripts/page_screenshots.py

Starts `sampan serve` with the default model and uses the page in Chromium, which must be installed (Debian:
`apt-get install chromium fonts-noto-cjk`). Answers are the model's own; a dozen other requests keep the
server busy for the picture of the live view, which takes a minute.
"""

# ruff: noqa: RUF001 - Chinese punctuation is meant
from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright

from sampan.hub.reference import DEFAULT_REFERENCE

IMAGES = Path(__file__).parent.parent / "docs" / "images"
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
]
DESKTOP = {"width": 1280, "height": 800}
PHONE = {"width": 360, "height": 720}
LIVE_SECONDS = 62

# Small models answer such questions well.
QUESTIONS = (
    "Name the seven days of the week.",
    "Write a SQL query that selects the names of customers older than 30.",
    "Write a Python function that checks whether a word is a palindrome.",
)
FOLLOW_UP = "Name the four seasons in a list and describe each with a few words."
LONG_QUESTION = "What is the difference between a river and a lake?"
OTHERS_SYSTEM = "You are a helpful assistant on a small boat. " * 12

# Resolves when so many tokens of the last answer have come.
TOKENS = """(count) => new Promise((resolve) => {
    const written = () => parseInt(/(\\d+) tokens$/.exec(figures().textContent)?.[1] ?? "0");
    const figures = () => [...document.querySelectorAll(".figures")].at(-1).lastChild ?? document.body;
    const watch = new MutationObserver(() => written() >= count && resolve());
    const everything = { childList: true, characterData: true, subtree: true };
    watch.observe(document.querySelector("#messages"), everything);
})"""


def main() -> None:
    """Take all pictures."""
    expect.set_options(timeout=120_000)
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        sys.exit("page_screenshots.py: needs Chromium: apt-get install chromium fonts-noto-cjk")
    with serving() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        take_chat(browser, url)
        take_chinese(browser, url)
        take_phone(browser, url)
        take_live(browser, url)
        browser.close()


@contextmanager
def serving() -> Iterator[str]:
    """The URL of a server with little memory for its cache, so that requests also wait."""
    model = f"smollm2-135m={DEFAULT_REFERENCE}"
    command = [sys.executable, "-m", "sampan", "serve", model, "--port", "0"]
    command += ["--context", "2048", "--sequences", "2", "--log-format", "json"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            for line in server.stderr:
                ready = re.search(r'"url": ?"(http://[^"]+)"', line)
                if ready:
                    threading.Thread(target=server.stderr.read, daemon=True).start()
                    yield ready[1]
                    return
            sys.exit("page_screenshots.py: the server did not start")
        finally:
            server.terminate()


def take_chat(browser: Browser, url: str) -> None:
    """A chat in the light theme, and others beside it."""
    page = visit(browser, url, viewport=DESKTOP, color_scheme="light")
    for question in QUESTIONS:
        page.keyboard.press("Control+k")
        ask(page, question)
    ask(page, FOLLOW_UP)
    save(page, "chat")


def take_chinese(browser: Browser, url: str) -> None:
    """The welcome and the settings in Chinese."""
    page = visit(browser, url, viewport=DESKTOP, color_scheme="light", locale="zh-CN")
    page.locator("#settings-button").click()
    page.locator("#system").fill("你是一位耐心的老师，回答简短。")
    page.locator("#temperature").fill("0.7")
    page.locator("#message").focus()
    save(page, "chinese")


def take_phone(browser: Browser, url: str) -> None:
    """A chat on a phone."""
    options = {"viewport": PHONE, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}
    page = visit(browser, url, color_scheme="light", **options)
    ask(page, QUESTIONS[2])
    save(page, "phone")


def take_live(browser: Browser, url: str) -> None:
    """The live view in the dark theme while others are served too, and an answer is being written."""
    page = visit(browser, url, viewport=DESKTOP, color_scheme="dark")
    ask(page, QUESTIONS[2])
    page.locator("#live-button").click()
    stopped = threading.Event()
    others = [threading.Thread(target=keep_asking, args=(url, number, stopped)) for number in range(9)]
    for thread in others:
        thread.start()
    try:
        page.wait_for_timeout(LIVE_SECONDS * 1000)
        send(page, LONG_QUESTION)
        page.evaluate(TOKENS, 40)
        save(page, "live", wait=0)
    finally:
        stopped.set()
        for thread in others:
            thread.join()


def visit(browser: Browser, url: str, **options: Any) -> Page:
    page = browser.new_context(**({"locale": "en-GB"} | options)).new_page()
    page.goto(url)
    expect(page.locator("#model")).to_be_enabled()
    # The likeliest tokens: a picture should look the same when it is taken again.
    parameters = json.dumps({"temperature": 0, "max_completion_tokens": 300})
    page.evaluate("(text) => localStorage.setItem('sampan.parameters', text)", parameters)
    page.reload()
    return page


def send(page: Page, question: str) -> None:
    page.locator("#message").fill(question)
    page.locator("#message").press("Enter")


def ask(page: Page, question: str) -> None:
    send(page, question)
    expect(page.locator(".answer").last).to_have_attribute("data-state", "done")


def save(page: Page, name: str, *, wait: float = 400) -> None:
    """`wait`: milliseconds for the last transitions."""
    page.wait_for_timeout(wait)
    page.screenshot(path=IMAGES / f"page-{name}.png", animations="allow")


def keep_asking(url: str, number: int, stopped: threading.Event) -> None:
    """One of the others: now and then a question after the same long instructions."""
    draw = random.Random(number)
    while not stopped.is_set():
        messages = [
            {"role": "system", "content": OTHERS_SYSTEM},
            {"role": "user", "content": f"Tell me about the number {draw.randrange(1000)}."},
        ]
        body = {"messages": messages, "max_tokens": draw.randrange(40, 320), "seed": number}
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request) as response:
            response.read()
        stopped.wait(draw.expovariate(0.35))


if __name__ == "__main__":
    main()
