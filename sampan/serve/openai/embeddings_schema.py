"""The body of `POST /v1/embeddings`, as OpenAI's API defines it, and how vectors are pooled."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sampan.serve.body import Body
from sampan.serve.openai.prompts import Prompts


class EmbeddingsRequest(Body):
    """Body of a request. `pooling`: the mean of all tokens' vectors, or the vector of the last token."""

    input: Annotated[Prompts, Field(max_length=2048)]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    pooling: Literal["mean", "last"] | None = None
    user: str | None = None
