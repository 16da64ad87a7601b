"""The OpenAPI document: what FastAPI reads off the routes, and what it cannot know."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import FastAPI

from sampan.serve.access import HEALTH_PATH
from sampan.serve.body import Body
from sampan.serve.errors import is_anthropic

Responses = dict[int | str, dict[str, Any]]


class OpenAIErrorDetails(Body):
    """What is wrong; `param` is the parameter, where there is one."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(Body):
    """An error as OpenAI's API tells it."""

    error: OpenAIErrorDetails


class AnthropicErrorDetails(Body):
    """What is wrong."""

    type: str
    message: str


class AnthropicError(Body):
    """An error as Anthropic's API tells it."""

    type: Literal["error"]
    error: AnthropicErrorDetails


def whole_or_stream(body: type[Body], data: str, *events: str) -> Responses:
    """What a route answers: the whole body, or server-sent events with these names, or "message", which
    needs none; `data` describes what they say.
    """
    schema = {
        "type": "object",
        "properties": {
            "event": {"enum": events or ("message",)},
            "data": {"type": "string", "description": data},
        },
        "required": ["event", "data"],
    }
    content = {"text/event-stream": {"schema": schema}}
    return {200: {"model": body, "description": "The answer, whole or as a stream", "content": content}}


class DocumentedAPI(FastAPI):
    """An application whose document has the keys and errors that the layers around its routes add."""

    def openapi(self) -> dict[str, Any]:
        """The document."""
        if self.openapi_schema is None:
            _complete(super().openapi())
        assert self.openapi_schema is not None
        return self.openapi_schema


def _complete(document: dict[str, Any]) -> None:
    components = document.setdefault("components", {})
    components["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    }
    schemas = components.setdefault("schemas", {})
    # FastAPI's own answer to a bad request, which is a 400 here.
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    for error in (OpenAIError, AnthropicError):
        schema = error.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs") | {error.__name__: schema}
    for path, operations in document["paths"].items():
        name = (AnthropicError if is_anthropic(path) else OpenAIError).__name__
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
        for operation in operations.values():
            responses = operation["responses"]
            responses.pop("422", None)
            if path != HEALTH_PATH:
                responses["4XX"] = {"description": "Refused; the body says why", "content": content}
                responses["5XX"] = {"description": "Not possible now; the body says why", "content": content}
                # The last one: where the server has no keys, none is needed.
                operation["security"] = [{"bearer": []}, {"header": []}, {}]
