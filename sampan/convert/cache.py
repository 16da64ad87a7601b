"""The packs made on this machine: found again by what they were made of, made once however many ask."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sampan.convert.journal import journal_path, read_lines
from sampan.errors import FormatError, ModelReferenceError, StorageError, UnsupportedError
from sampan.hub.home import Progress, digest, lock, storage_errors
from sampan.weights.pack import Pack
from sampan.weights.pack_writer import PARTIAL_SUFFIX, resumable_path

if TYPE_CHECKING:
    from filelock import BaseFileLock

    from sampan.weights.repack import Bits

# Raise it when the same source would give another pack: packs made before are then made again.
IMPORTER_VERSION = 1

PACK_SUFFIX = ".pack"

# Of a Hugging Face folder: weights, configuration, tokenizer, chat template.
SOURCE_SUFFIXES = (".safetensors", ".json", ".model", ".jinja")


def ensure_pack(source: Path, cache: Path, *, bits: Bits = 8, progress: Progress | None = None) -> Path:
    """The pack of a GGUF file or Hugging Face folder in the folder `cache`, made now if it is not there.

    A changed source (path, file sizes, modification times) gives a new pack. When another process is making
    the same pack, this one waits for it and says so through `progress`. A conversion that was interrupted
    goes on where it was. Raises what `convert` raises.
    """
    pack = pack_path(source, cache, bits)
    if _usable(pack):
        return pack
    with storage_errors(pack):
        cache.mkdir(parents=True, exist_ok=True)
    with held(pack, progress):
        if _usable(pack):
            return pack
        _sweep(cache, pack)
        # Not above: it loads the GGUF reader and the tokenizer importer, which a cached pack does without.
        from sampan.convert.convert import convert

        provenance = {"importer_version": IMPORTER_VERSION}
        convert(source, pack, bits=bits, provenance=provenance, progress=progress, resumable=True)
    return pack


def pack_path(source: Path, cache: Path, bits: Bits = 8) -> Path:
    """Where the pack of this source lies or will lie. ModelReferenceError when the source cannot be read."""
    try:
        source = source.resolve()
        files = [source]
        if source.is_dir():
            files = sorted(file for file in source.iterdir() if file.suffix in SOURCE_SUFFIXES)
        stats = [(file.name, file.stat()) for file in files]
    except OSError as error:
        raise ModelReferenceError(f"{source}: cannot be read: {error.strerror or error}") from error
    sizes = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    key = digest(json.dumps([str(source), sizes, IMPORTER_VERSION, bits]))
    stem = re.sub(r"[^A-Za-z0-9._-]", "_", source.name.removesuffix(".gguf"))[:80]
    return cache / f"{stem}-{key}{PACK_SUFFIX}"


def _usable(pack: Path) -> bool:
    """Whether a whole pack that this version reads is there."""
    if not pack.is_file():
        return False
    try:
        Pack.open(pack).close()
    except (FormatError, UnsupportedError):
        return False
    return True


@contextlib.contextmanager
def held(pack: Path, progress: Progress | None) -> Iterator[None]:
    """Hold the pack's lock, which every resumable writer of it holds; say so before waiting."""
    from filelock import Timeout

    own = _lock(pack)
    with storage_errors(pack):
        try:
            own.acquire(timeout=0)
        except Timeout:
            if progress is not None:
                progress(f"waiting for another process to convert {pack.stem}", 0, None)
            own.acquire()
    try:
        yield
    finally:
        own.release()


def _lock(pack: Path) -> BaseFileLock:
    return lock(f"convert {pack.absolute()}")


def _sweep(cache: Path, held: Path) -> None:
    """Remove what interrupted conversions left and nobody will go on with: their source has changed or is
    gone, and nobody holds the lock of their pack.
    """
    from filelock import Timeout

    for partial in cache.glob(f"*{PACK_SUFFIX}.*{PARTIAL_SUFFIX}"):
        pack = partial.with_name(partial.name.rsplit(".", 2)[0])
        if partial == resumable_path(pack) and (pack == held or _can_go_on(pack)):
            continue
        with contextlib.suppress(Timeout, OSError, StorageError):
            if pack == held:
                partial.unlink()
                continue
            with _lock(pack).acquire(timeout=0):
                partial.unlink()
                journal_path(pack).unlink(missing_ok=True)


def _can_go_on(pack: Path) -> bool:
    """Whether a pack's journal names a source that would still become this pack."""
    lines = read_lines(journal_path(pack))
    if not lines or not isinstance(lines[0], dict):
        return False
    source, bits = lines[0].get("source"), lines[0].get("bits")
    if not isinstance(source, str) or bits not in (4, 8):
        return False
    try:
        return pack_path(Path(source), pack.parent, bits) == pack
    except ModelReferenceError:
        return False
