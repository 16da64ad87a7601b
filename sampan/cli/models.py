"""`pull`, `list`, `show` and `rm`: the models on this machine."""

from __future__ import annotations

import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from sampan.cli.arguments import (
    ExpertMassOption,
    ExpertsPerTokenOption,
    JsonOption,
    ModelArgument,
    ThreadsOption,
    dial_of,
)
from sampan.cli.console import ProgressDisplay, print_json, print_table, printable, say, size_text
from sampan.errors import ModelReferenceError, RequestError
from sampan.hub import LocalModel, catalogue, local_model, parse_reference, resolve


def pull(model: ModelArgument, as_json: JsonOption = False) -> None:
    """Fetch a model, so that it is on this machine when it is needed."""
    with ProgressDisplay() as progress:
        local = resolve(model, progress=progress)
    if as_json:
        print_json(_facts(local))
    else:
        print(printable(f"{local.reference}  {size_text(_size(local))}  {local.path}"))


def list_models(as_json: JsonOption = False) -> None:
    """List the models on this machine, the last used first."""
    from sampan.cli.packs import packs_of

    models = catalogue.models()
    packs = packs_of(models)
    if as_json:
        print_json(
            [_facts(model) | {"packs": [str(pack) for pack in packs[model.reference]]} for model in models]
        )
        return
    if not models:
        say("no models yet; `sampan run` or `sampan pull MODEL` brings the first")
        return
    rows = [("MODEL", "KIND", "SIZE", "PACK", "LAST USED")]
    for model in models:
        ready = model.kind == "pack" or bool(packs[model.reference])
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(model.last_used))
        size = size_text(_size(model)) if model.path.exists() else "gone"
        rows.append((model.reference, model.kind, size, "yes" if ready else "no", used))
    print_table(rows)


def show(
    model: ModelArgument,
    experts: Annotated[
        bool, typer.Option("--experts", help="Show instead which experts a text uses; needs --text.")
    ] = False,
    text: Annotated[Path | None, typer.Option(help="A UTF-8 text file for --experts to read.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Most tokens of the text to read; 4096 unless given.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the experts' use into this .svg file.")] = None,
    experts_per_token: ExpertsPerTokenOption = None,
    expert_mass: ExpertMassOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a model on this machine is: configuration, tensors by format, sizes, chat template."""
    reading = {
        "--text": text,
        "--max-tokens": max_tokens,
        "--plot": plot,
        "--experts-per-token": experts_per_token,
        "--expert-mass": expert_mass,
        "--threads": threads,
    }
    if experts:
        from sampan.cli.experts import show_experts

        dial = dial_of(experts_per_token, expert_mass)
        show_experts(model, text, max_tokens, plot, dial, threads, as_json)
        return
    for option, value in reading.items():
        if value is not None:
            raise RequestError(f"{option} is for --experts; without that the model is not run")
    from sampan.cli.packs import packs_of
    from sampan.cli.show import describe, print_description

    local = local_model(model)
    packs = [{"path": str(path), "bytes": path.stat().st_size} for path in packs_of([local])[local.reference]]
    description = _facts(local) | {"packs": packs} | describe(local)
    if as_json:
        print_json(description)
    else:
        print_description(description)


def remove(model: ModelArgument, as_json: JsonOption = False) -> None:
    """Remove a model's files and packs; of a model given by its path, only the packs."""
    from sampan.cli.packs import packs_of, unfinished_files

    reference = _recorded_name(model)
    known = [local for local in catalogue.models() if local.reference == reference]
    packs = packs_of(known).get(reference, [])
    packs += [file for local in known for file in unfinished_files(local.path)]
    removed = catalogue.remove(reference)
    gone = [*removed.files, *packs]
    for pack in packs:
        catalogue.delete(pack)
    if as_json:
        print_json({"reference": reference, "removed": [str(path) for path in gone]})
        return
    for path in gone:
        print(printable(f"removed {path}"))
    if not removed.owned:
        say(f"{removed.path} is your own and stays; Sampan has forgotten it")


def _recorded_name(text: str) -> str:
    try:
        return str(parse_reference(text))
    except ModelReferenceError:
        # What lay at this path may be gone, and its record and packs still here.
        gone = [model.reference for model in catalogue.models() if not model.owned]
        for name in (text, os.path.realpath(text) if text.isprintable() else text):
            if name in gone:
                return name
        raise


def _size(model: LocalModel) -> int:
    if model.owned:
        return model.size
    files = model.path.rglob("*") if model.path.is_dir() else [model.path]
    return sum(file.stat().st_size for file in files if file.is_file())  # 0 when it is gone


def _facts(model: LocalModel) -> dict[str, Any]:
    facts = asdict(model) | {"path": str(model.path), "files": [str(file) for file in model.files]}
    del facts["size"]
    return facts | {"bytes": _size(model)}
