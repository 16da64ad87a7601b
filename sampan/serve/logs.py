"""The server's log: a line per request and event, for people or as JSON. Texts only when asked for."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, TextIO

from starlette.types import Scope

from sampan.serve.record import RequestRecord
from sampan.serve.settings import ServeSettings

LOGGER_NAME = "sampan.serve"

# Fields of a line, as a mapping under this attribute of a logging record.
_FIELDS = "fields"

# Asked for every few seconds by machines.
_QUIET = ("/health", "/metrics", "/v1/status")

log = logging.getLogger(LOGGER_NAME)


def log_event(level: int, event: str, **fields: Any) -> None:
    """One line: what happened, and its particulars. None values are left out."""
    if log.isEnabledFor(level):
        given = {name: value for name, value in fields.items() if value is not None}
        log.log(level, event, extra={_FIELDS: given})


def log_failure(event: str, error: BaseException, **fields: Any) -> None:
    """An error that nobody foresaw, with its traceback."""
    log.error(event, exc_info=error, extra={_FIELDS: fields})


class RequestLog:
    """Writes a line for each request that has been answered. `texts`: prompts and answers as well."""

    def __init__(self, texts: bool) -> None:
        self._texts = texts

    def answered(self, scope: Scope, record: RequestRecord) -> None:
        """Write the line; for `RequestContext`."""
        if scope["path"] in _QUIET and record.status in (200, 503):
            return
        ended = record.ended or time.monotonic()
        fields: dict[str, Any] = {
            "request_id": record.request_id,
            "client": record.client or None,
            "method": record.method,
            "path": record.path,
            "status": record.status or "client left",
            "seconds": round(ended - record.started, 4),
            "error": record.error,
            "model": record.model,
        }
        if record.sequences:
            fields |= _of_sequences(record)
            if self._texts:
                fields |= _texts_of(record)
        log_event(logging.INFO, "request", **fields)


def _of_sequences(record: RequestRecord) -> dict[str, Any]:
    first = record.first_token
    return {
        "first_token_seconds": None if first is None else round(first - record.started, 4),
        "prompt_tokens": record.prompt_tokens,
        "cached_tokens": record.cached_tokens,
        "completion_tokens": record.completion_tokens,
        "finish_reasons": record.finish_reasons,
    }


def _texts_of(record: RequestRecord) -> dict[str, Any]:
    decode = record.decode
    if decode is None:
        return {}
    first = record.sequences[0]
    return {
        "prompt": decode(first.tokens[: first.prompt_length].tolist()),
        "answers": [
            decode(sequence.tokens[sequence.prompt_length : sequence.length].tolist())
            for sequence in record.sequences
        ],
    }


def configure_logs(settings: ServeSettings, stream: TextIO = sys.stderr) -> None:
    """Send the server's and uvicorn's log to `stream` in the form that the settings ask for."""
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not stream.isatty())
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines() if as_json else TextLines())
    level = settings.log_level.upper()
    for name, least in ((LOGGER_NAME, level), ("uvicorn.error", max(logging.WARNING, _number(level)))):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
        logger.setLevel(least)


def _number(level: str) -> int:
    return logging.getLevelNamesMapping()[level]


class JsonLines(logging.Formatter):
    """A JSON object per line: time (UTC), level, event, then the event's fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, _FIELDS, {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


class TextLines(logging.Formatter):
    """Local time, level, event and `name=value` for its fields; control characters escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        moment = time.strftime("%H:%M:%S", time.localtime(record.created))
        fields = "".join(f" {name}={_shown(value)}" for name, value in getattr(record, _FIELDS, {}).items())
        line = f"{moment} {record.levelname.lower():7} {record.getMessage()}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _shown(value: Any) -> str:
    text = str(value)
    if text.isprintable():
        return text if text and " " not in text else json.dumps(text, ensure_ascii=False)
    return json.dumps(text)
