"""How a person uses the page, and what its server does meanwhile."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Locator, Page, Request

from tests.serve.http_client import ask
from tests.serve.live_server import LiveServer

CHAT = "/v1/chat/completions"


def send(page: Page, words: str) -> None:
    page.locator("#message").fill(words)
    page.locator("#message").press("Enter")


def answers(page: Page) -> Locator:
    return page.locator(".answer")


def limit(page: Page, tokens: int) -> None:
    """Answers end after so many tokens: the model never ends them."""
    page.locator("#settings-button").click()
    page.locator("#max_completion_tokens").fill(str(tokens))
    page.locator("#settings-button").click()


def bodies(page: Page) -> list[dict[str, Any]]:
    """What the page will have asked, as it asks it."""
    sent: list[dict[str, Any]] = []

    def note(request: Request) -> None:
        if request.url.endswith(CHAT):
            sent.append(json.loads(request.post_data or ""))

    page.on("request", note)
    return sent


def expect_idle(server: LiveServer) -> None:
    """Nothing runs or waits on the server any more, or soon nothing does."""
    until(lambda: engine_load(server) == 0)


def engine_load(server: LiveServer) -> int:
    """How many sequences run or wait."""
    engines = [state["engine"] for state in ask(server.url + "/v1/status").json["models"]]
    return sum(engine["running"] + engine["waiting"] for engine in engines if engine)


def until(happens: Callable[[], bool]) -> None:
    """Returns once it is true, and fails after a minute in which it was not."""
    for _ in range(3000):
        if happens():
            return
        time.sleep(0.02)
    pytest.fail("it did not happen")


def occupy(server: LiveServer) -> HTTPConnection:
    """A request for as long an answer as there can be, which runs or waits until its connection is closed."""
    connection = HTTPConnection(urlsplit(server.url).netloc)
    before = engine_load(server)
    body = {"model": "endless", "messages": [{"role": "user", "content": "x"}]}
    connection.request("POST", CHAT, json.dumps(body), {"Content-Type": "application/json"})
    until(lambda: engine_load(server) > before)
    return connection
