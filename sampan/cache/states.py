"""What linear layers remember of a sequence, in slots of fixed size, and which slots are free.

A slot has, layer by layer: the delta rule's states, float32 [value heads, key_dim, value_dim] in the order of
kernels/delta.py, then the convolution's last inputs, float32 [conv_width - 1, channels].
"""

from __future__ import annotations

from dataclasses import dataclass

from sampan.config import ModelConfig
from sampan.errors import RequestError


@dataclass(frozen=True)
class StateLayout:
    """Byte sizes and offsets of one model's state slots; without linear layers a slot has 0 bytes."""

    layer_count: int
    value_heads: int
    key_dim: int
    value_dim: int
    channels: int
    conv_width: int

    @staticmethod
    def of(config: ModelConfig) -> StateLayout:
        """The state of a model's sequences."""
        return StateLayout(
            config.linear_count,
            config.linear_value_heads,
            config.linear_key_dim,
            config.linear_value_dim,
            config.linear_channels,
            config.linear_conv_width,
        )

    @property
    def history_offset(self) -> int:
        """From a layer's part to the convolution's last inputs."""
        return self.value_heads * self.key_dim * self.value_dim * 4

    @property
    def layer_bytes(self) -> int:
        """One layer of one sequence."""
        return self.history_offset + (max(self.conv_width, 1) - 1) * self.channels * 4

    @property
    def slot_bytes(self) -> int:
        """One sequence, all layers."""
        return self.layer_count * self.layer_bytes


class StatePool:
    """Hands out state slots 0..state_count-1. The most recently freed slot goes first: its memory is warm.

    Not thread-safe: the engine's owner calls it.
    """

    def __init__(self, state_count: int) -> None:
        if state_count < 1:
            raise RequestError(f"a model with linear layers needs at least one state slot, not {state_count}")
        self.state_count = state_count
        self._free = list(range(state_count - 1, -1, -1))

    @property
    def free_count(self) -> int:
        """Slots that `allocate` can still hand out."""
        return len(self._free)

    def allocate(self) -> int:
        """Take a slot. RequestError when none is free."""
        if not self._free:
            raise RequestError(
                f"all {self.state_count} state slots are taken; load the model for more sequences"
            )
        return self._free.pop()

    def free(self, slot: int) -> None:
        """Give a slot back. A slot that is not allocated raises ValueError."""
        if not 0 <= slot < self.state_count or slot in self._free:
            raise ValueError(f"state slot {slot} is not allocated")
        self._free.append(slot)
