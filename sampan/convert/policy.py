"""Which format each matrix gets when nothing is known of it but its name and how it is stored."""

from __future__ import annotations

from sampan.convert.checkpoint import Checkpoint
from sampan.formats import MatrixFormat
from sampan.weights.repack import Bits, target_format
from sampan.weights.source import FLOAT_TYPES

# Read at every token, or deciding every token: these lose the most at 4 bits. So do the few rows that say
# what a linear layer's state takes up and forgets: 4 bits there cost more than 8 bits in all other matrices.
ALWAYS_EIGHT_BITS = ("embedding", "output")
ALWAYS_EIGHT_BITS_IN_LAYERS = (".linear.beta", ".linear.decay")


def is_protected(name: str) -> bool:
    """Whether a matrix of the pack has 8 bits whatever was asked for."""
    return name in ALWAYS_EIGHT_BITS or name.endswith(ALWAYS_EIGHT_BITS_IN_LAYERS)


def stored_formats(checkpoint: Checkpoint, bits: Bits) -> dict[str, MatrixFormat]:
    """The format of every matrix: `bits` for those stored as floats and not protected; quantized ones keep
    their own width.
    """
    formats = {}
    for name, tensor in checkpoint.matrices.items():
        quantized = checkpoint.source.tensors[tensor.sources[0].name].type not in FLOAT_TYPES
        width: Bits = 8 if quantized or is_protected(name) else bits
        formats[name] = target_format(checkpoint.stored_type(tensor), width)
    return formats
