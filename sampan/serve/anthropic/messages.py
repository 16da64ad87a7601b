"""`POST /v1/messages` and `POST /v1/messages/count_tokens`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from sampan.engine.options import SamplingOptions
from sampan.errors import ParameterError
from sampan.serve.answer import AnswerRequest, answer, tokenizer_of
from sampan.serve.anthropic.answer import MessageObject, MessageStream
from sampan.serve.anthropic.answer_schema import MESSAGE_EVENTS, MessageBody, TokenCount
from sampan.serve.anthropic.conversation import conversation_of
from sampan.serve.anthropic.schema import CountTokensRequest, MessagesRequest, ThinkingEnabled
from sampan.serve.blocks import AnswerBlocks, written
from sampan.serve.bounds import check_bounds
from sampan.serve.direct import DirectPath
from sampan.serve.document import whole_or_stream
from sampan.serve.prompt import prepare_prompt
from sampan.serve.streaming import respond_whole, respond_with_events
from sampan.serve.text.response_format import ResponseFormat

router = APIRouter(prefix="/v1/messages", tags=["Anthropic"])


@router.post("", responses=whole_or_stream(MessageBody, "JSON of this type", *MESSAGE_EVENTS))
async def create_message(body: MessagesRequest, request: Request) -> Response:
    """Answer a conversation, as Anthropic's Messages API."""
    asked = _answer_request(body)
    check_bounds([asked], request.app.state.settings)
    if body.stream:
        direct = DirectPath()
        return await respond_with_events(request, _events(body, asked, request, direct), direct)
    return await respond_whole(request, _whole(body, asked, request))


@router.post("/count_tokens")
async def count_tokens(body: CountTokensRequest, request: Request) -> TokenCount:
    """How many tokens a request's prompt has."""
    conversation = conversation_of(body)
    async with request.app.state.host.lease(body.model) as served:
        prompt = await asyncio.to_thread(prepare_prompt, tokenizer_of(served), conversation)
    return TokenCount(input_tokens=len(prompt.tokens))


def _answer_request(body: MessagesRequest) -> AnswerRequest:
    """What the body asks for. ParameterError names what does not go together with the rest."""
    budget = body.thinking.budget_tokens if isinstance(body.thinking, ThinkingEnabled) else None
    if budget is not None and budget >= body.max_tokens:
        raise ParameterError("thinking.budget_tokens", "thinking.budget_tokens must be less than max_tokens")
    options: dict[str, Any] = {
        "max_tokens": body.max_tokens,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "top_k": body.top_k,
        "stop": tuple(body.stop_sequences or ()),
    }
    return AnswerRequest(
        prompt=conversation_of(body),
        options=SamplingOptions(**{name: value for name, value in options.items() if value is not None}),
        format=_format(body),
        reasoning_budget=budget,
    )


def _format(body: MessagesRequest) -> ResponseFormat | None:
    wanted = None if body.output_config is None else body.output_config.format
    if wanted is None:
        return None
    return ResponseFormat.json_schema(wanted.json_schema, "output_config.format.schema")


async def _whole(body: MessagesRequest, asked: AnswerRequest, request: Request) -> Response:
    client, deadline = request.state.client, request.state.deadline
    blocks = AnswerBlocks()
    async with request.app.state.host.lease(body.model) as served:
        message = MessageObject(served.name, body.max_tokens)
        async with aclosing(answer(served, asked, client=client, deadline=deadline)) as events:
            async for event in events:
                blocks.add(event)
    return JSONResponse(message.whole(blocks))


async def _events(
    body: MessagesRequest, asked: AnswerRequest, request: Request, direct: DirectPath
) -> AsyncGenerator[bytes, None]:
    client, deadline = request.state.client, request.state.deadline
    async with request.app.state.host.lease(body.model) as served:
        stream = MessageStream(MessageObject(served.name, body.max_tokens))
        direct.write_with(stream)
        events = answer(served, asked, client=client, deadline=deadline, direct=direct)
        async with aclosing(events):
            async for chunk in written(request, events, stream):
                yield chunk
