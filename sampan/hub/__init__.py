"""Model references, where models come from, and the catalogue of those on this machine."""

from sampan.hub.catalogue import LocalModel
from sampan.hub.reference import (
    DEFAULT_REFERENCE,
    HubReference,
    PathReference,
    PypiReference,
    looks_like_reference,
    parse_reference,
)
from sampan.hub.resolve import local_model, resolve

__all__ = [
    "DEFAULT_REFERENCE",
    "HubReference",
    "LocalModel",
    "PathReference",
    "PypiReference",
    "local_model",
    "looks_like_reference",
    "parse_reference",
    "resolve",
]
