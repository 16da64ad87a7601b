"""The models of the server: list them, load them, unload them."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from sampan.serve.host.host import ModelHost
from sampan.serve.host.state import ModelState, Phase

router = APIRouter(prefix="/v1/models", tags=["models"])


class NamedModel(BaseModel):
    """A request about one model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(max_length=1024)


class ModelBody(BaseModel):
    """A model, in OpenAI's form, with its context and state."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    context_length: int | None
    state: Phase


class ModelList(BaseModel):
    """Models."""

    object: Literal["list"]
    data: list[ModelBody]


@router.get("")
async def list_models(request: Request) -> ModelList:
    """The models that requests can name, in OpenAI's form, with their context and state."""
    host: ModelHost = request.app.state.host
    known = {state.name: state for state in host.state().models}
    data = [_described(name, known.get(name)) for name in host.names()]
    return ModelList(object="list", data=data)


@router.post("/load", response_model=None, responses={200: {"model": ModelState}})
async def load(body: NamedModel, request: Request) -> dict[str, Any]:
    """Load a model and wait until it is there."""
    host: ModelHost = request.app.state.host
    return (await host.load(body.model)).to_dict()


@router.post("/unload", response_model=None, responses={200: {"model": ModelState}})
async def unload(body: NamedModel, request: Request) -> dict[str, Any]:
    """Free a model's memory; a 409 when it has requests."""
    host: ModelHost = request.app.state.host
    return (await host.unload(body.model)).to_dict()


@router.get("/{model:path}")
async def show_model(model: str, request: Request) -> ModelBody:
    """One model, in OpenAI's form."""
    host: ModelHost = request.app.state.host
    state = host.model_state(model)
    return _described(state.name, state)


def _described(name: str, state: ModelState | None) -> ModelBody:
    return ModelBody(
        id=name,
        object="model",
        created=0,
        owned_by="sampan",
        context_length=None if state is None else state.context,
        state="unloaded" if state is None else state.phase,
    )
