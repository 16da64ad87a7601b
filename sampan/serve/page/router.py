"""Serves the page: its files out of the package, under headers that let nothing else in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath

from fastapi import APIRouter, HTTPException, Request, Response

# Where the page's own files are; `/` is its document.
PREFIX = "/page/"
DOCUMENT = "index.html"

CONTENT_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

# What a model writes is shown on this page, so nothing but the page's own files may run, and no text may
# become markup: trusted types forbid it even to those.
CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
)
HEADERS = {
    # Names stay the same from version to version, so a browser asks each time and mostly hears 304.
    "Cache-Control": "no-cache",
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class PageFile:
    """One file of the page; `etag` is a digest of its content, in quotes."""

    content: bytes
    content_type: str
    etag: str


@cache
def page_files() -> Mapping[str, PageFile]:
    """All files of the page by their path below `static/`: only these can be asked for."""
    return {
        name: PageFile(content, CONTENT_TYPES[PurePosixPath(name).suffix], _etag(content))
        for name, content in _read(resources.files(__package__) / "static", "")
    }


@router.api_route("/", methods=["GET", "HEAD"])
def document(request: Request) -> Response:
    """The page."""
    return _answer(request, DOCUMENT)


@router.api_route(PREFIX + "{name:path}", methods=["GET", "HEAD"])
def file(request: Request, name: str) -> Response:
    """A file that the page asks for."""
    return _answer(request, name)


def _answer(request: Request, name: str) -> Response:
    file = page_files().get(name)
    if file is None:
        raise HTTPException(404, f"the page has no file {name!r}")
    headers = {**HEADERS, "ETag": file.etag}
    if _is_current(request.headers.get("if-none-match", ""), file.etag):
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.content_type)


def _is_current(if_none_match: str, etag: str) -> bool:
    """RFC 9110, section 13.1.2: any of the tags that the client has, compared weakly."""
    known = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in known or known == ["*"]


def _etag(content: bytes) -> str:
    return f'"{hashlib.sha256(content).hexdigest()[:32]}"'


def _read(folder: Traversable, prefix: str) -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        name = prefix + entry.name
        if entry.is_dir():
            yield from _read(entry, name + "/")
        else:
            yield name, entry.read_bytes()
