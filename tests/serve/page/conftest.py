"""A browser, a server with a model that never stops by itself, and visits to its page."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from sampan.serve.settings import ModelSettings
from tests.serve.live_server import LiveServer

ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
CONTEXT = 16384

# Machines that run tests can be slow; what does not happen within this time does not happen.
expect.set_options(timeout=60_000)

Visit = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium as the system has it; tests that need it fail in CI where there is none.

    For a module only: Playwright keeps an event loop running, in which no other test can run its own.
    """
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        message = "the page's tests need Chromium: apt-get install chromium"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def endless_folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model of random weights, without an end token: its answers are as long as they may be."""
    folder = tmp_path_factory.mktemp("models") / "endless"
    shutil.copytree(tiny_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"max_position_embeddings": CONTEXT, "eos_token_id": None}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    del tokenizer["eos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder


@pytest.fixture(scope="session")
def endless_server(shared_home: Path, endless_folder: Path) -> Iterator[LiveServer]:
    """Serves it as `endless`, and once more as `other`. Tests leave nothing running in it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAMPAN_HOME", str(shared_home))
        models = [ModelSettings(reference=str(endless_folder), name=name) for name in ("endless", "other")]
        with LiveServer(*models, context=CONTEXT) as server:
            yield server


@pytest.fixture
def visit(browser: Browser, endless_server: LiveServer) -> Iterator[Visit]:
    """Opens the page of a server, the endless one unless named, in a browser of its own.

    When the test ends, nothing may have been asked of any other server, nothing have been refused by the
    policy, and no script have failed. Options are Playwright's for a context; English unless told. `wait`:
    until the page knows the models.
    """
    contexts: list[BrowserContext] = []
    problems: list[str] = []

    def open_page(url: str = endless_server.url, *, wait: bool = True, **options: Any) -> Page:
        context = browser.new_context(**({"locale": "en-GB"} | options))
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(f"script: {error}"))
        page.on(
            "console", lambda said: problems.append(said.text) if is_problem(said.type, said.text) else None
        )
        page.on("request", lambda asked: problems.append(asked.url) if is_foreign(asked.url, url) else None)
        page.goto(url)
        if wait:
            expect(page.locator("#model")).to_be_enabled()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


def is_foreign(asked: str, url: str) -> bool:
    return urlsplit(asked).netloc != urlsplit(url).netloc


def is_problem(kind: str, words: str) -> bool:
    # The browser logs answers such as 429, which some tests are about.
    return kind in ("error", "warning") and not words.startswith("Failed to load resource: ")


@pytest.fixture(scope="module")
def blank_page(browser: Browser, endless_server: LiveServer) -> Iterator[Page]:
    """A document of the page's origin, under its policy, whose script has not started."""
    with browser.new_context() as context:
        page = context.new_page()
        page.route("**/page/app.js", lambda route: route.abort())
        page.goto(endless_server.url)
        yield page
