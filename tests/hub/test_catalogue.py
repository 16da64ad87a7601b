from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sampan.errors import ModelReferenceError, StorageError
from sampan.hub import LocalModel, catalogue, resolve

REFERENCE = "pypi:tiny==1.0:tiny.gguf"


def downloaded(home: Path, reference: str = REFERENCE, name: str = "pypi/tiny/1.0/tiny.gguf") -> LocalModel:
    path = home / "models" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"GGUF" * 4)
    return catalogue.record(LocalModel(reference, "gguf", path, (path,), 16, "00", "1.0"))


def record_file(home: Path) -> Path:
    (path,) = (home / "catalogue").glob("*.json")
    return path


def test_an_empty_home_has_no_models_and_is_not_created(home: Path) -> None:
    assert catalogue.models() == []
    assert catalogue.find(REFERENCE) is None
    assert not home.exists()


def test_a_recorded_model_is_found_until_a_file_changes(home: Path) -> None:
    model = downloaded(home)
    assert catalogue.find(REFERENCE) == model
    assert [listed.reference for listed in catalogue.models()] == [REFERENCE]
    assert catalogue.models()[0].last_used > 0
    model.path.write_bytes(b"cut")
    assert catalogue.find(REFERENCE) is None


def test_a_home_that_moved_keeps_its_models(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    downloaded(home)
    moved = home.rename(home.with_name("moved"))
    monkeypatch.setenv("SAMPAN_HOME", str(moved))
    found = catalogue.find(REFERENCE)
    assert found is not None
    assert found.path == moved / "models/pypi/tiny/1.0/tiny.gguf"


def test_removal_deletes_the_files_and_their_folders(home: Path) -> None:
    model = downloaded(home)
    assert catalogue.remove(REFERENCE).path == model.path
    assert not model.path.exists()
    assert not (home / "models/pypi").exists()
    assert catalogue.models() == []
    with pytest.raises(ModelReferenceError, match="models here: none"):
        catalogue.remove(REFERENCE)


def test_a_file_two_references_share_stays_for_the_other(home: Path) -> None:
    model = downloaded(home)
    downloaded(home, "pypi:tiny")
    catalogue.remove("pypi:tiny")
    assert model.path.exists()
    catalogue.remove(REFERENCE)
    assert not model.path.exists()


def test_a_users_own_file_is_never_deleted(home: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.gguf"
    mine.write_bytes(b"GGUF")
    model = resolve(str(mine))
    assert not model.owned
    assert [listed.reference for listed in catalogue.models()] == [str(mine)]
    catalogue.remove(str(mine))
    assert mine.read_bytes() == b"GGUF"
    assert catalogue.models() == []
    assert home.exists()


def test_nothing_outside_the_home_is_deleted(home: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    outside.touch()
    home.mkdir()
    (home / "link").symlink_to(tmp_path)
    for path in [outside, home / ".." / "outside.txt", home / "link" / "outside.txt", home, Path("/")]:
        with pytest.raises(StorageError, match="refusing"):
            catalogue.delete(path)
    assert outside.exists()


@pytest.mark.parametrize("name", ["../../outside.txt", "/outside.txt", "", "a\\b"])
def test_a_record_that_points_outside_is_damaged(home: Path, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside.txt"
    outside.touch()
    downloaded(home)
    values = json.loads(record_file(home).read_text())
    record_file(home).write_text(json.dumps(values | {"files": [name], "path": name, "size": 0}))
    with pytest.warns(UserWarning, match="damaged record"):
        assert [model.reference for model in catalogue.models()] == [REFERENCE]
    assert outside.exists()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=60)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.just(REFERENCE),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["reference", "kind", "path", "files", "size", "sha256", "revision", "licence"]
                ),
                inner,
            )
        ),
    ).map(lambda value: json.dumps(value).encode())
)
def test_a_damaged_record_is_rebuilt_with_a_warning(home: Path, content: bytes) -> None:
    downloaded(home)
    record_file(home).write_bytes(content)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        models = catalogue.models()
    assert [model.reference for model in models] == [REFERENCE]
    assert models[0].path.read_bytes() == b"GGUF" * 4
    assert any("damaged record" in str(warning.message) for warning in caught)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert catalogue.find(REFERENCE) is not None


def test_unrecorded_downloads_of_every_source_are_listed(home: Path) -> None:
    for name in ["pypi/a/1/x.gguf", "hf/o/n/x.gguf", "ms/o/n/sub/y.gguf", "hf/o/m/config.json"]:
        path = home / "models" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"1")
    (home / "models/hf/o/m/model.safetensors").write_bytes(b"22")
    found = {model.reference: model for model in catalogue.models()}
    assert set(found) == {"pypi:a==1:x.gguf", "hf:o/n:x.gguf", "ms:o/n:sub/y.gguf", "hf:o/m"}
    assert (found["hf:o/m"].kind, found["hf:o/m"].size) == ("folder", 3)
