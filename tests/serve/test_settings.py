"""Where settings come from, and what is wrong with some."""

from __future__ import annotations

from pathlib import Path

import pytest

from sampan.errors import ConfigurationError, ModelReferenceError
from sampan.serve import settings as settings_module
from sampan.serve.keys import hash_key, new_key
from sampan.serve.settings import ModelSettings, model_argument, read_settings, unknown_variables


@pytest.fixture(autouse=True)
def no_file_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """These tests read no file of the person who runs them."""
    path = tmp_path / "config" / "sampan.toml"
    monkeypatch.setattr(settings_module, "default_config_path", lambda: path)
    return path


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    return tmp_path / "some.toml"


def test_flags_come_before_variables_before_the_file(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toml.write_text('port = 1\nmemory = "1GiB"\nkv = "int8"\n')
    monkeypatch.setenv("SAMPAN_MEMORY", "2GiB")
    monkeypatch.setenv("SAMPAN_PORT", "2")
    settings = read_settings(toml, port=3)
    assert (settings.port, settings.memory, settings.kv, settings.sequences) == (3, 2 * 2**30, "int8", 8)


def test_the_file_is_found_where_it_belongs_or_by_its_variable(
    no_file_by_default: Path, toml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_settings().port == 8000
    no_file_by_default.parent.mkdir()
    no_file_by_default.write_text("port = 1")
    assert read_settings().port == 1
    toml.write_text("port = 2")
    monkeypatch.setenv("SAMPAN_CONFIG", str(toml))
    assert read_settings().port == 2


def test_tables_of_a_file(toml: Path) -> None:
    digest = hash_key(new_key())
    toml.write_text(
        f'[keys]\nlaptop = "{digest}"\n'
        '[[models]]\nreference = "a.gguf"\nname = "a"\ncontext = 64\npreload = true\n'
        '[[models]]\nreference = "b.gguf"\nkv = "int8"\n'
    )
    settings = read_settings(toml)
    assert settings.keys == {"laptop": digest}
    assert settings.models == (
        ModelSettings(reference="a.gguf", name="a", context=64, preload=True),
        ModelSettings(reference="b.gguf", kv="int8"),
    )


def test_lists_in_variables_are_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMPAN_CORS_ORIGINS", '["https://a.example"]')
    assert read_settings().cors_origins == ("https://a.example",)
    monkeypatch.setenv("SAMPAN_CORS_ORIGINS", "https://a.example")
    with pytest.raises(ConfigurationError, match=r"cors_origins.*holds JSON"):
        read_settings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot = 1", r"some\.toml: prot is no setting"),
        ("[[models]]\nreference = 'a'\ncontxt = 1", r"models\.0\.contxt is no setting"),
        ("[[models]]\nname = 'a'", r"models\.0\.reference"),
        ("[[models]]\nreference = 'a'\nname = 'a b'", r"models\.0\.name: must be 1 to 64"),
        ("[[models]]\nreference = 'a'\n[[models]]\nreference = 'a'", "two models are called 'a'"),
        ("port = 70000", r"some\.toml: port: must be less than or equal to 65535"),
        ("memory = '12 GoB'", r"some\.toml: memory: "),
        ("memory = 0", "memory: must be at least 1 byte"),
        ("request_timeout = inf", "request_timeout: "),
        ("host = ''", "host: must be a name or an address"),
        ("keys = { me = 'secret' }", "the key 'me' must be 'sha256:'"),
        ("api_key = 'secret'", "api_key does not belong in a file"),
        ("port = ", "not a TOML file"),
    ],
)
def test_what_is_wrong_is_named(toml: Path, text: str, message: str) -> None:
    toml.write_text(text)
    with pytest.raises(ConfigurationError, match=message) as caught:
        read_settings(toml)
    assert "secret" not in str(caught.value)


def test_a_wrong_value_is_told_by_the_name_it_was_given_by(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"--drain-timeout: must be greater than 0"):
        read_settings(drain_timeout=-1.0)
    monkeypatch.setenv("SAMPAN_PORT", "tcp://10.0.0.1:80")
    with pytest.raises(ConfigurationError, match="SAMPAN_PORT: must be a valid integer"):
        read_settings()


def test_a_file_that_is_named_must_be_there(toml: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such file"):
        read_settings(toml)
    toml.mkdir()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_settings(toml)


def test_variables_that_nothing_reads_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    before = unknown_variables()
    monkeypatch.setenv("SAMPAN_PROT", "1")
    monkeypatch.setenv("SAMPAN_MEMORY", "1GiB")
    assert unknown_variables() == sorted([*before, "SAMPAN_PROT"])


def test_a_model_on_the_command_line_may_have_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a=b.gguf").touch()
    assert model_argument("pypi:x==1.2") == ModelSettings(reference="pypi:x==1.2")
    assert model_argument("small=pypi:x==1.2") == ModelSettings(reference="pypi:x==1.2", name="small")
    assert model_argument("a=b.gguf") == ModelSettings(reference="a=b.gguf")
    with pytest.raises(ModelReferenceError, match="no model at 'nothing'"):
        model_argument("small=nothing")
