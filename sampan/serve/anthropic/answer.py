"""An answer as Anthropic's message object, and as the events of its stream."""

from __future__ import annotations

import hashlib
import secrets
from typing import Any

from pydantic_core import from_json

from sampan.serve.blocks import AnswerBlocks, Block, BlockStream, Delta
from sampan.serve.errors import Problem, anthropic_body
from sampan.serve.events import AnswerStart, AnswerUsage
from sampan.serve.sse import named_event, to_json
from sampan.serve.unfinished import unfinished

# By kind of block: the delta's type, and its field.
_DELTAS = {
    "text": ("text_delta", "text"),
    "reasoning": ("thinking_delta", "thinking"),
    "tool_call": ("input_json_delta", "partial_json"),
}


class MessageObject:
    """Makes the message object of one request, which allowed `max_tokens`."""

    def __init__(self, model: str, max_tokens: int) -> None:
        self._model = model
        self._max_tokens = max_tokens
        self._id = f"msg_{secrets.token_hex(12)}"

    def begun(self, prompt_tokens: int) -> dict[str, Any]:
        """The object before there is anything of the answer, when it is not known what was cached."""
        usage = usage_body(AnswerUsage(prompt_tokens, 0, 0, 0))
        return self._body([], {"stop_reason": None, "stop_sequence": None}, usage)

    def whole(self, answer: AnswerBlocks) -> dict[str, Any]:
        """The object of a whole answer. UnavailableError when the server stopped before that."""
        content = [content_block(block) for block in answer.blocks]
        assert answer.usage is not None
        return self._body(content, self.stop(answer), usage_body(answer.usage))

    def stop(self, answer: AnswerBlocks) -> dict[str, str | None]:
        """Why the answer ended. UnavailableError when the server stopped before it did.

        An answer that ran out of time is paused: sent back as the last message, it goes on.
        """
        end, usage = answer.end, answer.usage
        assert end is not None and usage is not None
        if end.reason == "cancelled":
            raise unfinished(end.reason)
        if end.reason == "length":
            full = usage.completion_tokens >= self._max_tokens
            reason = "max_tokens" if full else "model_context_window_exceeded"
        elif end.reason == "stop":
            reason = "end_turn" if end.stop_string is None else "stop_sequence"
        else:
            reason = "tool_use" if end.reason == "tool_calls" else "pause_turn"
        return {"stop_reason": reason, "stop_sequence": end.stop_string}

    def _body(
        self, content: list[dict[str, Any]], stop: dict[str, str | None], usage: dict[str, Any]
    ) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            **stop,
            "usage": usage,
        }


def usage_body(usage: AnswerUsage) -> dict[str, Any]:
    """Tokens as Anthropic counts them: cached ones of the prompt are not among the input tokens."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    }


def content_block(block: Block) -> dict[str, Any]:
    """A block of a whole answer."""
    if block.kind == "text":
        return {"type": "text", "text": block.text}
    if block.kind == "reasoning":
        return {"type": "thinking", "thinking": block.text, "signature": signature(block.text)}
    return {"type": "tool_use", "id": block.call_id, "name": block.name, "input": tool_input(block.text)}


def tool_input(text: str) -> dict[str, Any]:
    """The arguments of a call; where they were cut short, as many as are whole.

    A model that writes something else is quoted under the name that Anthropic's documents have for it.
    """
    try:
        value = from_json(text or "{}", allow_inf_nan=False, allow_partial=True)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {"INVALID_JSON": text}


def signature(thinking: str) -> str:
    """What stands in for the proof that clients expect and send back: a digest of the text."""
    return hashlib.blake2b(thinking.encode("utf-8", "surrogatepass"), digest_size=24).hexdigest()


class MessageStream(BlockStream):
    """Writes the events of a stream."""

    def __init__(self, message: MessageObject) -> None:
        super().__init__()
        self._message = message
        self._before_delta = ""

    def begin(self, start: AnswerStart) -> str:
        """What comes before the answer."""
        message = self._message.begun(start.prompt_tokens)
        return named_event("message_start", message=message) + named_event("ping")

    def end(self) -> str:
        """What comes behind the whole answer. UnavailableError when the server stopped before that."""
        stop = self._message.stop(self.answer)
        assert self.answer.usage is not None
        usage = usage_body(self.answer.usage)
        return (
            self.close(whole=True)
            + named_event("message_delta", delta=stop, usage=usage)
            + named_event("message_stop")
        )

    def opened(self, block: Block, index: int) -> str:
        """A block begins, with nothing in it."""
        empty = content_block(Block(block.kind, block.call_id, block.name))
        if block.kind == "reasoning":
            empty["signature"] = ""
        kind, field = _DELTAS[block.kind]
        delta = to_json({"type": "content_block_delta", "index": index, "delta": {"type": kind}})
        self._before_delta = f'event: content_block_delta\ndata: {delta.removesuffix("}}")},"{field}":'
        return named_event("content_block_start", index=index, content_block=empty)

    def delta(self, delta: Delta) -> str:
        """The last block grows."""
        return f"{self._before_delta}{to_json(delta.text)}}}}}\n\n"

    def closed(self, block: Block, index: int, *, whole: bool) -> str:
        """A block has ended."""
        del whole  # only the message's stop_reason says so
        text = ""
        if block.kind == "reasoning":
            delta = {"type": "signature_delta", "signature": signature(block.text)}
            text = named_event("content_block_delta", index=index, delta=delta)
        return text + named_event("content_block_stop", index=index)

    def fail(self, problem: Problem) -> bytes:
        """What comes behind as much of the answer as there was before an error."""
        return named_event("error", **anthropic_body(problem)).encode()
