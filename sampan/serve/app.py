"""The HTTP application: routers, what failures become, and the layers around every request."""

from __future__ import annotations

from typing import cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse

from sampan.errors import SampanError
from sampan.serve import models, operations
from sampan.serve.access import AccessControl
from sampan.serve.anthropic import messages
from sampan.serve.context import REQUEST_ID, RequestContext
from sampan.serve.document import DocumentedAPI
from sampan.serve.errors import Problem, error_response, problem_of, validation_problem
from sampan.serve.host.host import ModelHost
from sampan.serve.limits import TIMEOUT_HEADER, Limits, ServerState
from sampan.serve.logs import RequestLog
from sampan.serve.metrics import ServerMetrics
from sampan.serve.openai import chat, completions, embeddings, responses
from sampan.serve.page import router as page
from sampan.serve.record import current_record
from sampan.serve.settings import ServeSettings
from sampan.serve.tracing import Tracing
from sampan.serve.version import installed_version

ROUTERS = (
    operations.router,
    models.router,
    chat.router,
    completions.router,
    embeddings.router,
    responses.router,
    messages.router,
    page.router,
)


def create_app(
    settings: ServeSettings, host: ModelHost, metrics: ServerMetrics, tracing: Tracing | None = None
) -> FastAPI:
    """The application over a host's models.

    Routes find `settings`, `host`, `metrics` and `server` (its `ServerState`) in `request.app.state`, and
    `request_id`, `client` and `deadline` in `request.state`.
    """
    app = DocumentedAPI(title="Sampan", version=installed_version(), docs_url=None, redoc_url=None)
    app.state.settings = settings
    app.state.host = host
    app.state.metrics = metrics
    app.state.server = server = ServerState()
    for router in ROUTERS:
        app.include_router(router)
    app.add_exception_handler(SampanError, _on_sampan_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_error)
    # The last one added is the outermost.
    app.add_middleware(Limits, settings=settings, server=server)
    app.add_middleware(AccessControl, settings=settings)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["authorization", "content-type", "x-api-key", REQUEST_ID, TIMEOUT_HEADER],
            expose_headers=[REQUEST_ID, "retry-after"],
        )
    finished = [metrics.responded, RequestLog(settings.log_prompts).answered]
    if tracing is not None:
        finished.append(tracing.traced)
    app.add_middleware(RequestContext, finished=tuple(finished))
    return app


def _on_sampan_error(request: Request, error: Exception) -> JSONResponse:
    return _respond(request, problem_of(cast(SampanError, error)))


def _on_invalid_request(request: Request, error: Exception) -> JSONResponse:
    error = cast(RequestValidationError, error)
    return _respond(request, validation_problem(error.errors(), error.body))


def _on_http_error(request: Request, error: Exception) -> JSONResponse:
    error = cast(HTTPException, error)
    message = error.detail
    if error.status_code == 404:
        message = f"there is nothing at {request.url.path}"
    elif error.status_code == 405:
        message = f"{request.url.path} does not take {request.method}"
    response = _respond(request, Problem(error.status_code, message))
    response.headers.update(error.headers or {})
    return response


def _respond(request: Request, problem: Problem) -> JSONResponse:
    record = current_record()
    if record is not None:
        record.error = problem.message
    return error_response(request.url.path, problem)
