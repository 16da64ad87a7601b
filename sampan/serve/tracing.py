"""A span per request for OpenTelemetry, with the attributes of its conventions for generative AI.

https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sampan.errors import ConfigurationError
from sampan.serve.settings import ServeSettings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from starlette.types import Scope

    from sampan.serve.record import RequestRecord

PROVIDER = "sampan"

OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/messages": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}


def tracer_provider(settings: ServeSettings) -> TracerProvider | None:
    """What sends spans to the settings' endpoint; None where they have none. ConfigurationError when the
    packages for it are not installed.
    """
    if settings.tracing_endpoint is None:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ConfigurationError("tracing_endpoint needs `pip install 'sampan[tracing]'`") from error
    provider = TracerProvider(resource=Resource.create({"service.name": "sampan"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=settings.tracing_endpoint)))
    return provider


class Tracing:
    """Makes a span of every request to a model once it is answered; `traced` is for `RequestContext`."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("sampan.serve")

    def traced(self, scope: Scope, record: RequestRecord) -> None:
        """End the span of a request, whose beginning its record knows."""
        operation = OPERATIONS.get(scope["path"])
        if operation is None:
            return
        from opentelemetry.trace import SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        caller = {} if record.traceparent is None else {"traceparent": record.traceparent}
        span = self._tracer.start_span(
            f"{operation} {record.model}" if record.model else operation,
            context=TraceContextTextMapPropagator().extract(caller),
            kind=SpanKind.SERVER,
            attributes=_attributes(operation, scope, record),
            start_time=record.started_ns,
        )
        if record.error is not None or record.status >= 500:
            span.set_status(Status(StatusCode.ERROR, record.error))
        elapsed = 0.0 if record.ended is None else record.ended - record.started
        span.end(record.started_ns + int(elapsed * 1e9))

    def close(self) -> None:
        """Send what has not been sent."""
        self._provider.shutdown()


def _attributes(operation: str, scope: Scope, record: RequestRecord) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": record.model,
        "gen_ai.response.model": record.model,
        "http.response.status_code": record.status or None,
        "sampan.request_id": record.request_id,
        "sampan.client": record.client,
    }
    if scope.get("server") is not None:
        attributes["server.address"], attributes["server.port"] = scope["server"]
    if record.status >= 400:
        attributes["error.type"] = str(record.status)
    if record.sequences:
        attributes |= _of_sequences(record)
    return {name: value for name, value in attributes.items() if value is not None}


def _of_sequences(record: RequestRecord) -> dict[str, Any]:
    options = record.sequences[0].options
    first = record.first_token
    return {
        "gen_ai.request.choice.count": len(record.sequences),
        "gen_ai.request.max_tokens": options.max_tokens,
        "gen_ai.request.temperature": options.temperature,
        "gen_ai.request.top_p": options.top_p,
        "gen_ai.request.top_k": options.top_k,
        "gen_ai.request.frequency_penalty": options.frequency_penalty,
        "gen_ai.request.presence_penalty": options.presence_penalty,
        # OTLP has integers of 64 bits with a sign.
        "gen_ai.request.seed": None if (options.seed or 0) >= 2**63 else options.seed,
        "gen_ai.request.stop_sequences": options.stop or None,
        "gen_ai.response.finish_reasons": record.finish_reasons,
        "gen_ai.usage.input_tokens": record.prompt_tokens,
        "gen_ai.usage.output_tokens": record.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": record.cached_tokens,
        "gen_ai.response.time_to_first_chunk": None if first is None else first - record.started,
    }
