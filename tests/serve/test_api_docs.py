"""docs/api.md: its examples run against a real server, and its tables have every parameter."""

from __future__ import annotations

import re

import pytest
from pydantic import BaseModel

from sampan.serve.anthropic.schema import MessagesRequest
from sampan.serve.body import MAXIMUM_STOP_LENGTH, MAXIMUM_STOPS, MAXIMUM_TOOLS
from sampan.serve.openai.chat_schema import ChatRequest
from sampan.serve.openai.completions_schema import CompletionRequest
from sampan.serve.openai.embeddings_schema import EmbeddingsRequest
from sampan.serve.openai.responses_schema import ResponsesRequest
from sampan.serve.openai.sampling import MAXIMUM_BIASES, StructuredOutputs
from tests.serve.live_server import LiveServer
from tests.test_docs import ROOT, blocks, page, table

NAME = "docs/api.md"
TEXT = page(NAME)
BODIES: dict[str, type[BaseModel]] = {
    "## Chat completions": ChatRequest,
    "## Embeddings": EmbeddingsRequest,
    "## Responses": ResponsesRequest,
    "## Messages": MessagesRequest,
}


def parameters(heading: str) -> dict[str, str]:
    rows = table(TEXT[TEXT.index(f"\n{heading}\n") :], "| parameter |")
    return {row[0].strip("`"): row[1] for row in rows}


def test_the_examples_run(live_server: LiveServer, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for line, code in blocks(TEXT, "python"):
        code = code.replace("http://127.0.0.1:8000", live_server.url)
        exec(compile("\n" * line + code, ROOT / NAME, "exec"), names)
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize(("heading", "body"), BODIES.items())
def test_tables_have_every_parameter(heading: str, body: type[BaseModel]) -> None:
    assert set(parameters(heading)) == set(body.model_fields)


def test_the_table_of_completions_has_what_chats_have_not() -> None:
    shown = set(parameters("## Completions"))
    assert shown <= set(CompletionRequest.model_fields)
    assert set(CompletionRequest.model_fields) - shown <= set(ChatRequest.model_fields)


def test_ways_of_structured_outputs() -> None:
    shown = {row[0].strip("`") for row in table(TEXT, "has vLLM's names")}
    fields = StructuredOutputs.model_fields.items()
    assert shown == {field.alias or name for name, field in fields}


def test_bounds_are_those_of_the_code() -> None:
    chat, messages = parameters("## Chat completions"), parameters("## Messages")
    for shown in (chat["stop"], messages["stop_sequences"]):
        assert re.findall(r"\d+", shown) == [str(MAXIMUM_STOPS), str(MAXIMUM_STOP_LENGTH)]
    assert chat["logit_bias"].startswith(f"up to {MAXIMUM_BIASES} ")
    tools = [parameters(heading)["tools"] for heading in BODIES if "tools" in BODIES[heading].model_fields]
    assert len(tools) == 3 and all(shown.startswith(f"up to {MAXIMUM_TOOLS} ") for shown in tools)


@pytest.mark.parametrize(
    ("heading", "name"),
    [
        (heading, name)
        for heading in ("## Chat completions", "## Responses")
        for name, what in parameters(heading).items()
        if what.startswith("refused")
    ],
)
def test_what_is_refused_is_refused(heading: str, name: str) -> None:
    needed = {"messages": [{"role": "user", "content": "a"}]} if "Chat" in heading else {"input": "a"}
    for value in ({}, "a", True, 1):
        with pytest.raises(ValueError, match=name):
            BODIES[heading].model_validate(needed | {name: value})
