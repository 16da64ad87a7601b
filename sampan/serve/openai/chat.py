"""`POST /v1/chat/completions`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from sampan.serve.answer import AnswerRequest, answer
from sampan.serve.bounds import check_bounds
from sampan.serve.direct import DirectPath
from sampan.serve.document import whole_or_stream
from sampan.serve.openai.answer_schema import ChatCompletionBody
from sampan.serve.openai.chat_answer import ChatChunks, ChatCompletion
from sampan.serve.openai.chat_input import answer_request
from sampan.serve.openai.chat_schema import ChatRequest
from sampan.serve.openai.chunks import written
from sampan.serve.openai.objects import object_head
from sampan.serve.streaming import respond_whole, respond_with_events

router = APIRouter(tags=["OpenAI"])


@router.post(
    "/v1/chat/completions",
    responses=whole_or_stream(ChatCompletionBody, "a chunk, or [DONE]"),
)
async def create_chat_completion(body: ChatRequest, request: Request) -> Response:
    """Answer a conversation, as OpenAI's chat completions API."""
    asked = answer_request(body)
    check_bounds([asked], request.app.state.settings)
    if body.stream:
        direct = DirectPath()
        return await respond_with_events(request, _chunks(body, asked, request, direct), direct)
    return await respond_whole(request, _whole(body, asked, request))


async def _whole(body: ChatRequest, asked: AnswerRequest, request: Request) -> Response:
    client, deadline = request.state.client, request.state.deadline
    async with request.app.state.host.lease(body.model) as served:
        head = object_head("chatcmpl", "chat.completion", served)
        completion = ChatCompletion(head, asked.n, logprobs=bool(body.logprobs))
        async with aclosing(answer(served, asked, client=client, deadline=deadline)) as events:
            async for event in events:
                completion.add(event)
    return JSONResponse(completion.body())


async def _chunks(
    body: ChatRequest, asked: AnswerRequest, request: Request, direct: DirectPath
) -> AsyncGenerator[bytes, None]:
    client, deadline = request.state.client, request.state.deadline
    include_usage = None if body.stream_options is None else body.stream_options.include_usage
    async with request.app.state.host.lease(body.model) as served:
        head = object_head("chatcmpl", "chat.completion.chunk", served)
        chunks = ChatChunks(head, asked.n, logprobs=bool(body.logprobs), include_usage=include_usage)
        direct.write_with(chunks)
        events = answer(served, asked, client=client, deadline=deadline, direct=direct)
        async with aclosing(written(request, events, chunks.write)) as stream:
            async for chunk in stream:
                yield chunk
