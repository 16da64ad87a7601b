from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.errors import ModelReferenceError
from sampan.hub.reference import (
    DEFAULT_REFERENCE,
    HubReference,
    PathReference,
    PypiReference,
    looks_like_reference,
    parse_reference,
)

NAMES = st.from_regex(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,20}[A-Za-z0-9])?", fullmatch=True)
VERSIONS = st.from_regex(r"[0-9]{1,3}(?:\.[0-9]{1,3}){0,3}(?:rc[0-9])?", fullmatch=True)
FILES = st.from_regex(r"(?:[A-Za-z0-9_-]{1,8}/){0,2}[A-Za-z0-9_.-]{0,8}[A-Za-z0-9]\.gguf", fullmatch=True)


@given(st.builds(PypiReference, NAMES, st.none() | VERSIONS, st.none() | FILES))
def test_pypi_references_survive_the_round_trip(reference: PypiReference) -> None:
    assert parse_reference(str(reference)) == reference


@given(st.sampled_from(["hf", "ms"]), NAMES, NAMES, st.none() | FILES)
def test_hub_references_survive_the_round_trip(hub: str, org: str, name: str, file: str | None) -> None:
    reference = HubReference("hf" if hub == "hf" else "ms", f"{org}/{name}", file)
    assert parse_reference(str(reference)) == reference


@given(
    st.sampled_from(["", "pypi:", "hf:", "ms:", "hf:org/name:", "pypi:name==", "pypi:name:", "PyPI:"]),
    st.text(max_size=30) | st.text("./\\:=~ab\0\n ", max_size=12),
)
def test_any_text_is_refused_or_safe_to_build_a_path_from(prefix: str, text: str) -> None:
    try:
        reference = parse_reference(prefix + text)
    except ModelReferenceError as error:
        assert "\n" not in str(error)
        return
    if isinstance(reference, PathReference):
        assert reference.path.exists()
        return
    parts = [reference.file] if reference.file is not None else []
    if isinstance(reference, PypiReference):
        names = [reference.distribution, reference.version or "1"]
    else:
        names = reference.repository.split("/")
        assert len(names) == 2
    for name in names:
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.!+_-]*", name)
        assert ".." not in name
    for file in parts:
        assert file.isprintable()
        assert not file.startswith("/")
        assert not set(file.split("/")) & {"", ".", ".."}
        assert "\\" not in file
        assert file.lower().endswith(".gguf")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pypi:",
        "pypi:a b",
        "pypi:name==",
        "pypi:name==1..2",
        "pypi:name==1/2",
        "pypi:name>=1",
        "pypi:../name",
        "pypi:name:/etc/x.gguf",
        "pypi:name:../x.gguf",
        "pypi:name:x.bin",
        "pypi:-rrequirements.txt",
        "pypi:name:",
        "hf:name",
        "hf:a/b/c",
        "hf:../b",
        "hf:a/..",
        "hf:a/b:c/../d.gguf",
        "hf:a/b:c\\d.gguf",
        "ms:a/b:C:x.gguf",
        "hf:a/b\n",
        "no/such/model",
        "missing.gguf",
        "\x1b[31mred",
        "x" * 5000,
    ],
)
def test_bad_references_end_in_one_line(text: str) -> None:
    with pytest.raises(ModelReferenceError) as caught:
        parse_reference(text)
    assert str(caught.value).isprintable()


def test_the_hub_is_suggested_for_a_bare_repository_name() -> None:
    with pytest.raises(ModelReferenceError, match=r"write hf:Qwen/Qwen3-0\.6B"):
        parse_reference("Qwen/Qwen3-0.6B")


def test_paths_say_what_they_are(tmp_path: Path) -> None:
    gguf, pack, folder = tmp_path / "a.gguf", tmp_path / "b.pack", tmp_path / "folder"
    gguf.touch()
    pack.touch()
    folder.mkdir()
    (folder / "config.json").touch()
    (folder / "model.safetensors").touch()
    assert parse_reference(str(gguf)) == PathReference(gguf, "gguf")
    assert parse_reference(str(pack)) == PathReference(pack, "pack")
    assert parse_reference(str(folder)) == PathReference(folder, "folder")
    with pytest.raises(ModelReferenceError, match="name its folder"):
        parse_reference(str(folder / "model.safetensors"))
    with pytest.raises(ModelReferenceError, match=r"without config\.json"):
        parse_reference(str(tmp_path))
    (tmp_path / "c.bin").touch()
    with pytest.raises(ModelReferenceError, match="not a model"):
        parse_reference(str(tmp_path / "c.bin"))


def test_what_is_a_reference_and_what_is_a_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").touch()
    for text in [DEFAULT_REFERENCE, "hf:a", "ms:x/y", "missing.gguf", "x.pack", "models/", "here", "HF:a/b"]:
        assert looks_like_reference(text), text
    for text in [
        "Why do boats float?",
        "pypi: what is it?",
        "there",
        "a/b",
        "Translate: pypi:x",
        "",
        "x\n.gguf",
    ]:
        assert not looks_like_reference(text), text
