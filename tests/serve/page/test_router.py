"""The page's files over HTTP: what is served, under which headers, and nothing else."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from sampan.serve.page.router import DOCUMENT, PREFIX, page_files, router


@pytest.fixture(scope="module")
def client() -> TestClient:
    app = FastAPI()
    app.include_router(router)
    return TestClient(app)


def test_the_document_is_at_the_root(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.content == page_files()[DOCUMENT].content


@pytest.mark.parametrize("name", sorted(page_files()))
def test_every_file_has_its_type_and_the_policy(client: TestClient, name: str) -> None:
    answer = client.get(PREFIX + name)
    assert answer.status_code == 200
    assert answer.content == page_files()[name].content
    types = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/svg+xml"}
    assert answer.headers["content-type"].split(";")[0] == types[PurePosixPath(name).suffix]
    assert answer.headers["x-content-type-options"] == "nosniff"
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": "'self'",
        "img-src": "'self' data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }


def test_a_browser_asks_again_and_hears_that_nothing_changed(client: TestClient) -> None:
    first = client.get("/page/app.js")
    assert first.headers["cache-control"] == "no-cache"
    etag = first.headers["etag"]
    for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        again = client.get("/page/app.js", headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    for other in ('"other"', etag.strip('"')):
        assert client.get("/page/app.js", headers={"If-None-Match": other}).status_code == 200


def test_the_tag_is_of_the_content() -> None:
    tags = [file.etag for file in page_files().values()]
    assert len(set(tags)) == len({file.content for file in page_files().values()})


def test_head_has_no_body(client: TestClient) -> None:
    answer = client.head("/")
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-length"]) == len(page_files()[DOCUMENT].content)


@pytest.mark.parametrize(
    "path",
    ["/page/", "/page/none.js", "/page/../router.py", "/page/%2e%2e/router.py", "/page/lib", "/page//app.js"],
)
def test_only_files_of_the_page_are_served(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_the_page_asks_for_its_own_files_only() -> None:
    """Every file that another one names exists, and none is named by nobody."""
    named = {DOCUMENT}
    for name, file in page_files().items():
        text = file.content.decode()
        folder = PurePosixPath(name).parent
        for path in re.findall(r'(?:src|href)="/page/([^"]+)"', text):
            named.add(path)
        for path in re.findall(r'(?:from|url\()\s*"(\.[^"]+)"', text):
            named.add(_joined(folder, path))
    assert named == set(page_files())


def _joined(folder: PurePosixPath, path: str) -> str:
    parts: list[str] = []
    for part in (*folder.parts, *path.split("/")):
        if part == "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)


def test_the_document_has_no_inline_script_or_style() -> None:
    html = page_files()[DOCUMENT].content.decode()
    assert not re.search(r"<script(?![^>]*\bsrc=)", html)
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", html)


def test_every_text_is_named_and_in_both_languages() -> None:
    strings = page_files()["lib/strings.js"].content.decode()
    english, chinese = re.findall(r"^  (?:en|zh): \{\n(.*?)^  \},$", strings, re.MULTILINE | re.DOTALL)
    keys = [re.findall(r'^    "([^"]+)":', part, re.MULTILINE) for part in (english, chinese)]
    assert keys[0] == keys[1]
    assert len(keys[0]) == len(set(keys[0]))
    holes = [
        [set(re.findall(r"\{\w+\}", line)) for line in lines]
        for lines in (_entries(english), _entries(chinese))
    ]
    assert holes[0] == holes[1]


def test_no_text_is_left_over() -> None:
    strings = page_files()["lib/strings.js"].content.decode()
    code = "".join(file.content.decode() for name, file in page_files().items() if name != "lib/strings.js")
    # Some names are put together, such as `phase-${phase}`.
    made = re.findall(r"`([\w-]*)\$\{\w+\}([\w-]*)`", code)
    for key in set(re.findall(r'^    "([^"]+)":', strings, re.MULTILINE)) - {"locale"}:
        composed = any(key.startswith(begin) and key.endswith(end) for begin, end in made if begin or end)
        assert composed or f'"{key}"' in code, key


def _entries(part: str) -> list[str]:
    """One text each, though some go over several lines."""
    return re.split(r"^    (?=\")", part, flags=re.MULTILINE)[1:]
