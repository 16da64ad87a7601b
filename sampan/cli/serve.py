"""`serve`: models behind an HTTP API."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from sampan.cli.arguments import KvType, ThreadsOption
from sampan.cli.console import printable, say
from sampan.hub.reference import FORMS

HELP = """Serve models over HTTP, by the APIs of OpenAI and Anthropic, with a page to chat at /.

Without MODEL those of the settings file are served, or the default model. The first is loaded at once, the
others when a request wants them.

Every option is also a setting: a SAMPAN_* variable or a line of the TOML file. docs/serving.md has them all.
"""


def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[[NAME=]MODEL]...", help=f"Models, and what requests call them: {FORMS}."),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="The TOML file of settings.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1 unless given.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 8000 unless given, 0 for any.")] = None,
    memory: Annotated[
        str | None,
        typer.Option(help="Memory for everything, like 12GiB; 80% of what is free unless given."),
    ] = None,
    context: Annotated[
        int | None, typer.Option(help="Tokens of prompt and answer; at most 8192 unless given.")
    ] = None,
    sequences: Annotated[
        int | None, typer.Option(help="Full contexts that a model's KV cache holds; 8 unless given.")
    ] = None,
    kv: Annotated[KvType | None, typer.Option(help="Precision of the KV cache; bf16 unless given.")] = None,
    threads: ThreadsOption = None,
    catalogue: Annotated[
        bool, typer.Option("--catalogue", help="Serve every model of `sampan list` as well.")
    ] = False,
    allow_anonymous: Annotated[
        bool, typer.Option("--allow-anonymous", help="Serve other machines without any API key.")
    ] = False,
    max_waiting: Annotated[
        int | None, typer.Option(help="Requests that wait for a model; 256 unless given.")
    ] = None,
    request_timeout: Annotated[
        float | None, typer.Option(help="Seconds until an answer ends where it is; 600 unless given.")
    ] = None,
    drain_timeout: Annotated[
        float | None, typer.Option(help="Seconds for requests to end when the server stops; 30 unless given.")
    ] = None,
    log_format: Annotated[str | None, typer.Option(help="text, json, or auto: text on a terminal.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    log_prompts: Annotated[
        bool, typer.Option("--log-prompts", help="Log the text of prompts and answers.")
    ] = False,
    new_key: Annotated[
        str | None, typer.Option(metavar="NAME", help="Make an API key for NAME, print it, and end.")
    ] = None,
) -> None:
    """See HELP."""
    if new_key is not None:
        _print_new_key(new_key)
        return
    from sampan.serve import lifecycle
    from sampan.serve.logs import configure_logs
    from sampan.serve.settings import model_argument, read_settings

    flags = {
        "models": tuple(model_argument(text) for text in models or ()) or None,
        "host": host,
        "port": port,
        "memory": memory,
        "context": context,
        "sequences": sequences,
        "kv": None if kv is None else kv.value,
        "threads": threads,
        # A flag that is not there does not take back what a file says.
        "catalogue": catalogue or None,
        "allow_anonymous": allow_anonymous or None,
        "max_waiting": max_waiting,
        "request_timeout": request_timeout,
        "drain_timeout": drain_timeout,
        "log_format": log_format,
        "log_level": log_level,
        "log_prompts": log_prompts or None,
    }
    settings = read_settings(config, **{name: value for name, value in flags.items() if value is not None})
    configure_logs(settings)
    # A log that programs read has the same in a line of its own.
    lifecycle.serve(settings, _say_ready if sys.stderr.isatty() else None)


def _say_ready(url: str) -> None:
    say(f"Sampan serves at {url}/v1, and a page to chat at {url}/; Ctrl-C ends it")


def _print_new_key(name: str) -> None:
    from sampan.serve.keys import hash_key, new_key
    from sampan.serve.settings import default_config_path, is_key_name

    is_key_name(name)
    key = new_key()
    print(key)
    say(f"\nThis is the only time the key is shown. In {printable(str(default_config_path()))} put:\n")
    say(f'[keys]\n{name} = "{hash_key(key)}"')
