"""Spans of requests, as OpenTelemetry has them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from sampan.errors import ConfigurationError
from sampan.serve import lifecycle
from sampan.serve.settings import ModelSettings, ServeSettings
from sampan.serve.tracing import tracer_provider
from tests.serve.http_client import ask, post
from tests.serve.live_server import LiveServer

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture(scope="module")
def traced(shared_home: Path, roomy_folder: Path, exporter: InMemorySpanExporter) -> Iterator[LiveServer]:
    """A server whose spans end up in memory."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAMPAN_HOME", str(shared_home))
        patch.setattr(lifecycle, "tracer_provider", lambda _: provider)
        server = LiveServer(ModelSettings(reference=str(roomy_folder), name="tiny"))
        server.start()
    yield server
    server.stop()


def next_span(exporter: InMemorySpanExporter) -> ReadableSpan:
    """The span of the last request; it ends a moment after the client has its answer."""
    while not exporter.get_finished_spans():
        pass
    (span,) = exporter.get_finished_spans()
    exporter.clear()
    return span


def test_a_request_to_a_model_is_a_span(traced: LiveServer, exporter: InMemorySpanExporter) -> None:
    body = {"model": "tiny", "prompt": "a", "max_tokens": 3, "temperature": 0.5, "n": 2, "stop": ["\x00\x01"]}
    usage = post(traced.url + "/v1/completions", body, {"traceparent": f"00-{TRACE}-{PARENT}-01"}).json[
        "usage"
    ]
    span = next_span(exporter)
    assert (span.name, span.kind) == ("text_completion tiny", SpanKind.SERVER)
    assert span.context is not None
    assert span.parent is not None
    assert f"{span.context.trace_id:032x}" == TRACE
    assert f"{span.parent.span_id:016x}" == PARENT
    attributes = dict(span.attributes or {})
    assert attributes["gen_ai.operation.name"] == "text_completion"
    assert attributes["gen_ai.request.model"] == attributes["gen_ai.response.model"] == "tiny"
    assert attributes["gen_ai.request.max_tokens"] == 3
    assert attributes["gen_ai.request.temperature"] == 0.5
    assert attributes["gen_ai.request.choice.count"] == 2
    assert attributes["gen_ai.request.stop_sequences"] == ("\x00\x01",)
    assert attributes["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert attributes["gen_ai.usage.output_tokens"] == usage["completion_tokens"]
    assert attributes["gen_ai.response.finish_reasons"] == ("length", "length")
    assert attributes["http.response.status_code"] == 200
    assert span.start_time is not None
    assert span.end_time is not None
    assert span.end_time > span.start_time
    assert span.status.status_code is StatusCode.UNSET


def test_an_error_is_told(traced: LiveServer, exporter: InMemorySpanExporter) -> None:
    post(traced.url + "/v1/completions", {"model": "nothing", "prompt": "a"})
    span = next_span(exporter)
    assert span.name == "text_completion"
    assert span.status.status_code is StatusCode.ERROR
    assert dict(span.attributes or {})["error.type"] == "404"


def test_other_requests_are_none(traced: LiveServer, exporter: InMemorySpanExporter) -> None:
    ask(traced.url + "/v1/models")
    ask(traced.url + "/health")
    post(traced.url + "/v1/completions", {"model": "tiny", "prompt": "a", "max_tokens": 1})
    assert next_span(exporter).name == "text_completion tiny"


def test_it_is_off_unless_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracer_provider(ServeSettings()) is None
    provider = tracer_provider(ServeSettings(tracing_endpoint="http://127.0.0.1:1/v1/traces"))
    assert provider is not None
    provider.shutdown()
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConfigurationError, match=r"sampan\[tracing\]"):
        tracer_provider(ServeSettings(tracing_endpoint="http://127.0.0.1:1/v1/traces"))
