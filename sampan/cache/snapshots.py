"""Snapshots of what linear layers remember, so that a prefix of a hybrid model can be reused.

A page of the KV cache holds positions; a linear layer's state is the sum of all of them so far, and exists
for one position only. So a known page is of use to a hybrid model where a snapshot was taken at its end.
"""

from __future__ import annotations

from sampan.cache.states import StatePool


class SnapshotCache:
    """The slots of running sequences and, in those that are left, snapshots by the page they belong to.

    A sequence that starts takes a free slot, else that of the snapshot that has not been used for longest.
    Not thread-safe: the engine's owner calls it.
    """

    def __init__(self, pool: StatePool) -> None:
        self._pool = pool
        # The least recently used first.
        self._slots: dict[int, int] = {}

    @property
    def free_count(self) -> int:
        """Slots that `take` can still hand out, those of snapshots among them."""
        return self._pool.free_count + len(self._slots)

    @property
    def snapshot_count(self) -> int:
        """Snapshots that are kept."""
        return len(self._slots)

    def __contains__(self, page: int) -> bool:
        return page in self._slots

    def take(self) -> int:
        """A slot for a sequence. RequestError when running sequences have them all."""
        if not self._pool.free_count and self._slots:
            self.forget(next(iter(self._slots)))
        return self._pool.allocate()

    def give_back(self, slot: int) -> None:
        """The sequence has ended."""
        self._pool.free(slot)

    def find(self, page: int) -> int | None:
        """The slot of a page's snapshot, which counts as used now; None when there is none."""
        slot = self._slots.pop(page, None)
        if slot is not None:
            self._slots[page] = slot
        return slot

    def keep(self, page: int) -> int | None:
        """The slot for a new snapshot of a page; None when running sequences have them all, or the page has
        one.
        """
        if self.find(page) is not None or not self.free_count:
            return None
        self._slots[page] = slot = self.take()
        return slot

    def forget(self, page: int) -> None:
        """Free the slot of a page's snapshot, where it has one."""
        slot = self._slots.pop(page, None)
        if slot is not None:
            self._pool.free(slot)
