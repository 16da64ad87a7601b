"""An answer as the response object of OpenAI's Responses API, and as the events of its stream."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from typing import Any, Literal

from sampan.serve.blocks import AnswerBlocks, Block, BlockStream, Delta
from sampan.serve.errors import Problem
from sampan.serve.events import AnswerStart, AnswerUsage, TextDelta
from sampan.serve.openai.logprobs import token_logprobs
from sampan.serve.openai.objects import finish_reason
from sampan.serve.sse import named_event, to_json

ItemStatus = Literal["in_progress", "completed", "incomplete"]

# By kind of block: what the events call its content.
_CONTENTS = {"reasoning": "reasoning_text", "text": "output_text", "tool_call": "function_call_arguments"}


class ResponseObject:
    """Makes the response object of one request. `settings`: the fields that repeat the request."""

    def __init__(self, settings: Mapping[str, Any], *, logprobs: bool) -> None:
        self._settings = settings
        self._logprobs = logprobs
        self._number = secrets.token_hex(16)
        self._created_at = int(time.time())

    def begun(self) -> dict[str, Any]:
        """The object before there is anything of the answer."""
        return self._body("in_progress", [])

    def whole(self, answer: AnswerBlocks) -> dict[str, Any]:
        """The object of an answer that is whole or that wanted more tokens. UnavailableError when the answer
        was cut short otherwise.
        """
        assert answer.end is not None and answer.usage is not None
        usage = _usage(answer.usage)
        if finish_reason(answer.end) == "length":
            details = {"reason": "max_output_tokens"}
            output = self._output(answer, whole=False)
            return self._body("incomplete", output, usage=usage, incomplete_details=details)
        output = self._output(answer, whole=True)
        return self._body("completed", output, usage=usage, completed_at=int(time.time()))

    def failed(self, answer: AnswerBlocks, problem: Problem) -> dict[str, Any]:
        """The object of what there was of an answer before an error."""
        error = {"code": "server_error", "message": problem.message}
        return self._body("failed", self._output(answer, whole=False), error=error)

    def item(self, block: Block, index: int, status: ItemStatus) -> dict[str, Any]:
        """A block as an output item; in progress, it is empty."""
        number = f"{self._number}{index:02x}"
        if block.kind == "tool_call":
            arguments = "" if status == "in_progress" else block.text
            call = {"call_id": block.call_id, "name": block.name, "arguments": arguments}
            return {"id": f"fc_{number}", "type": "function_call", "status": status, **call}
        content = [] if status == "in_progress" else [self.part(block)]
        if block.kind == "reasoning":
            return {
                "id": f"rs_{number}",
                "type": "reasoning",
                "status": status,
                "summary": [],
                "content": content,
            }
        return {
            "id": f"msg_{number}",
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": content,
        }

    def part(self, block: Block) -> dict[str, Any]:
        """The only content part of a message or of reasoning."""
        if block.kind == "reasoning":
            return {"type": "reasoning_text", "text": block.text}
        logprobs = token_logprobs(block.reports) if self._logprobs else []
        return {"type": "output_text", "text": block.text, "annotations": [], "logprobs": logprobs}

    def _output(self, answer: AnswerBlocks, *, whole: bool) -> list[dict[str, Any]]:
        """All items; unless the answer is whole, the last one is incomplete."""
        last = len(answer.blocks) - 1
        return [
            self.item(block, index, "completed" if whole or index < last else "incomplete")
            for index, block in enumerate(answer.blocks)
        ]

    def _body(self, status: str, output: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
        return {
            "id": f"resp_{self._number}",
            "object": "response",
            "created_at": self._created_at,
            "completed_at": None,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "output": output,
            "usage": None,
            **self._settings,
            **fields,
        }


class ResponseStream(BlockStream):
    """Writes the events of a stream."""

    def __init__(self, response: ResponseObject) -> None:
        super().__init__()
        self._response = response
        self._number = 0
        self._before_delta = ""

    def begin(self, start: AnswerStart) -> str:
        """What comes before the answer; the API has no place for what `start` says."""
        del start
        body = self._response.begun()
        return self._event("response.created", response=body) + self._event(
            "response.in_progress", response=body
        )

    def end(self) -> str:
        """What comes behind the whole answer."""
        body = self._response.whole(self.answer)
        text = self.close(whole=body["status"] == "completed")
        return text + self._event(f"response.{body['status']}", response=body)

    def fail(self, problem: Problem) -> bytes:
        """What comes behind as much of the answer as there was before an error."""
        body = self._response.failed(self.answer, problem)
        return self._event("response.failed", response=body).encode()

    def opened(self, block: Block, index: int) -> str:
        """An item begins, and its content part, with nothing in them."""
        response = self._response
        item = response.item(block, index, "in_progress")
        text = self._event("response.output_item.added", output_index=index, item=item)
        place: dict[str, Any] = {"item_id": item["id"], "output_index": index}
        if block.kind != "tool_call":
            place["content_index"] = 0
            part = response.part(Block(block.kind))
            text += self._event("response.content_part.added", **place, part=part)
        kind = f"response.{_CONTENTS[block.kind]}.delta"
        fields = to_json({"type": kind, **place}).removesuffix("}")
        self._before_delta = f'event: {kind}\ndata: {fields},"delta":'
        return text

    def delta(self, delta: Delta) -> str:
        """The last item grows."""
        number = self._number
        self._number += 1
        text = f"{self._before_delta}{to_json(delta.text)}"
        if isinstance(delta, TextDelta):
            logprobs = to_json(token_logprobs(delta.reports)) if delta.reports else "[]"
            return f'{text},"logprobs":{logprobs},"sequence_number":{number}}}\n\n'
        return f'{text},"sequence_number":{number}}}\n\n'

    def closed(self, block: Block, index: int, *, whole: bool) -> str:
        """An item has ended, and its content part."""
        item = self._response.item(block, index, "completed" if whole else "incomplete")
        place: dict[str, Any] = {"item_id": item["id"], "output_index": index}
        done = f"response.{_CONTENTS[block.kind]}.done"
        if block.kind == "tool_call":
            text = self._event(done, **place, name=block.name, arguments=block.text)
        else:
            place["content_index"] = 0
            (part,) = item["content"]
            fields = {key: part[key] for key in ("text", "logprobs") if key in part}
            text = self._event(done, **place, **fields)
            text += self._event("response.content_part.done", **place, part=part)
        return text + self._event("response.output_item.done", output_index=index, item=item)

    def _event(self, kind: str, **fields: Any) -> str:
        text = named_event(kind, **fields, sequence_number=self._number)
        self._number += 1
        return text


def _usage(usage: AnswerUsage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
