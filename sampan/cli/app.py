"""The `sampan` command: its subcommands, and the one place where errors become a line and an exit code."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from sampan.cli import export, measure, models, ps, quantize, run, serve
from sampan.cli.console import say, show_warnings_as_lines
from sampan.errors import SampanError

INTERRUPTED = 130  # 128 + SIGINT, as shells count

app = typer.Typer(
    name="sampan",
    help="Run open language models on this machine's CPU.",
    no_args_is_help=True,
    add_completion=False,
    # Plain help and usage errors: rich's take 0.1 s to import.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("run", help=run.HELP)(run.run)
app.command("serve", help=serve.HELP)(serve.serve)
app.command("ps")(ps.ps)
app.command("pull")(models.pull)
app.command("list")(models.list_models)
app.command("show")(models.show)
app.command("rm")(models.remove)
app.command("quantize")(quantize.quantize)
app.command("export")(export.export)
app.command("bench")(measure.bench)
app.command("eval")(measure.evaluate)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(version("sampan"))
        except PackageNotFoundError:
            print("not installed, run from its source")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version  # done by the callback, before any command is looked at


def main() -> None:
    """Run the command line. Exit codes: 0, a SampanError's own, 2 for unknown options, 130 after Ctrl-C."""
    show_warnings_as_lines()
    try:
        try:
            app(prog_name="sampan")
        finally:
            sys.stdout.flush()
    except SampanError as error:
        say("error: " + " ".join(str(error).split("\n")))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # The reader has left, as in `sampan list | head -1`; Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
