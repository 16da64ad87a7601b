"""The models on this machine: one small JSON record each under `catalogue/`, whose mtime is the last use.

A record per model needs no lock to read or write, so a warm start does not wait for anybody's download. A
damaged record is dropped with a warning; its files are found again under `models/`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, get_args

from sampan.errors import ModelReferenceError, StorageError
from sampan.hub.home import digest, home, storage_errors, write_json
from sampan.hub.reference import ModelKind


@dataclass(frozen=True)
class LocalModel:
    """A model whose files are on this machine.

    `path` is the file or folder to load; `files` is what was downloaded for it, absolute, empty when `path`
    is the user's own; `size` counts bytes. `revision` is the repository's commit or the package's version.
    """

    reference: str
    kind: ModelKind
    path: Path
    files: tuple[Path, ...] = ()
    size: int = 0
    sha256: str | None = None
    revision: str | None = None
    licence: str | None = None
    last_used: float = 0.0

    @property
    def owned(self) -> bool:
        """Whether Sampan downloaded it, and so may delete it."""
        return bool(self.files)


def models_folder() -> Path:
    """Where downloaded models lie: SOURCE/… under it."""
    return home() / "models"


def find(reference: str) -> LocalModel | None:
    """The recorded model of that reference, if its files are all still there; marks it used now."""
    path = _record_path(reference)
    model = _read(path)
    if model is None or model.reference != reference or not _complete(model):
        return None
    with contextlib.suppress(OSError):  # a home that is mounted read-only still serves
        os.utime(path)
    return model


def record(model: LocalModel) -> LocalModel:
    """Write the record of a model; returns the model."""
    values = asdict(model) | {"path": str(model.path), "files": [str(path) for path in model.files]}
    del values["last_used"]
    if model.owned:
        base = home()
        values["path"] = model.path.relative_to(base).as_posix()
        values["files"] = [path.relative_to(base).as_posix() for path in model.files]
    write_json(_record_path(model.reference), values)
    return model


def models() -> list[LocalModel]:
    """Every model, the last used first; a user's own may be gone by now.

    Downloaded files without a record are recorded again.
    """
    found: dict[str, LocalModel] = {}
    for path in sorted((home() / "catalogue").glob("*.json")):
        model = _read(path)
        if model is not None and _complete(model):
            found[model.reference] = replace(model, last_used=path.stat().st_mtime)
    known = {file for model in found.values() for file in model.files}
    for model in _unrecorded(known):
        if model.reference not in found:
            record(model)
            found[model.reference] = replace(model, last_used=_record_path(model.reference).stat().st_mtime)
    return sorted(found.values(), key=lambda model: -model.last_used)


def remove(reference: str) -> LocalModel:
    """Forget a model and delete what was downloaded for it alone; a user's own file or folder stays.

    Raises ModelReferenceError when there is no such model.
    """
    everything = models()
    model = next((model for model in everything if model.reference == reference), None)
    if model is None:
        known = ", ".join(model.reference for model in everything) or "none"
        raise ModelReferenceError(f"{reference!r} is not on this machine; models here: {known}")
    shared = {file for other in everything if other.reference != reference for file in other.files}
    for file in model.files:
        if file not in shared:
            delete(file)
    delete(_record_path(reference))
    return model


def delete(path: Path) -> None:
    """Delete one file below the home, and the folders it leaves empty. Refuses any other path."""
    base = home().resolve()
    # The last component is not followed: a link is deleted, never what it points to.
    inside = path.parent.resolve() / path.name
    if base not in inside.parents or path.name in ("", ".", ".."):
        raise StorageError(f"refusing to delete {path}: it is not inside {base}")
    with storage_errors(path):
        inside.unlink(missing_ok=True)
    for folder in inside.parents:
        if folder.parent == base or folder == base:
            break
        if {child.name for child in folder.iterdir()} - {".cache"}:
            break
        # huggingface_hub keeps its notes on the files beside them, in .cache.
        shutil.rmtree(folder / ".cache", ignore_errors=True)
        with contextlib.suppress(OSError):
            folder.rmdir()


def _record_path(reference: str) -> Path:
    return home() / "catalogue" / f"{digest(reference)}.json"


def _complete(model: LocalModel) -> bool:
    if not model.owned:
        return True  # the user's own; one that is gone stays listed until `rm`, as its packs may be large
    try:
        return sum(file.stat().st_size for file in model.files) == model.size
    except OSError:
        return False


def _read(path: Path) -> LocalModel | None:
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    try:
        return _model(json.loads(text))
    except (ValueError, TypeError, KeyError) as error:
        warnings.warn(f"dropped the damaged record {path} ({error}); its files are listed anew", stacklevel=2)
        with contextlib.suppress(OSError):
            path.unlink()
        return None


def _model(values: Any) -> LocalModel:
    optional = {name: values[name] for name in ("sha256", "revision", "licence")}
    strings = [values["reference"], values["path"], *values["files"]]
    if not all(isinstance(value, str) for value in strings) or not isinstance(values["files"], list):
        raise TypeError("a field that must be text is not")
    if not all(value is None or isinstance(value, str) for value in optional.values()):
        raise TypeError("a field that must be text is not")
    if values["kind"] not in get_args(ModelKind) or type(values["size"]) is not int:
        raise ValueError("unknown kind or size")
    files = tuple(_inside_home(name) for name in values["files"])
    path = _inside_home(values["path"]) if files else Path(values["path"])
    return LocalModel(values["reference"], values["kind"], path, files, values["size"], **optional)


def _inside_home(name: str) -> Path:
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts or "\\" in name or not relative.parts:
        raise ValueError(f"{name!r} points outside the home")
    return home() / relative


def _unrecorded(known: Iterable[Path]) -> Iterable[LocalModel]:
    base = models_folder()
    taken = set(known)
    for file in sorted(base.glob("pypi/*/*/*.gguf")):
        if file not in taken:
            distribution, version = file.parts[-3:-1]
            yield _found(f"pypi:{distribution}=={version}:{file.name}", "gguf", file, (file,))
    for hub in ("hf", "ms"):
        for folder in sorted(base.glob(f"{hub}/*/*")):
            repository = f"{hub}:{folder.parent.name}/{folder.name}"
            for file in sorted(folder.rglob("*.gguf")):
                if file not in taken:
                    yield _found(f"{repository}:{file.relative_to(folder).as_posix()}", "gguf", file, (file,))
            files = tuple(
                sorted(path for path in folder.glob("*") if path.is_file() and path.suffix != ".gguf")
            )
            whole = folder / "config.json" in files and any(path.suffix == ".safetensors" for path in files)
            if whole and taken.isdisjoint(files):
                yield _found(repository, "folder", folder, files)


def _found(reference: str, kind: ModelKind, path: Path, files: tuple[Path, ...]) -> LocalModel:
    return LocalModel(reference, kind, path, files, sum(file.stat().st_size for file in files))
