"""Who reads how much of a prompt in the next step. Nothing here knows the time or the model."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Protocol, TypeVar


class Reader(Protocol):
    """A sequence that reads its prompt, as far as this file is concerned."""

    @property
    def client(self) -> str:
        """Whose it is."""
        ...

    @property
    def computed(self) -> int:
        """Tokens that it has read."""
        ...

    @property
    def uncomputed(self) -> int:
        """Tokens that are left."""
        ...

    @property
    def page_key(self) -> Hashable | None:
        """What the page that it reads now will hold; None when it will not be full, or not be shared."""
        ...

    @property
    def can_follow(self) -> bool:
        """Whether it may take this page from the prefix cache."""
        ...


R = TypeVar("R", bound=Reader)


def without_followers(reading: Sequence[R]) -> list[R]:
    """Leaves out those that would read a page at the same time as another sequence that is at least as far:
    they find it in the prefix cache once it is full.
    """
    keys = [reader.page_key for reader in reading]
    leaders: dict[Hashable, int] = {}
    for index in sorted(range(len(reading)), key=lambda index: -reading[index].computed):
        leaders.setdefault(keys[index], index)
    return [
        reader
        for index, (reader, key) in enumerate(zip(reading, keys, strict=True))
        if key is None or leaders[key] == index or not reader.can_follow
    ]


class PromptTurns:
    """Deals out a step's room for prompts. Clients take turns, step by step; what one leaves the next has."""

    def __init__(self) -> None:
        self._turn = 0
        self._last: dict[str, int] = {}

    def share(self, reading: Sequence[R], room: int) -> list[tuple[R, int]]:
        """(reader, tokens) in the next step; `reading` in the order in which they came."""
        clients: dict[str, list[R]] = {}
        for reader in reading:
            clients.setdefault(reader.client, []).append(reader)
        self._turn += 1
        self._last = {client: self._last.get(client, 0) for client in clients}
        shares = []
        for client in sorted(clients, key=lambda client: self._last[client]):
            if room > 0:
                own = share_of_one(clients[client], room)
                room -= sum(count for _, count in own)
                shares += own
                self._last[client] = self._turn
        return shares


def share_of_one(reading: Sequence[R], room: int) -> list[tuple[R, int]]:
    """(reader, tokens) of one client's prompts: half of the room is for the one that came first, so that none
    waits for ever; the rest goes to the shortest first, so that short ones do not wait for long ones.
    """
    counts = [0] * len(reading)
    counts[0] = min(reading[0].uncomputed, room - room // 2)
    room -= counts[0]
    for index in sorted(range(len(reading)), key=lambda index: reading[index].uncomputed):
        more = min(reading[index].uncomputed - counts[index], room)
        counts[index] += more
        room -= more
    return [(reader, count) for reader, count in zip(reading, counts, strict=True) if count > 0]
