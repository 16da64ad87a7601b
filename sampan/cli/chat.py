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
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()
            if interrupted:
                return
            interrupted = True
            say("Ctrl-C again leaves")
            continue
        interrupted = False
        if line == "/exit":
            return
        if line == "/reset":
            conversation = []
        elif line.startswith("/"):
            say(f"unknown command; {_COMMANDS}")
        elif line:
            beginning = messages(system, line) if not conversation else [{"role": "user", "content": line}]
            conversation, interrupted = _turn(model, [*conversation, *beginning], options)


def _turn(
    model: Model, conversation: list[dict[str, str]], options: OptionNames
) -> tuple[list[dict[str, str]], bool]:
    """Answer the conversation's last message: the conversation after that, and whether Ctrl-C stopped it."""
    pieces: list[str] = []
    interrupted = False
    try:
        completion = print_stream(model, conversation, options, pieces)
        if completion is not None:
            say_timings(completion)
    except KeyboardInterrupt:
        print()
        interrupted = True
    except RequestError as error:
        # The question is taken back, so that the conversation can go on after /reset or a shorter one.
        say(f"error: {error}; /reset begins anew")
        return _without_question(conversation), False
    if not pieces:
        return _without_question(conversation), interrupted
    return [*conversation, {"role": "assistant", "content": "".join(pieces)}], interrupted


def _without_question(conversation: list[dict[str, str]]) -> list[dict[str, str]]:
    rest = conversation[:-1]
    return rest if any(message["role"] != "system" for message in rest) else []
