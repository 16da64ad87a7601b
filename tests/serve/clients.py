"""The official clients of the APIs, at a server of the tests, and what they leave behind in it."""

from __future__ import annotations

import time
from typing import Any

import anthropic
import openai

from tests.serve.http_client import ask
from tests.serve.live_server import LiveServer

# JSON that takes a model a while.
LONG_SCHEMA: dict[str, Any] = {"type": "array", "items": {"const": 1}, "minItems": 800}


def openai_client(server: LiveServer, key: str = "unused") -> openai.OpenAI:
    """OpenAI's client; it does not try again, so that each failure is seen."""
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)


def anthropic_client(server: LiveServer, key: str = "unused") -> anthropic.Anthropic:
    """Anthropic's client; it does not try again, so that each failure is seen."""
    return anthropic.Anthropic(base_url=server.url, api_key=key, max_retries=0)


def cancelled_count(server: LiveServer) -> int:
    """How many sequences of the model `tiny` were cancelled so far."""
    text = ask(f"{server.url}/metrics").text
    name = 'sampan:request_success_total{finished_reason="cancelled",model_name="tiny"}'
    values = [line.split()[-1] for line in text.splitlines() if line.startswith(name)]
    return int(float(values[0])) if values else 0


def wait_until_idle(server: LiveServer) -> None:
    """Returns once no sequence runs or waits."""

    def engine() -> dict[str, Any]:
        (model,) = ask(f"{server.url}/v1/status").json["models"]
        return dict(model["engine"])

    while (stats := engine())["running"] or stats["waiting"]:
        time.sleep(0.01)
