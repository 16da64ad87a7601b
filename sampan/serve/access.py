"""Who may send requests: by API key, and, in browsers, from which pages."""

from __future__ import annotations

import ipaddress

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from sampan.errors import AuthenticationError, ConfigurationError, ForbiddenError
from sampan.serve.keys import KeyRing
from sampan.serve.page.router import PREFIX as PAGE_FILES
from sampan.serve.record import current_record
from sampan.serve.settings import ServeSettings

HEALTH_PATH = "/health"
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def key_ring(settings: ServeSettings) -> KeyRing:
    """The keys that the settings have."""
    plain = settings.api_key
    return KeyRing(settings.keys, None if plain is None else plain.get_secret_value())


def check_exposure(settings: ServeSettings) -> None:
    """ConfigurationError where the settings would serve strangers without a key, and do not say so."""
    if not is_loopback(settings.host) and not key_ring(settings) and not settings.allow_anonymous:
        raise ConfigurationError(
            f"other machines can reach {settings.host}, and there is no API key: make one with "
            "`sampan serve --new-key NAME`, listen on 127.0.0.1, or serve anybody with --allow-anonymous"
        )


class AccessControl:
    """Lets in requests for the server's own names, from its own pages or allowed ones, with a valid key.

    A page of another site may talk to a server on loopback, through a form or a name that it lets resolve to
    127.0.0.1 (DNS rebinding); the browser tells in `Origin` and `Host`. Files of the page and `/health` need
    no key. Sets `request.state.client`: the key's name, or the client's address where there are no keys.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        self.app = app
        self._keys = key_ring(settings)
        self._origins = frozenset(origin.lower() for origin in settings.cors_origins)
        self._hosts: frozenset[str] | None = None
        if is_loopback(settings.host):
            names = (*_LOOPBACK_NAMES, settings.host, *settings.allowed_hosts)
            self._hosts = frozenset(name.lower() for name in names)
        elif settings.allowed_hosts:
            self._hosts = frozenset(name.lower() for name in (settings.host, *settings.allowed_hosts))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one request and pass it on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if scope["path"] != HEALTH_PATH:
            self._check_names(headers)
        client = scope["client"][0] if scope.get("client") else "unknown"
        if self._keys and not _is_open(scope["path"]):
            client = self._owner(headers)
        scope.setdefault("state", {})["client"] = client
        record = current_record()
        if record is not None:
            record.client = client
        await self.app(scope, receive, send)

    def _check_names(self, headers: Headers) -> None:
        host = headers.get("host", "").lower()
        if self._hosts is not None and _without_port(host) not in self._hosts:
            raise ForbiddenError(
                f"this server does not answer to the host name {host[:100]!r}; the setting allowed_hosts "
                "adds names"
            )
        origin = headers.get("origin")
        if origin is None or origin.lower() in self._origins:
            return
        if origin.lower().partition("://")[2] != host:
            raise ForbiddenError(
                f"web pages of {origin[:100]!r} may not use this server; the setting cors_origins allows them"
            )

    def _owner(self, headers: Headers) -> str:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key:
            key = headers.get("x-api-key", "")
        if not key:
            raise AuthenticationError(
                "this server needs an API key: send it as `Authorization: Bearer KEY` or `x-api-key: KEY`"
            )
        owner = self._keys.owner(key.strip())
        if owner is None:
            raise AuthenticationError("this API key is not one of the server's")
        return owner


def _is_open(path: str) -> bool:
    """Whether a path needs no key. A browser loads the page before it can ask for one."""
    return path in (HEALTH_PATH, "/") or path.startswith(PAGE_FILES)


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]
