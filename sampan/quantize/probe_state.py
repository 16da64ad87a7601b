"""What a walk through a model keeps on the disk, so that one that was interrupted goes on."""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sampan.hub.home import storage_errors
from sampan.models.reference import Array
from sampan.quantize.sites import Site, SiteMeasures

# Saving takes seconds where a layer takes minutes.
SAVE_SECONDS = 60.0


@dataclass
class Stream:
    """The probed tokens' hidden states in a model with one site rounded; `format`: an embedding's."""

    site: str
    hidden: Array
    format: str | None = None


@dataclass
class WalkState:
    """Where a walk is: `layer` is the next one, `hidden` what goes into it, for all tokens and exactly;
    `errors` of the sites so far, as `Site` has them.
    """

    layer: int
    hidden: Array
    streams: list[Stream]
    errors: dict[str, float]
    found: SiteMeasures


class WalkFile:
    """A file that a walk of this `identity` is kept in, not more often than every so many seconds; nothing is
    kept without a path.
    """

    def __init__(self, path: Path | None, identity: Mapping[str, Any], seconds: float) -> None:
        self._path = path
        self._identity = json.dumps(identity, sort_keys=True)
        self._seconds = seconds
        self._saved = time.monotonic()

    def load(self) -> WalkState | None:
        """What an interrupted walk of the same identity left."""
        if self._path is None:
            return None
        try:
            with np.load(self._path, allow_pickle=False) as arrays:
                about = json.loads(str(arrays["about"]))
                if about["identity"] != self._identity:
                    return None
                streams = [
                    Stream(site, hidden, format)
                    for (site, format), hidden in zip(about["streams"], arrays["streams"], strict=True)
                ]
                found = SiteMeasures(**about["found"])
                found.sites = {name: Site(**site) for name, site in about["found"]["sites"].items()}
                return WalkState(about["layer"], arrays["hidden"], streams, about["errors"], found)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
            # Of another version, or of a write that the machine did not survive: begin anew.
            return None

    def save(self, state: WalkState) -> None:
        """Keep a walk, unless that was just done. StorageError when it cannot be written."""
        if self._path is None or time.monotonic() - self._saved < self._seconds:
            return
        about = {
            "identity": self._identity,
            "layer": state.layer,
            "errors": state.errors,
            "streams": [(stream.site, stream.format) for stream in state.streams],
            "found": asdict(state.found),
        }
        beside = self._path.with_name(self._path.name + ".partial")
        with storage_errors(self._path):
            with beside.open("wb") as file:
                np.savez(
                    file,
                    about=np.array(json.dumps(about)),
                    hidden=state.hidden,
                    streams=_stacked(state.streams, state.hidden),
                )
            beside.replace(self._path)
        self._saved = time.monotonic()

    def remove(self) -> None:
        """When the walk is over."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _stacked(streams: Sequence[Stream], like: Array) -> Array:
    if not streams:
        return np.empty((0, 0, like.shape[1]), like.dtype)
    return np.stack([stream.hidden for stream in streams])
