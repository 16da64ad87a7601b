"""Figures of what was done, as Prometheus reads them."""

from __future__ import annotations

from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.serve.http_client import ask, post
from tests.serve.live_server import LiveServer


def figures(server: LiveServer) -> dict[str, float]:
    """Samples by name and labels, as they are written."""
    return {
        sample.name.removeprefix("sampan:")
        + "".join(f" {name}={value}" for name, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(ask(server.url + "/metrics").text)
        for sample in family.samples
    }


def complete(server: LiveServer, **fields: Any) -> Any:
    answer = post(server.url + "/v1/completions", {"model": "tiny", "seed": 1, "max_tokens": 5} | fields)
    assert answer.status == 200
    return answer.json


def test_a_request_counts(live_server: LiveServer) -> None:
    prompt = "How many tokens are counted? " * 8
    complete(live_server, prompt=prompt)
    before = figures(live_server)
    usage = complete(live_server, prompt=prompt, n=2)["usage"]
    after = figures(live_server)

    def grown(name: str) -> float:
        return after[name + " model_name=tiny"] - before[name + " model_name=tiny"]

    prompt_tokens = 2 * usage["prompt_tokens"]
    assert grown("prompt_tokens_total") == grown("prefix_cache_queries_total") == prompt_tokens
    assert grown("generation_tokens_total") == usage["completion_tokens"] == 10
    # All but its last token were there, for both answers.
    assert grown("prefix_cache_hits_total") == 2 * usage["prompt_tokens_details"]["cached_tokens"] > 0
    finished = "request_success_total finished_reason=length model_name=tiny"
    assert after[finished] - before[finished] == 2
    assert grown("time_to_first_token_seconds_count") == 2
    assert grown("inter_token_latency_seconds_count") == 8
    assert grown("time_per_output_token_seconds_count") == 2
    assert grown("e2e_request_latency_seconds_count") == 2
    assert grown("request_queue_time_seconds_count") == 2
    assert grown("request_prompt_tokens_sum") == prompt_tokens
    assert grown("request_generation_tokens_sum") == 10
    assert grown("engine_steps_total") >= 5
    assert after["num_requests_running model_name=tiny"] == 0
    assert after["kv_cache_usage_perc model_name=tiny"] == 0
    assert after["kv_cache_reusable_perc model_name=tiny"] > 0
    # Of a model without linear layers.
    assert after["state_usage_perc model_name=tiny"] == after["state_reusable_perc model_name=tiny"] == 0
    for part in ("weights", "cache", "buffers"):
        assert after[f"model_memory_bytes model_name=tiny part={part}"] > 0


def test_answers_are_counted_by_route_and_status(live_server: LiveServer) -> None:
    name = "http_responses_total route=/v1/completions status=200"
    before = figures(live_server).get(name, 0)
    complete(live_server, prompt="a")
    for path in ("/nothing/1", "/nothing/2"):
        ask(live_server.url + path)
    after = figures(live_server)
    assert after[name] == before + 1
    # Paths that are not there have no series of their own.
    assert after["http_responses_total route=none status=404"] >= 2
    assert not any("/nothing" in sample for sample in after)
