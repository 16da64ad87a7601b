"""Which packs in the cache were made from a model, whole or not."""

from __future__ import annotations

from pathlib import Path

from sampan.errors import SampanError
from sampan.hub import LocalModel
from sampan.hub.home import packs_folder


def packs_of(models: list[LocalModel]) -> dict[str, list[Path]]:
    """For each model's reference its packs, current or made from an earlier state of the file.

    A pack names its source inside; one that cannot be read belongs to nobody.
    """
    from sampan.weights.pack import Pack

    by_source: dict[str, list[Path]] = {}
    for path in sorted(packs_folder().glob("*.pack")):
        try:
            pack = Pack.open(path)
        except SampanError:
            continue
        by_source.setdefault(str(pack.source.get("path")), []).append(path)
        pack.close()
    return {model.reference: by_source.get(str(model.path.absolute()), []) for model in models}


def unfinished_files(source: Path) -> list[Path]:
    """What interrupted conversions of the model at this path left for the next one to go on with."""
    from sampan.convert.journal import JOURNAL_SUFFIX, read_lines
    from sampan.weights.pack_writer import resumable_path

    files: list[Path] = []
    for journal in sorted(packs_folder().glob(f"*.pack{JOURNAL_SUFFIX}")):
        lines = read_lines(journal)
        if lines and isinstance(lines[0], dict) and lines[0].get("source") == str(source.absolute()):
            partial = resumable_path(journal.with_name(journal.name.removesuffix(JOURNAL_SUFFIX)))
            files += [file for file in (partial, journal) if file.is_file()]
    return files
