"""OpenAI's client at the shared server."""

from __future__ import annotations

import openai
import pytest

from tests.serve.clients import openai_client
from tests.serve.live_server import LiveServer


@pytest.fixture
def client(live_server: LiveServer) -> openai.OpenAI:
    return openai_client(live_server)
