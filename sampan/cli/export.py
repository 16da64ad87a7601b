"""`export`: a pack leaves for other engines."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from sampan.cli.arguments import JsonOption
from sampan.cli.console import ProgressDisplay, print_json, printable, say, size_text


class Format(StrEnum):
    """What is written."""

    COMPRESSED_TENSORS = "compressed-tensors"
    GGUF = "gguf"


def export(
    pack: Annotated[Path, typer.Argument(metavar="PACK", help="A pack on this machine.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file or folder to write; must not exist.")],
    format: Annotated[
        Format,
        typer.Option(help="A Hugging Face folder for transformers and vLLM, or a GGUF file for llama.cpp."),
    ],
    bits: Annotated[
        int | None,
        typer.Option(
            metavar="4|8", help="Of compressed-tensors: bits of all weights; the pack's unless given."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a pack as a file or folder that other engines load, and say what that changes."""
    from sampan.export import export_pack

    with ProgressDisplay() as progress:
        report = export_pack(pack, out, format.value, bits=bits, progress=progress)  # type: ignore[arg-type]
    if as_json:
        print_json(report.to_dict())
        return
    print(printable(f"{report.out}  {size_text(report.nbytes)}"))
    if not report.changed:
        print("every weight is as it was")
    else:
        name, largest = next(iter(report.changed.items()))
        tensors = "tensor is" if len(report.changed) == 1 else "tensors are"
        most = f"most changed is {name}, by {largest:.2g} of its weights (root mean square)"
        print(printable(f"{len(report.changed)} {tensors} not held exactly; {most}"))
    for note in report.notes:
        say(note)
