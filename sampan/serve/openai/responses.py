"""`POST /v1/responses`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from sampan.serve.answer import AnswerRequest, answer
from sampan.serve.blocks import AnswerBlocks, written
from sampan.serve.bounds import check_bounds
from sampan.serve.direct import DirectPath
from sampan.serve.document import whole_or_stream
from sampan.serve.openai.chat_schema import TextFormat
from sampan.serve.openai.responses_answer import ResponseObject, ResponseStream
from sampan.serve.openai.responses_answer_schema import RESPONSE_EVENTS, ResponseBody
from sampan.serve.openai.responses_input import answer_request
from sampan.serve.openai.responses_schema import FunctionChoice, Reasoning, ResponsesRequest, TextConfig
from sampan.serve.streaming import respond_whole, respond_with_events

if TYPE_CHECKING:
    from sampan.serve.host.served import ServedModel

router = APIRouter(tags=["OpenAI"])


@router.post("/v1/responses", responses=whole_or_stream(ResponseBody, "JSON of this type", *RESPONSE_EVENTS))
async def create_response(body: ResponsesRequest, request: Request) -> Response:
    """Answer a conversation, as OpenAI's Responses API."""
    asked = answer_request(body)
    check_bounds([asked], request.app.state.settings)
    if body.stream:
        direct = DirectPath()
        return await respond_with_events(request, _events(body, asked, request, direct), direct)
    return await respond_whole(request, _whole(body, asked, request))


async def _whole(body: ResponsesRequest, asked: AnswerRequest, request: Request) -> Response:
    client, deadline = request.state.client, request.state.deadline
    blocks = AnswerBlocks()
    async with request.app.state.host.lease(body.model) as served:
        response = _response_object(body, asked, served)
        async with aclosing(answer(served, asked, client=client, deadline=deadline)) as events:
            async for event in events:
                blocks.add(event)
    return JSONResponse(response.whole(blocks))


async def _events(
    body: ResponsesRequest, asked: AnswerRequest, request: Request, direct: DirectPath
) -> AsyncGenerator[bytes, None]:
    client, deadline = request.state.client, request.state.deadline
    async with request.app.state.host.lease(body.model) as served:
        stream = ResponseStream(_response_object(body, asked, served))
        direct.write_with(stream)
        events = answer(served, asked, client=client, deadline=deadline, direct=direct)
        async with aclosing(events):
            async for chunk in written(request, events, stream):
                yield chunk


def _response_object(body: ResponsesRequest, asked: AnswerRequest, served: ServedModel) -> ResponseObject:
    options = asked.options
    reasoning = body.reasoning or Reasoning()
    text = body.text or TextConfig()
    choice = body.tool_choice or "auto"
    settings = {
        "model": served.name,
        "background": False,
        "instructions": body.instructions,
        "max_output_tokens": options.max_tokens,
        "max_tool_calls": None,
        "metadata": body.metadata or {},
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": None,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {"effort": reasoning.effort, "summary": None},
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": False,
        "temperature": options.temperature,
        "text": {
            "format": (text.format or TextFormat(type="text")).model_dump(by_alias=True, exclude_none=True)
        },
        "tool_choice": choice.model_dump() if isinstance(choice, FunctionChoice) else choice,
        "tools": [tool.model_dump() for tool in body.tools or ()],
        "top_logprobs": options.logprobs or 0,
        "top_p": options.top_p,
        "truncation": "disabled",
        "user": body.user,
    }
    return ResponseObject(settings, logprobs=options.logprobs is not None)
