"""The models that an evaluation compares with its reference, and the reference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace

from sampan.api import Model, load
from sampan.cache.layout import KeyValueType
from sampan.convert.cache import ensure_pack
from sampan.engine.experts import FULL, ExpertDial
from sampan.errors import RequestError
from sampan.hub.home import Progress, packs_folder
from sampan.hub.resolve import resolve
from sampan.measure.logits import EngineLogits, LogitSource, float32_logits, holds_floats
from sampan.measure.size import Size, pack_size, source_size
from sampan.measure.tally import ExpertTally
from sampan.measure.text import Text
from sampan.models.registry import resolve_config
from sampan.models.tokenizer import Tokenizer
from sampan.models.tokenizer_import import import_tokenizer
from sampan.weights.detect import open_source
from sampan.weights.repack import Bits

FLOAT32 = "float32"


@dataclass(frozen=True)
class Candidate:
    """A model to be measured. `size`: of its weights, in the file that they are from where that keeps them
    quantized. `tally` counts the experts that it uses. `baseline`: whether it is a plain conversion.
    """

    name: str
    kv: KeyValueType
    size: Size
    logits: LogitSource
    tally: ExpertTally | None = None
    baseline: bool = False


@dataclass(frozen=True)
class Options:
    """How models are loaded; see `sampan.load`."""

    window: int
    threads: int | None = None
    progress: Progress | None = None


def open_candidates(
    stack: ExitStack,
    reference: str | None,
    kv_types: Sequence[KeyValueType],
    beside: Mapping[str, str],
    baselines: Mapping[str, str],
    dial: ExpertDial,
    texts: Sequence[Text],
    options: Options,
) -> tuple[Model, list[Candidate]]:
    """The model `reference`, and it and others as candidates: once for each of `kv_types`, then `baselines`
    and those in `beside`, both names to references, with the first of these types. Only the model's own dial
    is turned.
    """
    models = [_load(stack, reference, kv, options, dial) for kv in kv_types]
    first = models[0]
    size = _size(first)
    names = [first.reference, *(f"{kv} KV cache" for kv in kv_types[1:])]
    candidates = [
        _candidate(name, model, kv, size, dial)
        for name, model, kv in zip(names, models, kv_types, strict=True)
    ]
    for name, other in [*baselines.items(), *beside.items()]:
        model = _load(stack, other, kv_types[0], options)
        _require_same_tokens(first, model, texts)
        candidate = _candidate(name, model, kv_types[0], _size(model), FULL)
        candidates.append(replace(candidate, baseline=name in baselines))
    return first, candidates


def open_reference(
    stack: ExitStack,
    reference: str | None,
    against: str,
    model: Model,
    kv: KeyValueType,
    texts: Sequence[Text],
    options: Options,
) -> LogitSource:
    """What `against` names: "float32", the same weights before conversion; another checkpoint with float
    weights, in float32 as well; any other model as the engine runs it.
    """
    if against == FLOAT32:
        return stack.enter_context(float32_logits(reference, options.window))
    local = resolve(against, progress=options.progress)
    if local.reference != model.reference and local.kind != "pack" and holds_floats(local.path):
        with closing(open_source(local.path)) as source:
            tokenizer = Tokenizer(*import_tokenizer(source))
            size = resolve_config(source).vocab_size
        _require_same_vocabulary(model, local.reference, size, tokenizer.encode, texts)
        return stack.enter_context(float32_logits(against, options.window))
    rival = _load(stack, against, kv, options)
    _require_same_tokens(model, rival, texts)
    return EngineLogits(rival)


def uniform_packs(reference: str | None, against: str, progress: Progress | None) -> dict[str, str]:
    """Plain conversions, each weight rounded to the nearest value, of the checkpoint with float weights that
    is the reference, or the model's own: names to packs, made now where they are not there. None of a model
    without such.
    """
    local = resolve(reference if against == FLOAT32 else against, progress=progress)
    if local.kind == "pack" or not holds_floats(local.path):
        return {}
    packs: tuple[tuple[str, Bits], ...] = (("8 bits, nearest", 8), ("4 bits, nearest", 4))
    return {
        name: str(ensure_pack(local.path, packs_folder(), bits=bits, progress=progress))
        for name, bits in packs
    }


def _load(
    stack: ExitStack,
    reference: str | None,
    kv: KeyValueType,
    options: Options,
    dial: ExpertDial = FULL,
) -> Model:
    return stack.enter_context(
        load(
            reference,
            context=options.window,
            threads=options.threads,
            kv_dtype=kv,
            max_experts=dial.count,
            progress=options.progress,
        )
    )


def _candidate(name: str, model: Model, kv: KeyValueType, size: Size, dial: ExpertDial) -> Candidate:
    tally = ExpertTally(model.config)
    return Candidate(name, kv, size, EngineLogits(model, dial, tally), tally)


def _size(model: Model) -> Size:
    """Of a quantized file itself: what it holds in no format of the pack takes more there."""
    local = resolve(model.reference)
    if local.kind == "pack" or holds_floats(local.path):
        return pack_size(model.pack)
    return source_size(local.path)


def _require_same_tokens(model: Model, other: Model, texts: Sequence[Text]) -> None:
    _require_same_vocabulary(model, other.reference, other.config.vocab_size, other.tokenize, texts)


def _require_same_vocabulary(
    model: Model, other: str, size: int, encode: Callable[[str], list[int]], texts: Sequence[Text]
) -> None:
    documents = [document for text in texts for document in text.documents]
    if size != model.config.vocab_size or any(encode(text) != model.tokenize(text) for text in documents):
        raise RequestError(
            f"{model.reference} and {other} split the text into different tokens, "
            "so their distributions cannot be compared"
        )
