"""Sampan: open models at the limit of an ordinary machine. `sampan.load(...)` is the way in."""

from sampan.api import Chunk, Completion, Model, load
from sampan.errors import SampanError

__all__ = ["Chunk", "Completion", "Model", "SampanError", "load"]
