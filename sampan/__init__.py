"""Sampan: open models at the limit of an ordinary machine. `sampan.load(...)` is the way in."""

from sampan.api import Chunk, Completion, Model, load
from sampan.errors import SampanError

# It hides the folder of this name as an attribute, not from `from sampan.quantize.x import y`.
from sampan.quantize.run import quantize

__all__ = ["Chunk", "Completion", "Model", "SampanError", "load", "quantize"]
