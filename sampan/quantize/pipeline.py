"""From a checkpoint to the pack that was asked for."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sampan.convert.cache import held
from sampan.convert.checkpoint import Checkpoint, open_checkpoint
from sampan.convert.convert import open_conversion, pack_contents
from sampan.errors import FormatError, RequestError, UnsupportedError
from sampan.hub.home import Progress
from sampan.hub.resolve import resolve
from sampan.measure.texts import shipped_texts
from sampan.models.tokenizer import Tokenizer
from sampan.models.tokenizer_import import import_tokenizer
from sampan.plan.machine import default_threads
from sampan.quantize.auto import choices_for_size, forget_measurements, with_formats
from sampan.quantize.choose import Choice, requantized, uniform_choices, within_range
from sampan.quantize.report import Decision, QuantizeReport, header_digest
from sampan.quantize.settings import QuantizeSettings
from sampan.quantize.texts import FEWEST_TOKENS, Windows, default_tokens, read_texts, token_windows
from sampan.quantize.write import Calibrated, write_calibrated, write_unweighted
from sampan.weights.pack_writer import PackContents

# Raise it when the same request would give other bytes: what an older version left unfinished is begun anew.
QUANTIZER_VERSION = 4

PACK_SUFFIX = ".pack"


def quantize_model(
    reference: str,
    out: Path,
    settings: QuantizeSettings,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> QuantizeReport:
    """Make the pack `out` of a model, and its report beside it; what lies there stays until both are whole.

    What was interrupted, even killed, goes on when the same is asked for again. Raises SampanError: besides
    what the reference and the conversion raise, RequestError for an `out` that is no place for a new pack, a
    text that cannot be read, or a size that no mix of formats reaches.
    """
    _check_out(out, force)
    texts = _texts(settings)
    local = resolve(reference, progress=progress)
    if local.kind == "pack":
        raise RequestError(f"{reference} is a pack already; quantize what it was made from")
    with held(out, progress), open_checkpoint(local.path) as checkpoint:
        windows = _windows(checkpoint, texts, settings) if texts else {}
        try:
            report = _Quantization(
                checkpoint, local.reference, local.path, out, settings, windows, progress
            ).run()
        except (FormatError, UnsupportedError):
            # Of a source that is not what it was, or that never becomes a pack.
            forget_measurements(out)
            raise
        forget_measurements(out)
        return report


def _texts(settings: QuantizeSettings) -> dict[str, str]:
    """What calibration reads: nothing, the user's texts or those that ship with Sampan."""
    if not settings.calibrated:
        return {}
    return read_texts(settings.texts) if settings.texts else shipped_texts("calibration")


def _windows(checkpoint: Checkpoint, texts: Mapping[str, str], settings: QuantizeSettings) -> Windows:
    config = checkpoint.config
    tokenizer = Tokenizer(*import_tokenizer(checkpoint.source), config.vocab_size)
    tokens = settings.max_tokens or default_tokens(config.hidden_size)
    return token_windows(tokenizer, texts, config.context_length, tokens)


def _check_out(out: Path, force: bool) -> None:
    if out.suffix != PACK_SUFFIX:
        raise RequestError(f"{out}: a pack's name ends in {PACK_SUFFIX}")
    if not out.parent.is_dir():
        raise RequestError(f"{out}: there is no folder {out.parent}; create it first")
    if not os.access(out.parent, os.W_OK):
        raise RequestError(f"{out}: the folder {out.parent} cannot be written to")
    if out.is_dir():
        raise RequestError(f"{out} is a folder; name a file")
    if out.exists() and not force:
        raise RequestError(f"{out} exists; --force replaces it once the new pack is whole")


@dataclass(frozen=True)
class _Quantization:
    """One quantization of an opened checkpoint."""

    checkpoint: Checkpoint
    reference: str
    path: Path
    out: Path
    settings: QuantizeSettings
    windows: Windows
    progress: Progress | None

    def run(self) -> QuantizeReport:
        settings, checkpoint = self.settings, self.checkpoint
        choices, contents = self._chosen()
        with open_conversion(
            checkpoint,
            self.out,
            contents,
            self._request(),
            threads=settings.threads or default_threads(),
            label=f"quantizing {checkpoint.source.path.name}",
            progress=self.progress,
        ) as conversion:
            if self.windows:
                rounded = write_calibrated(conversion, self._pieces, self.settings.method)
            else:
                rounded = Calibrated(write_unweighted(conversion, choices))
            report = self._report(contents, choices, rounded)
            report.write()
        return report

    def _chosen(self) -> tuple[dict[str, Choice], PackContents]:
        """The format of each matrix, and what a pack of them holds."""
        checkpoint, size = self.checkpoint, self.settings.size
        if size is None:
            uniform = uniform_choices(checkpoint, 8 if self.settings.bits == 8 else 4)
            choices = within_range(checkpoint, uniform, self.progress)
            return choices, self._contents(choices)
        contents = self._contents(uniform_choices(checkpoint, 8))
        choices = choices_for_size(
            checkpoint,
            contents,
            self._pieces,
            size,
            self.settings.method,
            self._measured_on(),
            self.out,
            self.progress,
        )
        return choices, with_formats(contents, choices)

    def _contents(self, choices: Mapping[str, Choice]) -> PackContents:
        formats = {name: choice.format for name, choice in choices.items()}
        return pack_contents(self.checkpoint, formats, self._provenance())

    @cached_property
    def _pieces(self) -> list[npt.NDArray[np.int32]]:
        return [piece for pieces in self.windows.values() for piece in pieces]

    def _provenance(self) -> dict[str, Any]:
        """What the pack says of itself."""
        return {
            "path": str(self.path),
            "kind": self.checkpoint.source.kind,
            "bits": self.settings.bits,
            "size": self.settings.size,
            "quantizer_version": QUANTIZER_VERSION,
            "calibration": _token_counts(self.windows),
        }

    def _measured_on(self) -> dict[str, Any]:
        """All that measurements depend on, besides the formats that are allowed."""
        tokens = hashlib.sha256()
        for name, pieces in self.windows.items():
            tokens.update(json.dumps([name, [piece.tolist() for piece in pieces]]).encode())
        return {
            "source": str(self.path),
            "files": [list(entry) for entry in self.checkpoint.state],
            "quantizer_version": QUANTIZER_VERSION,
            "method": self.settings.method,
            "tokens": tokens.hexdigest(),
        }

    def _request(self) -> dict[str, Any]:
        """All that the bytes depend on, besides the formats."""
        return self._measured_on() | {"bits": self.settings.bits, "size": self.settings.size}

    def _report(
        self, contents: PackContents, choices: Mapping[str, Choice], rounded: Calibrated
    ) -> QuantizeReport:
        matrices, written = contents.matrices, rounded.written
        weights = sum(matrix.rows * matrix.columns for matrix in matrices.values())
        return QuantizeReport(
            source=self.reference,
            pack=str(self.out),
            bits=self.settings.bits,
            size=self.settings.size,
            pack_bytes=contents.nbytes,
            matrix_bytes=contents.matrix_bytes,
            bits_per_weight=8 * contents.matrix_bytes / weights,
            calibration=_token_counts(self.windows),
            calibration_kl=rounded.divergence,
            unreached_experts=tuple(
                record for record, parts in contents.records.items() if parts[0] in rounded.unreached
            ),
            notes=tuple(self._notes(choices)),
            header=header_digest(contents.header),
            decisions=tuple(
                Decision(
                    name=name,
                    format=choice.format.name,
                    rows=matrices[name].rows,
                    columns=matrices[name].columns,
                    bits=choice.format.bits_per_weight,
                    bytes=matrices[name].nbytes,
                    error=written[name].error,
                    why=choice.why,
                    damage=choice.damage,
                    tokens=written[name].tokens,
                )
                for name, choice in choices.items()
            ),
        )

    def _notes(self, choices: Mapping[str, Choice]) -> list[str]:
        notes = []
        read = sum(_token_counts(self.windows).values())
        if self.settings.texts and self.settings.max_tokens is None and read < FEWEST_TOKENS:
            notes.append(
                f"the texts have {read:,} tokens; calibration would read {FEWEST_TOKENS:,} and more, and the"
                " more it reads the better it rounds"
            )
        twice = requantized(self.checkpoint, choices)
        if twice:
            notes.append(
                f"{len(twice)} of {len(choices)} matrices have about 4 bits in {self.reference} already, and"
                " rounding them again loses more; the float weights would give a better pack"
            )
        return notes


def _token_counts(windows: Windows) -> dict[str, int]:
    return {name: sum(map(len, pieces)) for name, pieces in windows.items()}
