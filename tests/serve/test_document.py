"""The API against its own description: what the document allows, and much that it does not, is answered as it
says, and never by a failure.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.core.errors import InvalidSchema
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from sampan.serve.app import ROUTERS
from sampan.serve.settings import ModelSettings
from tests.cli.cli_runner import write_model
from tests.serve.conftest import THINKING_TEMPLATE, with_room
from tests.serve.live_server import LiveServer

OPERATIONS = [
    (method.lower(), route.path_format)
    for router in ROUTERS
    for route in router.routes
    if isinstance(route, APIRoute) and route.include_in_schema
    for method in route.methods
]
LONGEST_NAME = 64
# As many as the whole test may take a few seconds for.
EXAMPLES = 40
CHECKS = [
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
]


@pytest.fixture(scope="module")
def small_server(shared_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server whose answers are short, as requests for the longest there are come by the hundred."""
    folder = with_room(write_model(tmp_path_factory.mktemp("models") / "small", THINKING_TEMPLATE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAMPAN_HOME", str(shared_home))
        server = LiveServer(
            ModelSettings(reference=str(folder), name="small"), context=256, sequences=2, max_choices=2
        )
        server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def document(small_server: LiveServer) -> Any:
    return schemathesis.openapi.from_url(f"{small_server.url}/openapi.json")


@st.composite
def generated(draw: st.DrawFn, requests: st.SearchStrategy[Any]) -> Any:
    """One of these requests. Now and then Schemathesis cannot make what it has set out to make."""
    try:
        return draw(requests)
    except InvalidSchema:
        reject()


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_every_request_is_answered_as_the_document_says(document: Any, method: str, path: str) -> None:
    operation = document[path][method]
    requests = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
    if method == "post":
        requests |= operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)

    @given(generated(requests))
    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def answered(case: Any) -> None:
        # Else most requests would end at a model that does not exist.
        model = case.body.get("model") if isinstance(case.body, dict) else None
        if isinstance(model, str) and len(model) <= LONGEST_NAME:
            case.body["model"] = "small"
        response = case.call(timeout=60)
        assert response.status_code < 500 or response.status_code == 503, response.text
        case.validate_response(response, checks=CHECKS)

    answered()
