"""`POST /v1/embeddings`."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

import numpy as np
from fastapi import APIRouter, Request
from numpy.typing import NDArray
from starlette.responses import Response

from sampan.errors import ParameterError
from sampan.serve.answer import tokenizer_of
from sampan.serve.merge import merge
from sampan.serve.openai.answer_schema import EmbeddingsBody
from sampan.serve.openai.embeddings_schema import EmbeddingsRequest
from sampan.serve.openai.objects import unfinished
from sampan.serve.sse import to_json
from sampan.serve.streaming import respond_whole

if TYPE_CHECKING:
    from sampan.serve.host.served import ServedModel

# Inputs of one request that the engine has at once: enough to fill its steps, few enough to leave room in
# its queue for others.
_AT_ONCE = 16

Vector = NDArray[np.float32]

router = APIRouter(tags=["OpenAI"])


@router.post("/v1/embeddings", responses={200: {"model": EmbeddingsBody}})
async def create_embeddings(body: EmbeddingsRequest, request: Request) -> Response:
    """Vectors of texts, of length 1, as OpenAI's embeddings API."""
    return await respond_whole(request, _embeddings(body, request))


async def _embeddings(body: EmbeddingsRequest, request: Request) -> Response:
    async with request.app.state.host.lease(body.model) as served:
        width = served.model.config.hidden_size
        if body.dimensions is not None and body.dimensions > width:
            raise ParameterError(
                "dimensions", f"dimensions is {body.dimensions}, this model's vectors have {width}"
            )
        tokenizer = tokenizer_of(served)
        prompts = await asyncio.to_thread(
            lambda: [tokenizer.encode(text) if isinstance(text, str) else text for text in body.input]
        )
        vectors: list[Vector] = [np.empty(0, np.float32)] * len(prompts)
        pending = enumerate(prompts)
        workers = [_embed(served, pending, body, request) for _ in range(min(_AT_ONCE, len(prompts)))]
        async with aclosing(merge(workers)) as results:
            async for _, (index, vector) in results:
                vectors[index] = vector
        tokens = sum(len(prompt) for prompt in prompts)
    return Response(
        await asyncio.to_thread(_body, body, served.name, vectors, tokens), media_type="application/json"
    )


async def _embed(
    served: ServedModel,
    pending: Iterator[tuple[int, Sequence[int]]],
    body: EmbeddingsRequest,
    request: Request,
) -> AsyncGenerator[tuple[int, Vector], None]:
    """Vectors of prompts that no other worker has taken, with their numbers."""
    for index, tokens in pending:
        sequence = served.model.engine.new_embedding(
            tokens, body.pooling or "mean", client=request.state.client, deadline=request.state.deadline
        )
        async with aclosing(served.start(sequence)) as outputs:
            async for _ in outputs:
                pass
        if sequence.embedding is None:
            raise unfinished(sequence.finish_reason)
        yield index, _unit(sequence.embedding[: body.dimensions])


def _unit(vector: Vector) -> Vector:
    """The vector at length 1; one of zeros stays as it is."""
    length = float(np.linalg.norm(vector.astype(np.float64)))
    return vector if length == 0 else (vector / length).astype(np.float32)


def _body(body: EmbeddingsRequest, model: str, vectors: Sequence[Vector], tokens: int) -> bytes:
    """The response, vector by vector: many are more than one call into the JSON encoder should take."""
    as_text = body.encoding_format == "base64"
    data = []
    for index, vector in enumerate(vectors):
        numbers = _base64(vector) if as_text else vector.tolist()
        data.append(to_json({"object": "embedding", "index": index, "embedding": numbers}))
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    rest = to_json({"model": model, "usage": usage})[1:]
    return f'{{"object":"list","data":[{",".join(data)}],{rest}'.encode()


def _base64(vector: Vector) -> str:
    """The vector's float32 numbers, little-endian."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
