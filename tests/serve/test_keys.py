"""API keys."""

from __future__ import annotations

from sampan.serve.keys import ENVIRONMENT_CLIENT, KeyRing, hash_key, new_key
from sampan.serve.settings import KEY_HASH


def test_a_ring_knows_whose_key_it_is() -> None:
    first, second, plain = new_key(), new_key(), "chosen"
    ring = KeyRing({"a": hash_key(first), "b": hash_key(second)}, plain)
    assert [ring.owner(key) for key in (first, second, plain)] == ["a", "b", ENVIRONMENT_CLIENT]
    for wrong in ("", "x", first[:-1], first + "x", hash_key(first), "ä"):
        assert ring.owner(wrong) is None


def test_keys_are_long_and_no_two_are_alike() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert min(map(len, keys)) >= len("sk-sampan-") + 43  # 32 bytes in base64
    assert all(KEY_HASH.fullmatch(hash_key(key)) for key in keys)


def test_a_ring_without_keys_is_false() -> None:
    assert not KeyRing({})
    assert not KeyRing({}, "")
    assert KeyRing({}, "x")
