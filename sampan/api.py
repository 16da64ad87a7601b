"""Sampan from Python: `sampan.load(...)` gives a `Model` that generates, streams and tokenizes."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Unpack

from sampan.engine.options import OptionNames, SamplingOptions
from sampan.errors import FormatError, MachineError, RequestError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sampan.config import ModelConfig
    from sampan.engine.engine import Engine
    from sampan.engine.logprobs import TokenLogprob
    from sampan.engine.runner import Runner
    from sampan.engine.sequence import FinishReason
    from sampan.formats import MatrixFormat
    from sampan.hub.home import Progress
    from sampan.models.tokenizer import Tokenizer
    from sampan.weights.pack import Pack

DEFAULT_CONTEXT = 4096
# A sequence's own, and snapshots behind its prompt and its answer.
STATES_PER_SEQUENCE = 3
SMALLEST_DEFAULT_CONTEXT = 256

# Texts that `Model.embed` queues at a time.
_EMBEDDED_AT_ONCE = 64

# Activations, logits, compiled code and the interpreter itself.
_WORKING_MEMORY = 200 * 2**20

Message = Mapping[str, Any]
Prompt = str | Sequence[Message]


@dataclass(frozen=True)
class Usage:
    """Tokens of the prompt, of the answer (its end token included), and the context they share; how many of
    the prompt's came from the prefix cache.
    """

    prompt_tokens: int
    completion_tokens: int
    context: int
    cached_tokens: int = 0


@dataclass(frozen=True)
class Timings:
    """Seconds to load the model, from the request to its first token and to its last; answer tokens per
    second after the first (None when there was only one).
    """

    load_s: float
    first_token_s: float
    total_s: float
    tok_s: float | None


@dataclass(frozen=True)
class Completion:
    """An answer. `tokens` ends with the end token when the model wrote one; `text` is without it.

    `finish_reason`: "stop" (end token or stop string) or "length" (max_tokens or the context). `seed` repeats
    the answer. `logprobs`, with the option of this name: one for each of `tokens`. `expert_usage`, with the
    option `count_experts`: how many tokens of prompt and answer each expert had, int64 [sparse layers,
    experts]. The last token is not among them: it went into no layer.
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason
    seed: int
    usage: Usage
    timings: Timings
    logprobs: tuple[TokenLogprob, ...] | None = None
    expert_usage: NDArray[np.int64] | None = dataclasses.field(default=None, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """As `sampan run --json` prints it; `logprobs` and `expert_usage` only where they were asked for."""
        values = dataclasses.asdict(self)
        if self.logprobs is None:
            del values["logprobs"]
        usage = values.pop("expert_usage")
        return values if usage is None else values | {"expert_usage": usage.tolist()}


@dataclass(frozen=True)
class Chunk:
    """A piece of an answer: its tokens and the text that became certain with them, which may be empty.

    `logprobs`: one for each of `tokens`, with the option of this name. The last chunk has the `finish_reason`
    and the whole `completion`.
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason | None = None
    completion: Completion | None = None
    logprobs: tuple[TokenLogprob, ...] | None = None


def load(
    reference: str | Path | None = None,
    *,
    context: int | None = None,
    threads: int | None = None,
    kv_dtype: Literal["bf16", "int8"] = "bf16",
    sequences: int = 1,
    states: int | None = None,
    max_experts: int | None = None,
    prefix_cache: bool = True,
    progress: Progress | None = None,
) -> Model:
    """A model, ready to generate; fetched, converted and compiled first where that has not happened yet.

    `reference`: None is the default model; see `sampan.hub.reference.FORMS`. `context`: most tokens of prompt
    and answer; None is 4096, or less where the model or the memory has less. `sequences`: how many such
    contexts the KV cache holds at once. `states`: what a model with linear layers remembers has a fixed size;
    so many are kept, one for each sequence that runs and the others as snapshots for the prefix cache; None
    is three for each of `sequences`, or one without a prefix cache. `max_experts`: most experts per token
    that a request may ask for; None is as many as the model was trained with. `prefix_cache`: whether a
    prompt that begins like an earlier one is read only from where they differ. `progress` is called with
    (what, bytes done, bytes in all or None).

    Raises SampanError; RequestError for a context or number of experts beyond the model's, MachineError when
    memory is too small.
    """
    started = time.perf_counter()
    _check_count("max_experts", max_experts)
    _check_count("context", context)
    _check_count("threads", threads)
    _check_count("sequences", sequences)
    _check_count("states", states)
    if kv_dtype not in ("bf16", "int8"):
        raise RequestError(f"kv_dtype must be bf16 or int8, not {kv_dtype!r}")

    from sampan.cache.layout import PAGE_TOKENS
    from sampan.engine.experts import most_experts

    name, pack = open_pack(None if reference is None else str(reference), progress=progress)
    try:
        most_experts(pack.config, max_experts)  # checked before kernels are compiled
        if states is None:
            states = sequences * (STATES_PER_SEQUENCE if prefix_cache else 1)
        context = choose_context(pack, context, kv_dtype, sequences, states)
        model = start_model(
            pack,
            name,
            context=context,
            page_count=sequences * -(-context // PAGE_TOKENS),
            states=states,
            threads=threads,
            kv_dtype=kv_dtype,
            max_experts=max_experts,
            prefix_cache=prefix_cache,
            progress=progress,
        )
    except BaseException:
        pack.close()
        raise
    model.load_s = time.perf_counter() - started
    return model


def open_pack(reference: str | None = None, *, progress: Progress | None = None) -> tuple[str, Pack]:
    """The full reference of a model and its pack, fetched and converted first where that has not happened
    yet. Raises SampanError.
    """
    from sampan.convert.cache import ensure_pack
    from sampan.hub.home import packs_folder
    from sampan.hub.resolve import resolve
    from sampan.weights.pack import Pack

    local = resolve(reference, progress=progress)
    path = local.path if local.kind == "pack" else ensure_pack(local.path, packs_folder(), progress=progress)
    return local.reference, Pack.open(path)


def start_model(
    pack: Pack,
    reference: str,
    *,
    context: int,
    page_count: int,
    states: int = 1,
    threads: int | None = None,
    kv_dtype: Literal["bf16", "int8"] = "bf16",
    max_experts: int | None = None,
    max_waiting: int | None = None,
    max_running: int | None = None,
    prefix_cache: bool = True,
    usable_pages: Callable[[Runner], int] | None = None,
    progress: Progress | None = None,
) -> Model:
    """A model from an open pack, which closes with it.

    `page_count`: pages of the KV cache, which take memory from their first use on; `usable_pages` may say
    that fewer are to be used, once the runner knows what it needs itself. `states`: state slots of a model
    with linear layers. `max_waiting` and `max_running`: most requests that wait and that are in one batch;
    None is the engine's default. The rest is as for `load`.
    """
    from sampan.cache.pages import PagePool
    from sampan.engine.engine import DEFAULT_MAX_WAITING, Engine
    from sampan.engine.runner import Runner
    from sampan.plan.machine import default_threads

    started = time.perf_counter()
    tokenizer = load_tokenizer(pack)
    compile_kernels(pack.formats, progress)
    runner = Runner(
        pack,
        context=context,
        page_count=page_count,
        threads=default_threads() if threads is None else threads,
        kernel_folder=kernels_folder(),
        kv_dtype=kv_dtype,
        max_experts=max_experts,
        state_count=states,
    )
    try:
        engine = Engine(
            runner,
            PagePool(page_count if usable_pages is None else usable_pages(runner)),
            context=context,
            decode=None if tokenizer is None else tokenizer.decode,
            eos_ids=frozenset() if tokenizer is None else tokenizer.eos_ids,
            max_waiting=DEFAULT_MAX_WAITING if max_waiting is None else max_waiting,
            max_running=max_running,
            prefix_cache=prefix_cache,
        )
    except BaseException:
        runner.close()
        raise
    return Model(reference, pack, runner, engine, tokenizer, load_s=time.perf_counter() - started)


def compile_kernels(formats: Collection[MatrixFormat], progress: Progress | None = None) -> None:
    """Compile this machine's kernels for matrices of these formats, or read them where they have been
    compiled; once per process.
    """
    from sampan.kernels.compiled import entry_point, is_compiled

    if progress is not None and not is_compiled(kernels_folder(), formats):
        progress("compiling the kernels for this machine, once", 0, None)
    entry_point(kernels_folder(), formats)


def kernels_folder() -> Path:
    """Where this machine's compiled kernels are kept."""
    from sampan.hub.home import home

    return home() / "kernels"


def load_tokenizer(pack: Pack) -> Tokenizer | None:
    """The pack's tokenizer; None for a pack made without one, such as one of random weights."""
    from sampan.models.tokenizer import Tokenizer
    from sampan.weights.pack import TOKENIZER_BLOB, TOKENIZER_CONFIG_BLOB

    if not pack.blobs:
        return None
    return Tokenizer.from_blobs(
        pack.blob(TOKENIZER_BLOB), pack.blob(TOKENIZER_CONFIG_BLOB), pack.config.vocab_size
    )


def choose_context(
    pack: Pack, context: int | None, kv_dtype: Literal["bf16", "int8"], sequences: int, states: int = 1
) -> int:
    """The context to load with: what was asked for, checked, or a default that fits model and memory."""
    from sampan.cache.layout import KeyValueLayout
    from sampan.cache.states import StateLayout
    from sampan.plan.machine import available_memory

    config = pack.config
    layout = KeyValueLayout.of(config, kv_dtype)
    if context is not None and context > config.context_length:
        raise RequestError(
            f"context {context} is more than the {config.context_length} tokens this model was made for"
        )
    available = available_memory()
    state_bytes = states * StateLayout.of(config).slot_bytes
    room = available - pack.nbytes - state_bytes - _WORKING_MEMORY
    wanted = context or min(DEFAULT_CONTEXT, config.context_length)
    smallest = wanted if context else min(SMALLEST_DEFAULT_CONTEXT, wanted)
    while wanted * layout.token_bytes * sequences > room:
        if wanted // 2 < smallest:
            kept = f", states {_megabytes(state_bytes)}" if state_bytes else ""
            raise MachineError(
                f"{_megabytes(available)} of memory are available, but the weights take "
                f"{_megabytes(pack.nbytes)}{kept} and "
                f"{sequences} x {wanted} tokens of {kv_dtype} KV cache "
                f"{_megabytes(wanted * layout.token_bytes * sequences)}; "
                "ask for a smaller context, an int8 KV cache or a smaller model"
            )
        wanted //= 2
    return wanted


class Model:
    """A loaded model. A context manager: leaving it frees its memory.

    Several threads may generate at once; their requests run in one batch.
    """

    def __init__(
        self,
        reference: str,
        pack: Pack,
        runner: Runner,
        engine: Engine,
        tokenizer: Tokenizer | None,
        *,
        load_s: float,
    ) -> None:
        self.reference = reference
        self.pack = pack
        self.runner = runner
        self.engine = engine
        self.tokenizer = tokenizer
        self.load_s = load_s

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the KV cache, the threads and the weights' mapping."""
        self.engine.close()
        self.pack.close()

    @property
    def config(self) -> ModelConfig:
        """The model's configuration."""
        return self.pack.config

    @property
    def context(self) -> int:
        """Most tokens of one request, prompt and answer."""
        return self.engine.context

    def tokenize(self, prompt: Prompt) -> list[int]:
        """Token ids of a plain text, or of messages through the model's chat template."""
        if self.tokenizer is None:
            raise FormatError(
                f"{self.reference}: this model has no tokenizer, so it cannot read or write text"
            )
        if not isinstance(prompt, str):
            return self.tokenizer.chat(prompt)
        if not prompt:
            raise RequestError("the prompt is empty")
        return self.tokenizer.encode(prompt)

    def generate(self, prompt: Prompt, **options: Unpack[OptionNames]) -> Completion:
        """The answer to a prompt; see `stream`, of which this is the last chunk's completion."""
        completion = None
        for chunk in self.stream(prompt, **options):
            completion = chunk.completion
        if completion is None:
            raise RequestError("the request was cancelled: its model was closed")
        return completion

    def stream(self, prompt: Prompt, **options: Unpack[OptionNames]) -> Iterator[Chunk]:
        """The answer to a prompt, a token at a time.

        `prompt`: a text to continue, or messages to answer, each with a role and a content. `options`: the
        fields of `SamplingOptions`; `stop` may be one string or any sequence of them, `logit_bias` a mapping.
        Raises RequestError at once, before the first chunk, when the request cannot be honoured.
        """
        tokens = self.tokenize(prompt)
        return self._chunks(tokens, sampling_options(**options))

    def embed(
        self, texts: Sequence[str], *, pooling: Literal["mean", "last"] = "mean"
    ) -> NDArray[np.float32]:
        """One vector per text, float32 [texts, hidden_size], each of length 1: the mean of the hidden states
        behind the model's last norm, or the one of the last token.

        RequestError when a text is empty or does not fit into the context: nothing is cut.
        """
        import numpy as np

        if isinstance(texts, str):
            raise RequestError("embed takes a list of texts; for one text, write [text]")
        sequences = [self.engine.new_embedding(self.tokenize(text), pooling) for text in texts]
        vectors = np.empty((len(sequences), self.config.hidden_size), np.float32)
        for first in range(0, len(sequences), _EMBEDDED_AT_ONCE):
            group = sequences[first : first + _EMBEDDED_AT_ONCE]
            self.engine.run(group)
            for row, sequence in enumerate(group, first):
                assert sequence.embedding is not None
                vectors[row] = sequence.embedding
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return vectors

    def _chunks(self, prompt: list[int], options: SamplingOptions) -> Iterator[Chunk]:
        sequence = self.engine.new_sequence(prompt, options)

        def chunks() -> Iterator[Chunk]:
            started = time.perf_counter()
            first_token_s = 0.0
            texts: list[str] = []
            tokens: list[int] = []
            logprobs: list[TokenLogprob] = []
            for output in self.engine.stream(sequence):
                total_s = time.perf_counter() - started
                first_token_s = first_token_s or total_s
                texts.append(output.text)
                tokens.append(output.token)
                logprob = () if output.logprob is None else (output.logprob,)
                logprobs += logprob
                completion = None
                if output.finish_reason is not None:
                    after_first = total_s - first_token_s
                    completion = Completion(
                        "".join(texts),
                        tuple(tokens),
                        output.finish_reason,
                        sequence.seed,
                        Usage(len(prompt), len(tokens), self.context, sequence.cached_tokens),
                        Timings(
                            self.load_s,
                            first_token_s,
                            total_s,
                            (len(tokens) - 1) / after_first if after_first > 0 else None,
                        ),
                        tuple(logprobs) if logprob else None,
                        sequence.expert_usage,
                    )
                yield Chunk(output.text, (output.token,), output.finish_reason, completion, logprob or None)

        return chunks()


def sampling_options(**options: Unpack[OptionNames]) -> SamplingOptions:
    """SamplingOptions from keyword arguments; RequestError names an unknown one and lists the known."""
    values: dict[str, Any] = dict(options)
    known = [field.name for field in dataclasses.fields(SamplingOptions)]
    for name in values:
        if name not in known:
            raise RequestError(f"unknown option {name!r}; there are {', '.join(known)}")
    stop = values.pop("stop", None) or ()
    bias = values.pop("logit_bias", None) or ()
    return SamplingOptions(
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        logit_bias=tuple(bias.items() if isinstance(bias, Mapping) else bias),
        **values,
    )


def _check_count(name: str, value: int | None) -> None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise RequestError(f"{name} must be a whole number of at least 1, not {value!r}")


def _megabytes(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"
