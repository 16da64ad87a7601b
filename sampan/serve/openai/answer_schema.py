"""The bodies of answers, for the API's description. Tests hold what is sent against them."""

from __future__ import annotations

from typing import Literal

from sampan.serve.body import Body

FinishReason = Literal["stop", "length", "tool_calls"]


class PromptTokensDetails(Body):
    """Of the prompt's tokens, those that were in the prefix cache."""

    cached_tokens: int


class CompletionTokensDetails(Body):
    """Of the answers' tokens, those of reasoning."""

    reasoning_tokens: int


class CompletionUsage(Body):
    """Tokens of the prompt and of all answers to it, end tokens included."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class TokenChanceBody(Body):
    """A token, the natural logarithm of its probability, and its bytes."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TokenChanceBody):
    """A token that was chosen, and the likeliest in its place."""

    top_logprobs: list[TokenChanceBody]


class ChatLogprobs(Body):
    """Of the tokens of a message."""

    content: list[TokenLogprob]
    refusal: None


class CalledFunction(Body):
    """A function, and the JSON text of its arguments."""

    name: str
    arguments: str


class MadeToolCall(Body):
    """A call that the model makes."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class AnswerMessage(Body):
    """What the model says. `tool_calls` is there where it calls."""

    role: Literal["assistant"]
    content: str | None
    reasoning_content: str | None
    refusal: None
    tool_calls: list[MadeToolCall] | None = None


class ChatChoice(Body):
    """One of `n` answers."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatCompletionBody(Body):
    """A chat's answer."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: CompletionUsage


class LegacyLogprobsBody(Body):
    """Lists with an entry per token."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(Body):
    """One of `n` continuations of one of the prompts."""

    index: int
    text: str
    logprobs: LegacyLogprobsBody | None
    finish_reason: Literal["stop", "length"]


class CompletionBody(Body):
    """Continuations of texts."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: CompletionUsage


class EmbeddingBody(Body):
    """A vector: numbers, or the base64 text of little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingsUsage(Body):
    """Tokens of all inputs."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsBody(Body):
    """Vectors of texts, in their order."""

    object: Literal["list"]
    data: list[EmbeddingBody]
    model: str
    usage: EmbeddingsUsage
