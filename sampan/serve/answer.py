"""One request to one model, as every API asks for it, and the events of its answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sampan.engine.options import MAX_SEED, SamplingOptions
from sampan.errors import RequestError
from sampan.serve.choice import Choice
from sampan.serve.direct import DirectPath
from sampan.serve.events import AnswerStart, AnswerUsage, Event
from sampan.serve.merge import merge
from sampan.serve.prompt import Conversation, Prompt, prepare_prompt
from sampan.serve.text.choose import choose_decode, choose_parser
from sampan.serve.text.compile import compile_constraint
from sampan.serve.text.plain import PlainParser
from sampan.serve.text.reasoning_budget import within_budget
from sampan.serve.text.response_format import ResponseFormat

if TYPE_CHECKING:
    from sampan.engine.sequence import Output
    from sampan.models.tokenizer import Tokenizer
    from sampan.serve.host.served import ServedModel

__all__ = ["AnswerRequest", "Conversation", "answer"]

# In characters or tokens: reading more takes longer than the way to another thread and back.
_LIGHT_LENGTH = 500


@dataclass(frozen=True)
class AnswerRequest:
    """What is asked of a model. `prompt`: a text to continue, token ids, or a conversation.

    `n` answers are drawn from one prompt, with the seeds `seed`, `seed` + 1, and so on. Only answers in a
    conversation are searched for reasoning and tool calls. `reasoning_budget`: most tokens of reasoning.
    """

    prompt: Prompt
    options: SamplingOptions
    n: int = 1
    format: ResponseFormat | None = None
    reasoning_budget: int | None = None


async def answer(
    served: ServedModel,
    request: AnswerRequest,
    *,
    client: str = "",
    deadline: float | None = None,
    direct: DirectPath | None = None,
) -> AsyncGenerator[Event, None]:
    """The events of an answer: AnswerStart, deltas of all choices as they are written, a ChoiceEnd for each
    choice, AnswerUsage. Closing the iterator cancels what still runs.

    Everything that can be refused is refused before AnswerStart: RequestError, QueueFullError. What fails
    later is raised where it happens. `client`: whom the engine's fairness counts the request for; `deadline`:
    when it ends whatever it has, as `time.monotonic()` counts. `direct`: where events of a single choice may
    go in place of this iterator.
    """
    if _is_light(request):
        choices = _prepare(served, request, client, deadline)
    else:
        # Long texts, grammars and vocabularies take their time; other requests go on meanwhile.
        choices = await asyncio.to_thread(_prepare, served, request, client, deadline)
    first = choices[0].sequence
    async with AsyncExitStack() as stack:
        streams = []
        for choice in choices:
            outputs = served.start(choice.sequence)
            stack.push_async_callback(outputs.aclose)
            if direct is not None and len(choices) == 1:
                direct.connect(choice, outputs)
            streams.append(_events(choice, outputs))
            stack.push_async_callback(streams[-1].aclose)
        yield AnswerStart(first.prompt_length, first.seed)
        merged = await stack.enter_async_context(aclosing(merge(streams)))
        async for _, events in merged:
            for event in events:
                yield event
    yield AnswerUsage(
        first.prompt_length,
        min(choice.sequence.cached_tokens for choice in choices),
        sum(choice.completion_tokens for choice in choices),
        sum(choice.reasoning_tokens for choice in choices),
    )


async def _events(
    choice: Choice, outputs: AsyncGenerator[list[Output], None]
) -> AsyncGenerator[list[Event], None]:
    async for batch in outputs:
        yield choice.push(batch)
        if choice.complete:
            await outputs.aclose()
            break
    yield choice.finish()


def _is_light(request: AnswerRequest) -> bool:
    """Whether preparing a request takes no longer than handing it to another thread may."""
    prompt = request.prompt
    if request.format is not None or request.options.logprobs is not None:
        return False
    if not isinstance(prompt, Conversation):
        return len(prompt) <= _LIGHT_LENGTH
    texts = [value for message in prompt.messages for value in message.values()]
    return (
        not prompt.tools
        and request.reasoning_budget is None
        and all(isinstance(text, str) for text in texts)
        and sum(map(len, texts)) <= _LIGHT_LENGTH
    )


def tokenizer_of(served: ServedModel) -> Tokenizer:
    """The model's tokenizer. RequestError when it has none."""
    tokenizer = served.model.tokenizer
    if tokenizer is None:
        raise RequestError(f"{served.name} has no tokenizer, so it cannot read or write text")
    return tokenizer


def _prepare(
    served: ServedModel, request: AnswerRequest, client: str, deadline: float | None
) -> list[Choice]:
    """Sequences, not yet queued, and what reads them."""
    tokenizer = tokenizer_of(served)
    prompt = prepare_prompt(tokenizer, request.prompt)
    chat = request.prompt if isinstance(request.prompt, Conversation) else None
    tools = () if chat is None else chat.usable_tools
    parallel = chat is None or chat.parallel_tool_calls
    grammar = compile_constraint(
        tokenizer,
        None if chat is None else prompt.text,
        format=request.format,
        tools=tools,
        tool_choice="auto" if chat is None else chat.tool_choice,
        parallel_tool_calls=parallel,
    )
    if chat is not None and request.reasoning_budget is not None:
        grammar = within_budget(tokenizer, prompt.text, request.reasoning_budget, grammar)
    decode = None if chat is None else choose_decode(tokenizer, tools=bool(tools))
    token_bytes = None if request.options.logprobs is None else tokenizer.token_bytes
    choices = []
    for index in range(request.n):
        sequence = served.model.engine.new_sequence(
            prompt.tokens,
            _options(request.options, index),
            constraint=None if grammar is None else grammar.start(),
            client=client,
            deadline=deadline,
            decode=decode,
        )
        parser = (
            PlainParser()
            if chat is None
            else choose_parser(tokenizer, prompt.text, tools=tools, parallel_tool_calls=parallel)
        )
        choices.append(Choice(index, sequence, parser, token_bytes))
    return choices


def _options(options: SamplingOptions, index: int) -> SamplingOptions:
    """Those of one choice: with a seed of its own."""
    if options.seed is None or index == 0:
        return options
    return replace(options, seed=(options.seed + index) % (MAX_SEED + 1))
