"""How far a model's next-token distributions are from a reference's, over texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sampan.cache.layout import KeyValueType
from sampan.engine.experts import FULL, ExpertDial
from sampan.errors import RequestError
from sampan.hub.home import Progress
from sampan.measure.bootstrap import Bootstrap, Interval, interval
from sampan.measure.candidates import Candidate, Options, open_candidates, open_reference, uniform_packs
from sampan.measure.compare import Comparison, Expectation
from sampan.measure.figures import Figures, figures
from sampan.measure.logits import LogitSource
from sampan.measure.pieces import Piece, by_document, cut
from sampan.measure.size import Size
from sampan.measure.tally import ExpertSetting
from sampan.measure.text import Text, evaluation_texts

# Tokens whose logits are compared at once: bounds memory, in float64, for the largest vocabularies.
_CHUNK = 64

PartKind = Literal["text", "domain", "language"]


@dataclass(frozen=True)
class Part:
    """The figures of one text, or of the shipped texts of one domain or language."""

    kind: PartKind
    name: str
    figures: Figures

    def to_dict(self) -> dict[str, Any]:
        """As `sampan eval --json` prints it."""
        return {"kind": self.kind, "name": self.name} | self.figures.to_dict()


@dataclass(frozen=True)
class Measured:
    """One model against the reference. `parts`: its figures part by part, where there are several texts.
    `baseline`: whether it is a plain conversion, for comparison.

    `added`: by how much its divergence is larger than that of the model that is evaluated, in nats, the mean
    over the same tokens, with its 95% confidence interval where there is one; None of that model itself.
    """

    name: str
    kv: KeyValueType
    size: Size
    figures: Figures
    parts: tuple[Part, ...]
    baseline: bool = False
    added: tuple[float, Interval | None] | None = None

    def to_dict(self) -> dict[str, Any]:
        """As `sampan eval --json` prints it."""
        values = {
            "name": self.name,
            "kv": self.kv,
            "bytes": self.size.bytes,
            "bits_per_weight": self.size.bits_per_weight,
            **self.figures.to_dict(),
            "parts": [part.to_dict() for part in self.parts],
            "baseline": self.baseline,
        }
        if self.added is not None:
            mean, added_interval = self.added
            values["added_kl"] = {"mean": mean, "interval": added_interval}
        return values


@dataclass(frozen=True)
class EvalReport:
    """What `sampan eval` prints. `tokens`: how many next-token distributions were compared, in windows of
    `window` tokens; `text_tokens`: tokens of the whole texts. `resampled`: what the confidence intervals
    draw. `experts`: of a mixture of experts, how the model's dial was set; the others' is not turned.
    `beside`: other models, and the model with other KV caches, over the same tokens.
    """

    against: str
    texts: tuple[str, ...]
    text_tokens: int
    window: int
    resampled: Literal["documents", "windows"]
    model: Measured
    beside: tuple[Measured, ...] = ()
    experts: ExpertSetting | None = None

    def to_dict(self) -> dict[str, Any]:
        """As `sampan eval --json` prints it: the model's own figures at the top; `experts` and `beside` only
        where there are any.
        """
        own = self.model.to_dict()
        del own["baseline"]
        values = {
            "model": own.pop("name"),
            "against": self.against,
            "texts": list(self.texts),
            "text_tokens": self.text_tokens,
            "window": self.window,
            "resampled": self.resampled,
            **own,
        }
        if self.experts is not None:
            values["experts"] = {
                "experts_per_token": self.experts.experts_per_token,
                "expert_mass": self.experts.expert_mass,
                "experts_per_token_used": self.experts.experts_per_token_used,
            }
        if self.beside:
            values["beside"] = [measured.to_dict() for measured in self.beside]
        return values


def run_eval(
    reference: str | None,
    against: str,
    texts: Sequence[Text] | None = None,
    *,
    window: int = 512,
    max_tokens: int | None = 4096,
    dial: ExpertDial = FULL,
    threads: int | None = None,
    kv_types: Sequence[KeyValueType] = ("bf16",),
    beside: Mapping[str, str] | None = None,
    baselines: bool = False,
    progress: Progress | None = None,
) -> EvalReport:
    """Compare the model `reference` with `against`: "float32" for the same weights before conversion, or
    another reference, see `open_reference`. `texts`: None is the shipped evaluation texts.

    Of each text `max_tokens` tokens (None: all) are read, every document on its own in windows of `window`.
    `kv_types`: the model is measured with each. `beside`: other models to measure, by the names they get in
    the report; `baselines`: also plain conversions of a float reference, see `uniform_packs`. `dial`: to how
    many experts the model sends its tokens; all others send them to those they were trained with, so that a
    model against itself shows what the dial costs.

    RequestError when a text is too short, the models' tokens differ, or the model has no such experts.
    """
    if window < 2:
        raise RequestError(f"window must be at least 2 tokens, not {window}")
    if max_tokens is not None and max_tokens < 2:
        raise RequestError(f"max_tokens must be at least 2, not {max_tokens}")
    chosen = evaluation_texts() if texts is None else list(texts)
    options = Options(window, threads, progress)
    plain = uniform_packs(reference, against, progress) if baselines else {}
    with ExitStack() as stack:
        model, candidates = open_candidates(
            stack, reference, kv_types, beside or {}, plain, dial, chosen, options
        )
        other = open_reference(stack, reference, against, model, kv_types[0], chosen, options)
        text_length, pieces = cut(model, chosen, window, max_tokens)
        measured = measure(candidates, other, pieces, chosen, progress)
        tally = candidates[0].tally
        return EvalReport(
            against,
            tuple(text.name for text in chosen),
            text_length,
            window,
            "documents" if by_document(chosen) else "windows",
            measured[0],
            tuple(measured[1:]),
            None if tally is None else tally.setting(dial),
        )


def measure(
    candidates: Sequence[Candidate],
    reference: LogitSource,
    pieces: Sequence[Piece],
    texts: Sequence[Text],
    progress: Progress | None = None,
) -> list[Measured]:
    """Every candidate against the reference over the same pieces of `texts`."""
    compared: list[list[Comparison]] = [[] for _ in candidates]
    sources = [candidate.logits for candidate in candidates]
    for number, piece in enumerate(pieces):
        if progress is not None:
            progress("comparing", number, len(pieces))
        for found, part in zip(compared, _compare_window(sources, reference, piece.tokens), strict=True):
            found.append(part)
    if progress is not None:
        progress("comparing", len(pieces), len(pieces))
    lengths = [len(piece.tokens) - 1 for piece in pieces]
    clusters = np.repeat([piece.cluster for piece in pieces], lengths)
    of_text = np.repeat([piece.text for piece in pieces], lengths)
    bootstrap = Bootstrap([len({p.cluster for p in pieces if p.text == i}) for i in range(len(texts))])
    joined = [Comparison.join(parts) for parts in compared]
    measured = []
    for candidate, own in zip(candidates, joined, strict=True):
        parts = []
        for kind, name, members in _groups(texts):
            chosen = np.isin(of_text, members)
            parts.append(Part(kind, name, figures(own.where(chosen), clusters[chosen], bootstrap)))
        added = None
        if own is not joined[0]:
            difference = own.divergence - joined[0].divergence
            draws = bootstrap.means(difference, clusters)
            added = float(difference.mean()), interval(draws) if bootstrap.suffices(clusters) else None
        measured.append(
            Measured(
                candidate.name,
                candidate.kv,
                candidate.size,
                figures(own, clusters, bootstrap),
                tuple(parts),
                candidate.baseline,
                added,
            )
        )
    return measured


def _compare_window(
    candidates: Sequence[LogitSource], other: LogitSource, tokens: NDArray[np.int32]
) -> list[Comparison]:
    """Each candidate's comparison with the reference over one window."""
    found: list[list[Comparison]] = [[] for _ in candidates]
    streams: list[Iterator[NDArray[np.float32]]] = [
        candidate.logits(tokens[:-1], _CHUNK) for candidate in candidates
    ]
    for start, theirs in zip(range(1, len(tokens), _CHUNK), other.logits(tokens[:-1], _CHUNK), strict=True):
        expected = Expectation(theirs, tokens[start : start + _CHUNK])
        for parts, stream in zip(found, streams, strict=True):
            parts.append(expected.compare(next(stream)))
    for stream in streams:
        next(stream, None)
    return [Comparison.join(parts) for parts in found]


def _groups(texts: Sequence[Text]) -> Iterator[tuple[PartKind, str, list[int]]]:
    """Parts of the texts and the texts that make up each; none of a single text."""
    if len(texts) == 1:
        return
    for number, text in enumerate(texts):
        yield "text", text.name, [number]
    kinds: tuple[tuple[PartKind, list[str | None]], ...] = (
        ("domain", [text.domain for text in texts]),
        ("language", [text.language for text in texts]),
    )
    for kind, names in kinds:
        for name in sorted({name for name in names if name is not None}):
            yield kind, name, [number for number, own in enumerate(names) if own == name]
