"""What is inside a model file, read without loading it."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from typing import Any

from sampan.cli.console import printable, size_text
from sampan.errors import UnsupportedError
from sampan.hub import LocalModel

TensorTotals = dict[str, dict[str, int]]


def describe(model: LocalModel) -> dict[str, Any]:
    """`config`, `tensors` by format (count, elements, bytes), `chat_template`, `licence` where the file has
    it, and `quantization`, the report that lies beside a pack.

    A model whose architecture is not supported still shows its tensors; `unsupported` then says why.
    """
    return _describe_pack(model) if model.kind == "pack" else _describe_source(model)


def _describe_pack(model: LocalModel) -> dict[str, Any]:
    import json

    from sampan.quantize.report import read_report
    from sampan.weights.pack import TOKENIZER_CONFIG_BLOB, Pack

    with closing(Pack.open(model.path)) as pack:
        totals: TensorTotals = {}
        for info in pack.matrices.values():
            size = info.format.matrix_bytes(info.rows, info.columns)
            _count(totals, info.format.name, info.rows * info.columns, size)
        has_tokenizer = TOKENIZER_CONFIG_BLOB in pack.blobs
        template = has_tokenizer and json.loads(pack.blob(TOKENIZER_CONFIG_BLOB)).get("chat_template")
        described = {
            "config": asdict(pack.config),
            "tensors": totals,
            "chat_template": bool(template),
            "source": dict(pack.source),
        }
    report = read_report(model.path)
    return described if report is None else described | {"quantization": report}


def _describe_source(model: LocalModel) -> dict[str, Any]:
    from sampan.models.registry import resolve_config
    from sampan.models.tokenizer_import import import_tokenizer
    from sampan.weights.detect import open_source

    with closing(open_source(model.path)) as source:
        totals: TensorTotals = {}
        for info in source.tensors.values():
            elements = 1
            for length in info.shape:
                elements *= length
            _count(totals, info.type, elements, info.nbytes)
        found: dict[str, Any] = {"config": None, "tensors": totals, "chat_template": None}
        licence = source.metadata.get("general.license")
        if isinstance(licence, str) and model.licence is None:
            found["licence"] = licence
        try:
            found["config"] = asdict(resolve_config(source))
            found["chat_template"] = bool(import_tokenizer(source)[1].get("chat_template"))
        except UnsupportedError as error:
            found["unsupported"] = str(error)
        return found


def _count(totals: TensorTotals, format_name: str, elements: int, size: int) -> None:
    entry = totals.setdefault(format_name, {"count": 0, "elements": 0, "bytes": 0})
    entry["count"] += 1
    entry["elements"] += elements
    entry["bytes"] += size


def print_description(description: dict[str, Any]) -> None:
    """For people: one fact per line."""
    lines = [
        ("model", description["reference"]),
        ("file", f"{description['path']} ({description['kind']}, {size_text(description['bytes'])})"),
        ("licence", description["licence"] or "not stated"),
        ("chat template", {True: "yes", False: "no", None: "unknown"}[description["chat_template"]]),
    ]
    lines += [("pack", f"{pack['path']} ({size_text(pack['bytes'])})") for pack in description["packs"]]
    if "unsupported" in description:
        lines.append(("unsupported", description["unsupported"]))
    for name, totals in sorted(description["tensors"].items(), key=lambda item: -item[1]["bytes"]):
        parameters = f"{totals['elements'] / 1e6:.1f} M weights"
        lines.append((f"{name} tensors", f"{totals['count']} ({parameters}, {size_text(totals['bytes'])})"))
    for name, value in (description["config"] or {}).items():
        lines.append((name, _brief(value)))
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        print(printable(f"{name.ljust(width)}  {value}"))
    if "quantization" in description:
        from sampan.cli.quantize import print_report

        print()
        print_report(description["quantization"])


def _brief(value: Any) -> str:
    if isinstance(value, tuple) and len(value) > 1 and len(set(map(str, value))) == 1:
        return f"{value[0]} ({len(value)} times)"
    return str(value)
