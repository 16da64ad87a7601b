"""`sampan export`: a pack to a file or folder for other engines."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from sampan.errors import ModelReferenceError, RequestError
from sampan.export.compressed_tensors import export_compressed_tensors
from sampan.export.gguf_export import export_gguf
from sampan.export.integers import ExportBits
from sampan.hub.home import Progress
from sampan.weights.gguf import MAGIC
from sampan.weights.pack import Pack

ExportFormat = Literal["compressed-tensors", "gguf"]


@dataclass(frozen=True)
class ExportReport:
    """What was written. `changed`: tensors that the target does not hold exactly, the most changed first,
    each with the root mean square of its changes as a share of that of its weights. `notes`: for people.
    """

    out: str
    format: str
    nbytes: int
    changed: Mapping[str, float]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def export_pack(
    pack_path: Path,
    out: Path,
    format: ExportFormat,
    *,
    bits: ExportBits | None = None,
    progress: Progress | None = None,
) -> ExportReport:
    """Write a pack to `out`, which must not exist: a GGUF file, or a Hugging Face folder.

    `bits`, of compressed-tensors only: 4 or 8 for all matrices; as the pack has them unless given. Raises
    RequestError for options that do not fit, and what `export_gguf` and `export_compressed_tensors` do;
    `out` is then as it was.
    """
    if format not in get_args(ExportFormat):
        raise RequestError(
            f"there is no export format {format!r}; there are {', '.join(get_args(ExportFormat))}"
        )
    if bits is not None and format == "gguf":
        raise RequestError("bits are for compressed-tensors; a GGUF file keeps the pack's own precision")
    if bits not in (None, *get_args(ExportBits)):
        raise RequestError(f"bits must be 4 or 8, not {bits}")
    _refuse_other_files(pack_path)
    notes: list[str] = []
    with closing(Pack.open(pack_path)) as pack:
        if format == "gguf":
            losses = export_gguf(pack, out, progress=progress)
        else:
            losses, notes = export_compressed_tensors(pack, out, bits=bits, progress=progress)
    files = out.iterdir() if out.is_dir() else [out]
    changed = dict(sorted(losses.relative.items(), key=lambda item: -item[1]))
    return ExportReport(str(out), format, sum(file.stat().st_size for file in files), changed, tuple(notes))


def _refuse_other_files(path: Path) -> None:
    """Raise ModelReferenceError for what people take for a pack: models that can be made one of."""
    if path.is_file():
        with path.open("rb") as file:
            what = "is a GGUF file" if file.read(len(MAGIC)) == MAGIC else None
    else:
        what = "is a folder" if path.is_dir() else "is no file on this machine"
    if what is not None:
        raise ModelReferenceError(f"{path} {what}, not a pack; `sampan quantize` makes a pack of a model")
