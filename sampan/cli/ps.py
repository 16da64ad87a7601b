"""`ps`: what the models of a running server do."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sampan.cli.arguments import JsonOption
from sampan.cli.console import print_json, print_table, size_text
from sampan.errors import UnavailableError

if TYPE_CHECKING:
    from sampan.serve.settings import ServeSettings

_TIMEOUT_S = 10.0
_MOST_BYTES = 16 * 2**20


def ps(
    config: Annotated[Path | None, typer.Option(help="The server's TOML file of settings.")] = None,
    host: Annotated[str | None, typer.Option(help="The server's address, unless the settings say.")] = None,
    port: Annotated[int | None, typer.Option(help="The server's port, unless the settings say.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the models of the server that runs here, and what they do.

    Where it wants an API key, SAMPAN_API_KEY has one.
    """
    from sampan.serve.settings import read_settings

    flags = {"host": host, "port": port}
    settings = read_settings(config, **{name: value for name, value in flags.items() if value is not None})
    status = _ask(settings)
    if as_json:
        print_json(status)
    else:
        _print_status(status)


def _ask(settings: ServeSettings) -> dict[str, Any]:
    from sampan.serve.settings import server_url

    url = server_url(settings.host, settings.port)
    request = urllib.request.Request(f"{url}/v1/status")
    if settings.api_key is not None:
        request.add_header("authorization", f"Bearer {settings.api_key.get_secret_value()}")
    # No proxy stands between this machine and itself.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=_TIMEOUT_S) as response:
            status = json.loads(response.read(_MOST_BYTES))
    except urllib.error.HTTPError as error:
        hint = "; put a key of the server into SAMPAN_API_KEY" if error.code == 401 else ""
        raise UnavailableError(f"the server at {url} answered {error.code}{hint}", 0) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise UnavailableError(
            f"no Sampan server answers at {url} ({reason}); --port or the settings say where it is", 0
        ) from error
    if not isinstance(status, dict) or "models" not in status:
        raise UnavailableError(f"what answers at {url} is not a Sampan server", 0)
    return status


def _print_status(status: dict[str, Any]) -> None:
    rows = [("MODEL", "STATE", "REQUESTS", "WAITING", "TOK/S", "PAGES", "MEMORY", "CONTEXT")]
    for model in status["models"]:
        engine, memory = model["engine"], model["memory"]
        rows.append(
            (
                model["name"],
                model["phase"],
                str(model["requests"]),
                "" if engine is None else str(engine["waiting"]),
                f"{model['tokens_per_second']:.1f}",
                "" if memory is None else f"{engine['pages_used']}/{engine['pages_total']}",
                "" if memory is None else size_text(memory["held"]),
                "" if model["context"] is None else str(model["context"]),
            )
        )
    print_table(rows)
    memory = status["memory"]
    print(
        f"{status['status']} for {status['uptime_s']:.0f} s, "
        f"{size_text(memory['used'])} of {size_text(memory['budget'])} in use"
    )
