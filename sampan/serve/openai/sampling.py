"""What the bodies of chat and text completions have in common: how tokens are chosen, and when to stop."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from sampan.engine.options import MAX_SEED, SamplingOptions
from sampan.errors import ParameterError
from sampan.serve.body import MAXIMUM_STOPS, Body, StopString
from sampan.serve.sse import to_json
from sampan.serve.text.response_format import ResponseFormat

MAXIMUM_BIASES = 1024

NonEmpty = Annotated[str, StringConstraints(min_length=1)]
StopStrings = Annotated[
    list[StopString],
    Field(max_length=MAXIMUM_STOPS),
    BeforeValidator(
        lambda value: [value] if isinstance(value, str) else value,
        json_schema_input_type=StopString | Annotated[list[StopString], Field(max_length=MAXIMUM_STOPS)],
    ),
]
TokenText = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,9}$")]
Bias = Annotated[float, Field(ge=-100, le=100)]

# Options of the engine that have their own names in a body.
_PLAIN_OPTIONS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "max_tokens",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "ignore_eos",
    "experts_per_token",
    "expert_mass",
)


class StreamOptions(Body):
    """What a stream has besides the answer. Obfuscation, random text that hides lengths, there is none."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class StructuredOutputs(Body):
    """The form of the answer in one of these ways, which have vLLM's names: `json` is a schema, `regex`
    matches the whole answer, `choice` lists all answers there may be, `grammar` is in Lark's notation as
    llguidance reads it.
    """

    json_schema: Annotated[dict[str, Any] | None, Field(alias="json")] = None
    regex: NonEmpty | None = None
    choice: Annotated[list[NonEmpty], Field(min_length=1)] | None = None
    grammar: NonEmpty | None = None

    @model_validator(mode="after")
    def _is_one_way(self) -> Self:
        if len(self.model_fields_set) != 1 or None in (getattr(self, way) for way in self.model_fields_set):
            raise ValueError("needs exactly one of json, regex, choice and grammar")
        return self

    def to_format(self) -> ResponseFormat:
        """The same for the compiler; ParameterError when it is beyond the bounds."""
        way = next(iter(self.model_fields_set))
        where = f"structured_outputs.{way.removesuffix('_schema')}"
        if self.json_schema is not None:
            return ResponseFormat.json_schema(self.json_schema, where)
        if self.choice is not None:
            answers = " | ".join(to_json(text) for text in self.choice)
            return ResponseFormat("lark", f"start: {answers}", where)
        if self.regex is not None:
            return ResponseFormat("regex", self.regex, where)
        return ResponseFormat("lark", str(self.grammar), where)


class SamplingBody(Body):
    """The parameters. None is as if it had not been given."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: StopStrings | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = None
    logit_bias: Annotated[dict[TokenText, Bias], Field(max_length=MAXIMUM_BIASES)] | None = None
    ignore_eos: bool | None = None
    experts_per_token: Annotated[int, Field(ge=1)] | None = None
    expert_mass: Annotated[float, Field(gt=0, le=1)] | None = None
    structured_outputs: StructuredOutputs | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None

    def sampling_options(self, **others: Any) -> SamplingOptions:
        """The same for the engine; `others` are options that the APIs write in different ways.

        ParameterError for `stream_options` of an answer that is none.
        """
        if self.stream_options is not None and not self.stream:
            raise ParameterError("stream_options", "stream_options is only for a stream; usage always comes")
        values: dict[str, Any] = {name: getattr(self, name) for name in _PLAIN_OPTIONS} | others
        if self.stop is not None:
            values["stop"] = tuple(self.stop)
        if self.logit_bias is not None:
            values["logit_bias"] = tuple((int(token), bias) for token, bias in self.logit_bias.items())
        return SamplingOptions(**{name: value for name, value in values.items() if value is not None})
