"""API keys: made here once, kept as hashes, compared in constant time.

A key is 256 random bits, so nobody finds it by trying, and one round of SHA-256 is enough: slow hashes such
as bcrypt protect passwords, which people choose, and would cost every request tens of milliseconds.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping

_KEY_BEGINNING = "sk-sampan-"
_KEY_BYTES = 32
_HASH_BEGINNING = "sha256:"

# Whose requests come with the key of the variable `SAMPAN_API_KEY`.
ENVIRONMENT_CLIENT = "environment"


def new_key() -> str:
    """A new API key."""
    return _KEY_BEGINNING + secrets.token_urlsafe(_KEY_BYTES)


def hash_key(key: str) -> str:
    """What the configuration holds of a key."""
    return _HASH_BEGINNING + hashlib.sha256(key.encode()).hexdigest()


class KeyRing:
    """The keys that are valid. `hashes`: their hashes by name; `plain`: one more, which is not hashed."""

    def __init__(self, hashes: Mapping[str, str], plain: str | None = None) -> None:
        known = dict(hashes)
        if plain:
            known[ENVIRONMENT_CLIENT] = hash_key(plain)
        self._hashes = {name: text.encode() for name, text in known.items()}

    def __bool__(self) -> bool:
        return bool(self._hashes)

    def owner(self, key: str) -> str | None:
        """The name of the key that this is; None for any other text. Takes as long whichever it is."""
        wanted = hash_key(key).encode()
        owner = None
        for name, known in self._hashes.items():
            if hmac.compare_digest(wanted, known):
                owner = name
        return owner
