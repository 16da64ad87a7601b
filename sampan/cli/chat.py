"""A conversation in the terminal."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from sampan.cli.console import say
from sampan.cli.run import messages, print_stream, say_timings
from sampan.errors import RequestError

if TYPE_CHECKING:
    from sampan.api import Model
    from sampan.engine.options import OptionNames

_PROMPT = "> "
_COMMANDS = "/reset forgets the conversation, /exit or Ctrl-D leaves, Ctrl-C stops an answer"


def chat(model: Model, system: str | None, options: OptionNames) -> None:
    """Read a line, answer it, until /exit, Ctrl-D, or Ctrl-C twice without a line in between."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  gives `input` line editing and history where the platform has it
    say(f"{model.reference}; {_COMMANDS}")
    conversation: list[dict[str, str]] = []
    interrupted = False
    while True:
        try:
            line = input(_PROMPT).strip()
            interrupted = False
            if line == "/exit":
                return
            if line == "/reset":
                conversation = []
            elif line.startswith("/"):
                say(f"unknown command; {_COMMANDS}")
            elif line:
                _turn(model, conversation, system, line, options)
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()
            if interrupted:
                return
            interrupted = True
            say("Ctrl-C again leaves")


def _turn(
    model: Model, conversation: list[dict[str, str]], system: str | None, line: str, options: OptionNames
) -> None:
    """Answer `line` and add both to the conversation; of an interrupted answer, what there is of it."""
    pieces: list[str] = []
    question = [{"role": "user", "content": line}] if conversation else messages(system, line)
    try:
        completion = print_stream(model, [*conversation, *question], options, pieces)
        if completion is not None:
            say_timings(completion)
    except RequestError as error:
        say(f"error: {error}; /reset begins anew")
    finally:
        if pieces:
            conversation += [*question, {"role": "assistant", "content": "".join(pieces)}]
