"""What operators ask a server: whether it lives, what it does, its version, its metrics."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from sampan.serve.limits import ServerState
from sampan.serve.metrics import CONTENT_TYPE, ServerMetrics
from sampan.serve.version import installed_version

router = APIRouter(tags=["operations"])


@router.get("/health", responses={503: {"description": "The server starts or drains"}})
async def health(request: Request) -> JSONResponse:
    """Whether requests are taken: 200 when ready, 503 while the server starts or drains. Needs no key."""
    state: ServerState = request.app.state.server
    return JSONResponse({"status": state.phase}, 200 if state.phase == "ready" else 503)


@router.get("/version")
async def sampan_version() -> dict[str, str]:
    """Sampan's version."""
    return {"version": installed_version()}


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Figures in Prometheus' text format."""
    figures: ServerMetrics = request.app.state.metrics
    return Response(figures.exposition(), media_type=CONTENT_TYPE)


@router.get("/v1/status")
async def status(request: Request) -> dict[str, Any]:
    """What the server and each of its models do and take at this moment."""
    server: ServerState = request.app.state.server
    host = request.app.state.host.state()
    return {
        "status": server.phase,
        "version": installed_version(),
        "uptime_s": time.monotonic() - server.started,
        "requests": server.requests,
        "memory": {"budget": host.budget, "used": host.used, "server": host.server},
        "models": [model.to_dict() for model in host.models],
    }
