"""Figures for Prometheus, by the names that dashboards for vLLM know, with the prefix `sampan:`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sampan.serve.intervals import TokenIntervals

if TYPE_CHECKING:
    from starlette.types import Scope

    from sampan.engine.sequence import RunningSequence
    from sampan.serve.host.state import HostState, ModelState
    from sampan.serve.record import RequestRecord

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_PREFIX = "sampan:"
_MODEL = "model_name"
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 10.0)
_FIRST_TOKEN_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_REQUEST_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
_TOKEN_COUNTS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144)


class ServerMetrics:
    """What is counted as it happens, on the event loop; the rest is read from the host when asked for."""

    def __init__(self) -> None:
        # When a series began is a series of its own otherwise.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        self._finished = self._counter(
            "request_success", "Sequences that ended, by the reason.", _MODEL, "finished_reason"
        )
        self._responses = self._counter(
            "http_responses", "HTTP responses, by route and status.", "route", "status"
        )
        self._first_token = self._histogram(
            "time_to_first_token_seconds",
            "From a sequence's arrival to its first token.",
            _FIRST_TOKEN_SECONDS,
        )
        self._inter_token = TokenIntervals(
            _PREFIX + "inter_token_latency_seconds",
            "Between two tokens of a sequence.",
            _MODEL,
            _TOKEN_SECONDS,
        )
        self.registry.register(self._inter_token)
        self._per_token = self._histogram(
            "time_per_output_token_seconds", "The mean of a sequence after its first token.", _TOKEN_SECONDS
        )
        self._end_to_end = self._histogram(
            "e2e_request_latency_seconds", "From a sequence's arrival to its end.", _REQUEST_SECONDS
        )
        self._queue = self._histogram(
            "request_queue_time_seconds", "From a sequence's arrival to its start.", _FIRST_TOKEN_SECONDS
        )
        self._prompt_tokens = self._histogram("request_prompt_tokens", "Tokens of prompts.", _TOKEN_COUNTS)
        self._generated = self._histogram("request_generation_tokens", "Tokens of answers.", _TOKEN_COUNTS)
        self._load = self._histogram("model_load_seconds", "Loads of models.", _REQUEST_SECONDS)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(_PREFIX + name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(_PREFIX + name, text, (_MODEL,), buckets=buckets, registry=self.registry)

    def sequence_times(self, model: str) -> SequenceTimes:
        """Times one sequence of a model, which arrives now."""
        return SequenceTimes(self, model)

    def loaded(self, model: str, seconds: float) -> None:
        """A model was loaded."""
        self._load.labels(model).observe(seconds)

    def responded(self, scope: Scope, record: RequestRecord) -> None:
        """An HTTP request was answered."""
        # The route's pattern: paths themselves are without end.
        route = getattr(scope.get("route"), "path", "none")
        self._responses.labels(route, str(record.status or "none")).inc()

    def report_host(self, state: Callable[[], HostState]) -> None:
        """Include what the host's models do and take in every exposition."""
        self.registry.register(_HostCollector(state))

    def exposition(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self.registry)


class SequenceTimes:
    """Turns the moments of one sequence into observations. Times are by `time.monotonic()`."""

    def __init__(self, metrics: ServerMetrics, model: str) -> None:
        self._metrics = metrics
        self._model = model
        self._inter_token = metrics._inter_token.of(model)
        self._arrived = time.monotonic()
        self._first: float | None = None
        self._last = 0.0

    def wrote(self, count: int, now: float) -> None:
        """`count` tokens have come."""
        if self._first is None:
            self._first = now
            self._metrics._first_token.labels(self._model).observe(now - self._arrived)
            count -= 1
        elif count:
            self._inter_token.observe((now - self._last) / count, count)
        self._last = now

    def ended(self, sequence: RunningSequence, now: float) -> None:
        """The sequence has ended, or its reader has left."""
        metrics, model = self._metrics, self._model
        tokens = sequence.length - sequence.prompt_length
        metrics._finished.labels(model, sequence.finish_reason or "cancelled").inc()
        metrics._end_to_end.labels(model).observe(now - self._arrived)
        metrics._prompt_tokens.labels(model).observe(sequence.prompt_length)
        metrics._generated.labels(model).observe(tokens)
        if sequence.started is not None:
            metrics._queue.labels(model).observe(sequence.started - self._arrived)
        if self._first is not None and tokens > 1:
            metrics._per_token.labels(model).observe((self._last - self._first) / (tokens - 1))


class _HostCollector(Collector):
    """The host's state as metrics, read anew for each exposition."""

    def __init__(self, state: Callable[[], HostState]) -> None:
        self._state = state

    def describe(self) -> list[Metric]:
        """Nothing beforehand, so that registering does not ask the host."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The metrics."""
        state = self._state()
        for name, text, value in _GAUGES:
            yield _of_models(GaugeMetricFamily(_PREFIX + name, text, labels=(_MODEL,)), state, value)
        for name, text, value in _TOTALS:
            yield _of_models(CounterMetricFamily(_PREFIX + name, text, labels=(_MODEL,)), state, value)
        yield _memory(state)
        for name, text, bytes_ in (
            ("memory_budget_bytes", "Memory for the server with all its models.", state.budget),
            ("memory_used_bytes", "Memory that the server with all its models takes.", state.used),
            ("memory_server_bytes", "Memory that the server takes besides its models.", state.server),
        ):
            yield GaugeMetricFamily(_PREFIX + name, text, value=bytes_)


Value = Callable[["ModelState"], float]


def _engine(field: str) -> Value:
    """A figure of the model's engine; 0 before its first load."""
    return lambda model: 0.0 if model.engine is None else float(getattr(model.engine, field))


def _share(field: str, total: str) -> Value:
    """A number of pages or states as a share of all."""

    def share(model: ModelState) -> float:
        count = 0 if model.engine is None else getattr(model.engine, total)
        return float(getattr(model.engine, field)) / count if count else 0.0

    return share


def _of_models(
    family: GaugeMetricFamily | CounterMetricFamily, state: HostState, value: Value
) -> GaugeMetricFamily | CounterMetricFamily:
    for model in state.models:
        family.add_metric((model.name,), value(model))
    return family


_GAUGES: tuple[tuple[str, str, Value], ...] = (
    ("num_requests_running", "Sequences in the batch.", _engine("running")),
    ("num_requests_waiting", "Sequences that wait for their start.", _engine("waiting")),
    (
        "kv_cache_usage_perc",
        "Share of the KV cache's pages that sequences hold.",
        _share("pages_used", "pages_total"),
    ),
    (
        "kv_cache_reusable_perc",
        "Share of pages kept for prompts that begin alike.",
        _share("pages_cached", "pages_total"),
    ),
    (
        "state_usage_perc",
        "Share of linear layers' state slots that sequences hold.",
        _share("states_used", "states_total"),
    ),
    (
        "state_reusable_perc",
        "Share of state slots with snapshots for prompts that begin alike.",
        _share("states_cached", "states_total"),
    ),
    ("batch_tokens", "Tokens of the last step.", _engine("batch_tokens")),
    ("model_loaded", "1 for a model in memory.", lambda model: float(model.memory is not None)),
)
_TOTALS: tuple[tuple[str, str, Value], ...] = (
    ("prompt_tokens", "Tokens of prompts.", _engine("prompt_tokens_total")),
    ("generation_tokens", "Tokens of answers.", _engine("generated_tokens_total")),
    ("prefix_cache_queries", "Tokens looked for in the prefix cache.", _engine("prompt_tokens_total")),
    ("prefix_cache_hits", "Tokens found in the prefix cache.", _engine("cached_prompt_tokens_total")),
    ("engine_steps", "Steps.", _engine("steps_total")),
    ("model_loads", "Loads.", lambda model: model.loads),
    ("model_evictions", "Unloads, to make room or because they were asked for.", lambda m: m.evictions),
)


def _memory(state: HostState) -> Metric:
    family = GaugeMetricFamily(
        _PREFIX + "model_memory_bytes", "Memory that models hold, by what it is for.", labels=(_MODEL, "part")
    )
    for model in state.models:
        if model.memory is not None:
            family.add_metric((model.name, "weights"), model.memory.weights)
            family.add_metric((model.name, "cache"), model.memory.cache_resident)
            family.add_metric((model.name, "buffers"), model.memory.buffers_resident)
    return family
