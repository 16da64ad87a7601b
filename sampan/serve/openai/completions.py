"""`POST /v1/completions`."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from sampan.errors import ParameterError
from sampan.serve.answer import AnswerRequest
from sampan.serve.answers import answer_each
from sampan.serve.bounds import check_bounds
from sampan.serve.direct import DirectPath
from sampan.serve.document import whole_or_stream
from sampan.serve.openai.answer_schema import CompletionBody
from sampan.serve.openai.chunks import written
from sampan.serve.openai.completions_answer import TextChunks, TextCompletion
from sampan.serve.openai.completions_schema import DEFAULT_MAX_TOKENS, CompletionRequest
from sampan.serve.openai.objects import object_head
from sampan.serve.streaming import respond_whole, respond_with_events

if TYPE_CHECKING:
    from sampan.serve.host.served import ServedModel

router = APIRouter(tags=["OpenAI"])


@router.post("/v1/completions", responses=whole_or_stream(CompletionBody, "a chunk, or [DONE]"))
async def create_completion(body: CompletionRequest, request: Request) -> Response:
    """Continue texts, as OpenAI's older completions API."""
    asked = _answer_requests(body)
    check_bounds(asked, request.app.state.settings)
    if body.stream:
        direct = DirectPath()
        return await respond_with_events(request, _chunks(body, asked, request, direct), direct)
    return await respond_whole(request, _whole(body, asked, request))


def _answer_requests(body: CompletionRequest) -> list[AnswerRequest]:
    """One for each prompt. ParameterError names what does not go together with the rest."""
    if body.best_of not in (None, body.choices):
        raise ParameterError("best_of", "best_of is only supported when it is n: all answers are returned")
    if body.echo and body.logprobs is not None:
        raise ParameterError("echo", "echo and logprobs do not go together: prompts have no logprobs here")
    most = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    options = body.sampling_options(max_tokens=most, logprobs=body.logprobs)
    format = None if body.structured_outputs is None else body.structured_outputs.to_format()
    return [AnswerRequest(prompt, options, body.choices, format) for prompt in body.prompt]


async def _whole(body: CompletionRequest, asked: list[AnswerRequest], request: Request) -> Response:
    client, deadline = request.state.client, request.state.deadline
    async with request.app.state.host.lease(body.model) as served:
        head = object_head("cmpl", "text_completion", served)
        completion = TextCompletion(head, _echoes(body, served), logprobs=body.logprobs is not None)
        async with aclosing(answer_each(served, asked, client=client, deadline=deadline)) as events:
            async for event in events:
                completion.add(event)
    return JSONResponse(completion.body())


async def _chunks(
    body: CompletionRequest, asked: list[AnswerRequest], request: Request, direct: DirectPath
) -> AsyncGenerator[bytes, None]:
    client, deadline = request.state.client, request.state.deadline
    include_usage = None if body.stream_options is None else body.stream_options.include_usage
    async with request.app.state.host.lease(body.model) as served:
        head = object_head("cmpl", "text_completion", served)
        chunks = TextChunks(
            head, _echoes(body, served), logprobs=body.logprobs is not None, include_usage=include_usage
        )
        direct.write_with(chunks)
        events = answer_each(served, asked, client=client, deadline=deadline, direct=direct)
        async with aclosing(written(request, events, chunks.write)) as stream:
            async for chunk in stream:
                yield chunk


def _echoes(body: CompletionRequest, served: ServedModel) -> list[str]:
    """What the text of each choice begins with."""
    tokenizer = served.model.tokenizer
    if not body.echo or tokenizer is None:
        return [""] * (body.choices * len(body.prompt))
    texts = [
        prompt if isinstance(prompt, str) else tokenizer.decode(prompt, skip_special=False)
        for prompt in body.prompt
    ]
    return [text for text in texts for _ in range(body.choices)]
