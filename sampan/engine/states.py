"""What linear layers remember of each running sequence, and the snapshots from which later ones go on.

Snapshots are taken where another prompt is likely to go on: at the last page that a prompt fills, since the
next turn of a conversation repeats the prompt; at the last page that prompt and answer fill; and where a
prompt parts from the pages of an earlier one, such as behind a system prompt that many share (Pan et al.
2024, Marconi, arXiv:2411.19379).
"""

from __future__ import annotations

from sampan.cache.prefix import PrefixCache
from sampan.cache.snapshots import SnapshotCache
from sampan.cache.states import StatePool
from sampan.engine.sequence import RunningSequence
from sampan.engine.span import ModelRunner


class SequenceStates:
    """Gives state slots to sequences of a model with linear layers, and keeps snapshots of them."""

    def __init__(self, runner: ModelRunner, prefixes: PrefixCache) -> None:
        self.slots = SnapshotCache(StatePool(runner.state_count))
        self._runner = runner
        self._page_tokens = runner.page_tokens
        prefixes.snapshots = self.slots

    @property
    def room(self) -> bool:
        """Whether one more sequence can start."""
        return self.slots.free_count > 0

    def start(self, sequence: RunningSequence) -> None:
        """A slot for a sequence that has its pages: what the last shared one's snapshot holds, or clear."""
        shared = sequence.pages.shared
        source = self.slots.find(int(sequence.pages.pages[shared - 1])) if shared else None
        sequence.state = self.slots.take()
        if source is None:
            self._runner.clear_state(sequence.state)
        elif source != sequence.state:  # else there was no other slot, and the snapshot's own goes on
            self._runner.copy_state(source, sequence.state)

    def cut(self, sequence: RunningSequence, count: int) -> int:
        """How many of the next `count` tokens a span may have, so that it ends where a snapshot is wanted."""
        for end in self._wanted(sequence):
            if sequence.computed < end:
                return min(count, end - sequence.computed)
        return count

    def keep(self, sequence: RunningSequence) -> None:
        """Take a snapshot, if this is where one is wanted."""
        end = sequence.computed
        answering = end > sequence.prompt_length
        if end % self._page_tokens or not (answering or end in self._wanted(sequence)):
            return
        page = sequence.pages.last_shared(end)
        slot = None if page is None else self.slots.keep(page)
        if page is None or slot is None:
            return
        self._runner.copy_state(sequence.state, slot)
        if answering:
            # Of an answer the last one is enough.
            if sequence.answer_snapshot is not None:
                self.slots.forget(sequence.answer_snapshot)
            sequence.answer_snapshot = page

    def end(self, sequence: RunningSequence) -> None:
        """Free the slot of a sequence that ran."""
        self.slots.give_back(sequence.state)

    def _wanted(self, sequence: RunningSequence) -> tuple[int, int]:
        last = (sequence.prompt_length - 1) // self._page_tokens * self._page_tokens
        return min(sequence.pages.parting, last), last
