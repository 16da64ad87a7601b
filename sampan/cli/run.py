"""`run`: one answer to a prompt or a pipe, or a conversation."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, cast

import typer

from sampan.api import sampling_options
from sampan.cli.arguments import (
    ExpertMassOption,
    ExpertsPerTokenOption,
    KvOption,
    KvType,
    ThreadsOption,
)
from sampan.cli.console import ProgressDisplay, print_json, printable, say
from sampan.engine.options import OptionNames, SamplingOptions
from sampan.errors import RequestError
from sampan.hub import looks_like_reference, parse_reference
from sampan.hub.reference import FORMS

if TYPE_CHECKING:
    from sampan.api import Completion, Model, Prompt

_DEFAULTS = SamplingOptions()

HELP = """Answer PROMPT; without one, answer what is piped in, or chat.

A single argument is the MODEL when it begins with pypi:, hf: or ms: (and no space follows), is an existing
path, or ends in .gguf, .pack, .safetensors or a path separator. Any other single argument is the PROMPT, for
the default model, SmolLM2-135M-Instruct.

The answer goes to stdout; progress and timings go to stderr.
"""


def run(
    first: Annotated[str | None, typer.Argument(metavar="MODEL", help=f"A model: {FORMS}.")] = None,
    second: Annotated[str | None, typer.Argument(metavar="PROMPT", help="What to answer.")] = None,
    system: Annotated[str | None, typer.Option(help="The system message.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Most tokens of an answer; as many as the context holds unless given.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help=f"0 takes the likeliest token; {_DEFAULTS.temperature} unless given.")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(help=f"Nucleus of this probability; {_DEFAULTS.top_p} unless given.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Only the K likeliest tokens; 0 means all.")] = None,
    min_p: Annotated[
        float | None, typer.Option(help="Only tokens this likely relative to the likeliest.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same text.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="End before this text; may be repeated.")] = None,
    experts_per_token: ExpertsPerTokenOption = None,
    expert_mass: ExpertMassOption = None,
    context: Annotated[int | None, typer.Option(help="Tokens of prompt and answer together.")] = None,
    threads: ThreadsOption = None,
    kv: KvOption = KvType.BF16,
    raw: Annotated[bool, typer.Option("--raw", help="Continue PROMPT as it is, no chat template.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")] = False,
) -> None:
    """See HELP."""
    reference, prompt = model_and_prompt(first, second)
    if raw and system is not None:
        raise RequestError("--raw gives the model PROMPT as it is, so there is no place for --system")
    if reference is not None:
        parse_reference(reference)  # a wrong one is told before a pipe is read
    if prompt is None and not sys.stdin.isatty():
        prompt = _piped_prompt()
    if prompt is None and (as_json or raw):
        raise RequestError(f"{'--json' if as_json else '--raw'} needs a prompt, as an argument or piped in")
    if prompt is not None and not prompt.strip():
        raise RequestError("the prompt is empty")
    given = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "min_p": min_p,
        "seed": seed,
        "stop": tuple(stop or ()),
        "experts_per_token": experts_per_token,
        "expert_mass": expert_mass,
    }
    options = cast(OptionNames, {name: value for name, value in given.items() if value is not None})
    # Checked before a model is fetched and loaded.
    sampling_options(**options)

    import sampan

    with ProgressDisplay() as progress:
        model = sampan.load(
            reference,
            context=context,
            threads=threads,
            kv_dtype=kv.value,
            max_experts=experts_per_token,
            progress=progress,
        )
    with model:
        if not raw and (model.tokenizer is None or not model.tokenizer.has_chat_template):
            raise RequestError(f"{model.reference} has no chat template; --raw continues the prompt as it is")
        if prompt is None:
            from sampan.cli.chat import chat

            chat(model, system, options)
        else:
            _answer(model, prompt if raw else messages(system, prompt), options, as_json)


def model_and_prompt(first: str | None, second: str | None) -> tuple[str | None, str | None]:
    """(model or None for the default, prompt or None) of the two positional arguments; HELP has the rule."""
    if first is None or second is not None or looks_like_reference(first):
        return first, second
    return None, first


def messages(system: str | None, prompt: str) -> list[dict[str, str]]:
    """A conversation's beginning."""
    beginning = [] if system is None else [{"role": "system", "content": system}]
    return [*beginning, {"role": "user", "content": prompt}]


def print_stream(model: Model, prompt: Prompt, options: OptionNames, pieces: list[str]) -> Completion | None:
    """Print an answer as it comes, and add it to `pieces`, which outlive an interrupt; None if cancelled."""
    terminal = sys.stdout.isatty()
    completion = None
    for chunk in model.stream(prompt, **options):
        pieces.append(chunk.text)
        sys.stdout.write(printable(chunk.text) if terminal else chunk.text)
        sys.stdout.flush()
        completion = chunk.completion
    print(flush=True)
    return completion


def say_timings(completion: Completion) -> None:
    """One line: tokens read and written, how fast, and why the answer ended early if it did."""
    usage, timings = completion.usage, completion.timings
    known = f", {usage.cached_tokens} of them read before" if usage.cached_tokens else ""
    parts = [
        f"{usage.prompt_tokens} prompt tokens{known}",
        f"first token after {timings.first_token_s:.2f} s",
        f"{usage.completion_tokens} tokens"
        + (f" at {timings.tok_s:.1f} a second" if timings.tok_s is not None else ""),
        f"seed {completion.seed}",
    ]
    if completion.finish_reason == "length":
        parts.append("ended by --max-tokens or the context")
    say("[" + ", ".join(parts) + "]")


def _answer(model: Model, prompt: Prompt, options: OptionNames, as_json: bool) -> None:
    if as_json:
        print_json(model.generate(prompt, **options).to_dict())
        return
    completion = print_stream(model, prompt, options, [])
    if completion is not None:
        say_timings(completion)


def _piped_prompt() -> str:
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise RequestError(
            f"the piped prompt is not UTF-8 text: {error.reason} at byte {error.start}"
        ) from error
