"""What the server is told: flags, then `SAMPAN_*` variables, then one TOML file, then defaults."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import platformdirs
from pydantic import (
    AfterValidator,
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    PositiveInt,
    SecretStr,
    ValidationError,
    field_validator,
)
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from sampan.errors import ConfigurationError
from sampan.hub.reference import parse_reference

PREFIX = "SAMPAN_"
CONFIG_NAME = "sampan.toml"
KEY_HASH = re.compile(r"sha256:[0-9a-f]{64}")

_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# Variables that other parts of Sampan read.
_OTHER_VARIABLES = frozenset({"SAMPAN_HOME", "SAMPAN_CONFIG"})


def _above_zero(value: int) -> int:
    if value < 1:
        raise ValueError("must be at least 1 byte")
    return value


Bytes = Annotated[ByteSize, AfterValidator(_above_zero)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ModelSettings(BaseModel):
    """A model to serve. What is None here is as for all models."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reference: str = Field(description="what to load, as `sampan run` takes it")
    name: str | None = Field(default=None, description="what requests call it; the reference unless given")
    context: PositiveInt | None = Field(default=None, description="tokens of a prompt and its answer")
    sequences: PositiveInt | None = Field(default=None, description="full contexts that the KV cache holds")
    kv: Literal["bf16", "int8"] | None = Field(default=None, description="precision of the KV cache")
    max_experts: PositiveInt | None = Field(default=None, description="most experts per token of a request")
    preload: bool = Field(default=False, description="load it when the server starts")

    @field_validator("name")
    @classmethod
    def _name_is_short(cls, name: str | None) -> str | None:
        if name is not None and _MODEL_NAME.fullmatch(name) is None:
            raise ValueError("must be 1 to 64 letters, digits, dots, dashes and underscores")
        return name


class ServeSettings(BaseSettings):
    """The server's configuration. `read_settings` makes one from all places where it may be written."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(default=8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    allow_anonymous: bool = Field(default=False, description="serve other machines without any API key")
    keys: dict[str, str] = Field(default={}, description="API keys by name: `sha256:` and the key's hash")
    api_key: SecretStr | None = Field(
        default=None, description="one more API key, in plain; only as a variable; `sampan ps` sends it"
    )
    allowed_hosts: tuple[str, ...] = Field(
        default=(), description="names the server answers to besides its own, for a proxy on this machine"
    )
    cors_origins: tuple[str, ...] = Field(
        default=(), description="origins whose web pages may use the API, such as `https://chat.example.org`"
    )

    models: tuple[ModelSettings, ...] = Field(default=(), description="the models to serve; see below")
    catalogue: bool = Field(default=False, description="serve every model of `sampan list` as well")
    memory: Bytes | None = Field(
        default=None,
        description="memory for everything, such as `12GiB`; 80% of what is free unless given",
    )
    context: PositiveInt | None = Field(
        default=None,
        description="tokens of a prompt and its answer; at most 8192 unless given",
    )
    sequences: PositiveInt = Field(default=8, description="full contexts that a model's KV cache holds")
    kv: Literal["bf16", "int8"] = Field(default="bf16", description="precision of the KV cache")
    threads: PositiveInt | None = Field(default=None, description="CPU threads; one per core unless given")

    max_requests: PositiveInt = Field(default=256, description="requests at once; more get a 503")
    max_waiting: PositiveInt = Field(
        default=256, description="requests that wait for a model; more get a 429"
    )
    max_running: PositiveInt = Field(default=64, description="sequences in a model's batch at most")
    max_choices: PositiveInt = Field(default=16, description="largest `n` of a request")
    max_body: Bytes = Field(default=ByteSize(4 * 2**20), description="largest body of a request")
    max_grammar: PositiveInt = Field(
        default=65536, description="characters of a request's schema, regex or grammar"
    )
    max_header: Bytes = Field(default=ByteSize(64 * 2**10), description="largest head of a request")
    header_timeout: Seconds = Field(default=10.0, description="seconds for a client to send a request's head")
    body_timeout: Seconds = Field(default=60.0, description="seconds for a client to send a request's body")
    keep_alive_timeout: PositiveInt = Field(default=75, description="seconds that an idle connection is kept")
    request_timeout: Seconds = Field(default=600.0, description="seconds until an answer ends where it is")
    drain_timeout: Seconds = Field(
        default=30.0, description="seconds for requests to end when the server stops"
    )

    log_format: Literal["auto", "text", "json"] = Field(
        default="auto", description="`text` for people, `json` for programs; `auto`: text on a terminal"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="what to log at least"
    )
    log_prompts: bool = Field(default=False, description="log the text of prompts and answers")
    tracing_endpoint: str | None = Field(
        default=None,
        description="OTLP/HTTP address that gets a span per request; needs the extra `tracing`",
    )

    @field_validator("host")
    @classmethod
    def _host_is_named(cls, host: str) -> str:
        if not host or not host.isprintable() or "/" in host:
            raise ValueError("must be a name or an address of this machine")
        return host

    @field_validator("keys")
    @classmethod
    def _keys_are_hashes(cls, keys: dict[str, str]) -> dict[str, str]:
        for name, text in keys.items():
            if KEY_HASH.fullmatch(text) is None:
                raise ValueError(
                    f"the key {name!r} must be 'sha256:' and 64 hexadecimal digits; "
                    "`sampan serve --new-key NAME` makes one"
                )
        return keys

    @field_validator("models")
    @classmethod
    def _models_have_names_of_their_own(cls, models: tuple[ModelSettings, ...]) -> tuple[ModelSettings, ...]:
        names = [model.name or model.reference for model in models]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two models are called {name!r}; give one of them another `name`")
        return models


def is_key_name(name: str) -> None:
    """ConfigurationError when a key may not be called so: its name stands in TOML and in logs."""
    if _MODEL_NAME.fullmatch(name) is None:
        raise ConfigurationError(f"a key's name is up to 64 letters, digits, dots and dashes, not {name!r}")


def default_config_path() -> Path:
    """Where the TOML file is looked for unless `--config` or `SAMPAN_CONFIG` says."""
    return Path(platformdirs.user_config_dir("sampan", appauthor=False)) / CONFIG_NAME


def read_settings(config: Path | None = None, **flags: Any) -> ServeSettings:
    """The settings of this start. `flags`: those given on the command line. `config`: the TOML file, which
    must exist; None means `SAMPAN_CONFIG`, else the default place, where it may be missing.

    ConfigurationError names the setting that is wrong and where it was written.
    """
    if config is None and os.environ.get("SAMPAN_CONFIG"):
        config = Path(os.environ["SAMPAN_CONFIG"])
    path = config or default_config_path()
    written = _read_toml(path, required=config is not None)

    class Settings(ServeSettings):
        """Those that also read the file."""

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            del dotenv_settings, file_secret_settings
            return init_settings, env_settings, InitSettingsSource(settings_cls, written)

    try:
        return Settings(**flags)
    except ValidationError as error:
        raise ConfigurationError(_explanation(error, flags, path, written)) from error
    except SettingsError as error:
        # A variable for a setting that is a list or a table, which is written as JSON.
        raise ConfigurationError(f"{error}; such a {PREFIX}* variable holds JSON") from error


def server_url(host: str, port: int) -> str:
    """Where a server on this address is reached from the same machine."""
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def unknown_variables() -> list[str]:
    """`SAMPAN_*` variables that nothing reads: typing errors, or somebody else's."""
    known = {PREFIX + name.upper() for name in ServeSettings.model_fields} | _OTHER_VARIABLES
    return sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)


def model_argument(text: str) -> ModelSettings:
    """A model as the command line takes it: `[NAME=]REFERENCE`. ModelReferenceError when it is none."""
    name, equals, reference = text.partition("=")
    named = bool(equals) and _MODEL_NAME.fullmatch(name) is not None and not Path(text).exists()
    if not named:
        name, reference = "", text
    parse_reference(reference)
    return ModelSettings(reference=reference, name=name or None)


def _read_toml(path: Path, *, required: bool) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if required:
            raise ConfigurationError(
                f"{path}: no such file; --config names the server's TOML file"
            ) from error
        return {}
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigurationError(f"{path}: not a TOML file: {error}") from error
    if "api_key" in values:
        raise ConfigurationError(
            f"{path}: api_key does not belong in a file; put the key's hash under [keys], as "
            "`sampan serve --new-key NAME` prints it"
        )
    return values


def _explanation(error: ValidationError, flags: dict[str, Any], path: Path, written: dict[str, Any]) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = [str(part) for part in first["loc"]]
    name = where[0] if where else ""
    if name in flags:
        place = "--" + name.replace("_", "-")
    elif PREFIX + name.upper() in os.environ:
        place = PREFIX + name.upper()
    else:
        place = f"{path}: {'.'.join(where)}" if name in written else ".".join(where)
    if first["type"] == "extra_forbidden":
        return f"{place} is no setting; docs/serving.md lists them"
    message = str(first["msg"]).removeprefix("Value error, ").replace("Input should be", "must be", 1)
    return f"{place}: {message}"
