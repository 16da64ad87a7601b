"""The models of the server: list them, load them, unload them."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from sampan.serve.host.host import ModelHost
from sampan.serve.host.state import ModelState

router = APIRouter(prefix="/v1/models", tags=["models"])


class NamedModel(BaseModel):
    """A request about one model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(max_length=1024)


@router.get("")
async def list_models(request: Request) -> dict[str, Any]:
    """The models that requests can name, in OpenAI's form, with their context and state."""
    host: ModelHost = request.app.state.host
    known = {state.name: state for state in host.state().models}
    return {"object": "list", "data": [_described(name, known.get(name)) for name in host.names()]}


@router.post("/load")
async def load(body: NamedModel, request: Request) -> dict[str, Any]:
    """Load a model and wait until it is there."""
    host: ModelHost = request.app.state.host
    return (await host.load(body.model)).to_dict()


@router.post("/unload")
async def unload(body: NamedModel, request: Request) -> dict[str, Any]:
    """Free a model's memory; a 409 when it has requests."""
    host: ModelHost = request.app.state.host
    return (await host.unload(body.model)).to_dict()


@router.get("/{model:path}")
async def show_model(model: str, request: Request) -> dict[str, Any]:
    """One model, in OpenAI's form."""
    host: ModelHost = request.app.state.host
    state = host.model_state(model)
    return _described(state.name, state)


def _described(name: str, state: ModelState | None) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "sampan",
        "context_length": None if state is None else state.context,
        "state": "unloaded" if state is None else state.phase,
    }
