"""Health, version, metrics, status and the models, over HTTP."""

from __future__ import annotations

import openai
from prometheus_client.parser import text_string_to_metric_families

from tests.serve.http_client import ask, post
from tests.serve.live_server import CONTEXT, LiveServer


def test_health_and_version(live_server: LiveServer) -> None:
    health = ask(live_server.url + "/health")
    assert (health.status, health.json) == (200, {"status": "ready"})
    assert ask(live_server.url + "/version").json["version"]


def test_the_official_client_lists_models(live_server: LiveServer) -> None:
    client = openai.OpenAI(base_url=live_server.url + "/v1", api_key="any")
    (model,) = client.models.list()
    assert model.id == "tiny"
    assert client.models.retrieve("tiny").model_dump()["context_length"] == CONTEXT


def test_a_model_that_is_not_there(live_server: LiveServer) -> None:
    answer = ask(live_server.url + "/v1/models/nothing")
    assert answer.status == 404
    error = answer.json["error"]
    assert error["code"] == "model_not_found"
    assert error["param"] == "model"
    assert "there are: tiny" in error["message"]


def test_status(live_server: LiveServer) -> None:
    status = ask(live_server.url + "/v1/status").json
    assert status["status"] == "ready"
    (model,) = status["models"]
    assert (model["name"], model["phase"], model["loads"]) == ("tiny", "idle", 1)
    memory, engine = model["memory"], model["engine"]
    assert engine["pages_total"] == 4 * CONTEXT // 64
    parts = [memory["weights"], memory["cache_reserved"], memory["buffers_reserved"]]
    assert memory["reserved"] == sum(parts)
    assert memory["held"] <= memory["reserved"] <= status["memory"]["budget"]
    assert status["memory"]["used"] == status["memory"]["server"] + memory["held"]


def test_metrics_can_be_read_and_have_the_names_of_dashboards(live_server: LiveServer) -> None:
    families = {
        family.name: family
        for family in text_string_to_metric_families(ask(live_server.url + "/metrics").text)
    }
    for name in (
        "num_requests_running",
        "num_requests_waiting",
        "kv_cache_usage_perc",
        "prefix_cache_queries",
        "prefix_cache_hits",
        "prompt_tokens",
        "generation_tokens",
        "request_success",
        "time_to_first_token_seconds",
        "inter_token_latency_seconds",
        "time_per_output_token_seconds",
        "e2e_request_latency_seconds",
        "request_queue_time_seconds",
    ):
        assert f"sampan:{name}" in families
    (loads,) = families["sampan:model_loads"].samples
    assert loads.labels == {"model_name": "tiny"}
    assert loads.value == 1


def test_loading_what_is_loaded_changes_nothing(live_server: LiveServer) -> None:
    assert post(live_server.url + "/v1/models/load", {"model": "tiny"}).json["loads"] == 1


def test_a_bad_field_is_named(live_server: LiveServer) -> None:
    for body, message in (
        ({}, "model: is required"),
        ({"model": 3}, "model: must be a valid string"),
        ({"model": "tiny", "force": True}, "force: is not a parameter of this API"),
        (b"{", "the body is not JSON"),
        (b"", "the request has no body"),
    ):
        answer = post(live_server.url + "/v1/models/load", body, {"content-type": "application/json"})
        assert answer.status == 400
        assert message in answer.message


def test_paths_and_methods_that_are_not_there(live_server: LiveServer) -> None:
    answer = ask(live_server.url + "/v2/nothing")
    assert (answer.status, answer.message) == (404, "there is nothing at /v2/nothing")
    answer = ask(live_server.url + "/v1/models/load", "DELETE")
    assert answer.status == 405
    assert "allow" in answer.headers


def test_a_request_has_an_id(live_server: LiveServer) -> None:
    assert (
        ask(live_server.url + "/health", headers={"x-request-id": "mine-1"}).headers["x-request-id"]
        == "mine-1"
    )
    for bad in ("a b", "x" * 65, 'a"b'):
        own = ask(live_server.url + "/health", headers={"x-request-id": bad}).headers["x-request-id"]
        assert own != bad
        assert len(own) == 24
