"""The body of `POST /v1/completions`, as OpenAI's API defines it, as far as it is supported here."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator

from sampan.serve.openai.prompts import Prompts
from sampan.serve.openai.sampling import SamplingBody

# OpenAI's default.
DEFAULT_MAX_TOKENS = 16


class CompletionRequest(SamplingBody):
    """Body of a request."""

    prompt: Prompts
    model: str | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None
    best_of: int | None = None
    suffix: None = None

    @field_validator("suffix", mode="before")
    @classmethod
    def _has_no_suffix(cls, value: Any) -> Any:
        if value is not None:
            raise ValueError("text before a suffix is not supported; leave it out")
        return value

    @property
    def choices(self) -> int:
        """Answers to each prompt."""
        return 1 if self.n is None else self.n
