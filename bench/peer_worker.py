"""One engine of peers.py in a process of its own: a line of JSON in, a line of JSON out, one job at a time.

Every engine measures the same: `decode` is the rate of new tokens after the first one of each prompt,
`prefill` the rate of prompt tokens until the first new one. Greedy, no end token.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import threading
import time
from typing import Any, Protocol

Prompts = list[list[int]]


class Engine(Protocol):
    """What peers.py asks of an engine; `about` has at least its version."""

    about: dict[str, Any]

    def decode(self, prompts: Prompts) -> float: ...

    def prefill(self, prompts: Prompts) -> float: ...


class Sampan:
    """Sampan through its own engine."""

    def __init__(self, setup: dict[str, Any]) -> None:
        import sampan
        from sampan.kernels.tiers import TIER

        self._tokens = setup["tokens"]
        # Contexts are shared out in pages, so short streams fit where long ones would not.
        self._model = sampan.load(
            setup["model"], context=setup["context"], threads=setup["threads"], sequences=setup["streams"]
        )
        self.about = {
            "version": importlib.metadata.version("sampan") if _installed("sampan") else "here",
            "tier": TIER.name,
            "vocab_size": self._model.config.vocab_size,
        }

    def decode(self, prompts: Prompts) -> float:
        """Tokens per second of all prompts together."""
        from sampan.measure.speed import decode_rate

        return decode_rate(self._model, prompts, self._tokens)

    def prefill(self, prompts: Prompts) -> float:
        """Prompt tokens per second."""
        from sampan.measure.speed import prefill_rate

        return prefill_rate(self._model, prompts[0])


class LlamaCpp:
    """llama.cpp through xllamacpp's server object, one server with one slot and one with a slot per stream.

    A slot's own timings count: what its decode rates are in a batch, summed over the slots.
    """

    def __init__(self, setup: dict[str, Any]) -> None:
        import xllamacpp

        self.about = {"version": xllamacpp.__version__}
        self._tokens = setup["tokens"]

        def server(slots: int, context: int) -> Any:
            params = xllamacpp.CommonParams()
            params.model.path = setup["model"]
            params.n_ctx = slots * context
            params.n_parallel = slots
            params.n_gpu_layers = 0
            params.cpuparams.n_threads = params.cpuparams_batch.n_threads = setup["threads"]
            params.verbosity = -1
            return xllamacpp.Server(params)

        self._one = server(1, setup["context"])
        self._many = server(setup["streams"], setup["stream_context"])

    def decode(self, prompts: Prompts) -> float:
        """Tokens per second of all slots together."""
        if len(prompts) == 1:
            return float(self._complete(self._one, prompts[0], self._tokens + 1)["predicted_per_second"])
        timings: list[dict[str, float]] = []

        def work(prompt: list[int]) -> None:
            timings.append(self._complete(self._many, prompt, self._tokens + 1))

        threads = [threading.Thread(target=work, args=(prompt,)) for prompt in prompts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(timing["predicted_per_second"] for timing in timings)

    def prefill(self, prompts: Prompts) -> float:
        """Prompt tokens per second."""
        return float(self._complete(self._one, prompts[0], 1)["prompt_per_second"])

    def _complete(self, server: Any, prompt: list[int], count: int) -> dict[str, float]:
        options = {"n_predict": count, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
        answer = server.handle_completions({"prompt": prompt, **options})
        if "timings" not in answer:
            raise RuntimeError(f"llama.cpp refused: {answer}")
        if answer["usage"]["completion_tokens"] != count:
            raise RuntimeError(f"llama.cpp gave {answer['usage']} where {count} tokens were asked for")
        timings: dict[str, float] = answer["timings"]
        return timings


class OpenVino:
    """OpenVINO GenAI, which reads GGUF files of some architectures.

    Its metrics are per request: a batch is timed as the difference between a long and a short answer, both
    with the prompts already in its prefix cache.
    """

    def __init__(self, setup: dict[str, Any]) -> None:
        import openvino
        import openvino_genai

        self._openvino, self._genai = openvino, openvino_genai
        self.about = {"version": openvino_genai.__version__.split("-")[0]}
        self._tokens = setup["tokens"]
        self._pipeline = openvino_genai.LLMPipeline(
            setup["model"], "CPU", INFERENCE_NUM_THREADS=setup["threads"]
        )

    def decode(self, prompts: Prompts) -> float:
        """Tokens per second of the whole batch."""
        if len(prompts) == 1:
            _, metrics = self._generate(prompts, self._tokens + 1)
            return 1000.0 / float(metrics.get_tpot().mean)
        self._generate(prompts, 1)
        short_s, _ = self._generate(prompts, 1)
        long_s, _ = self._generate(prompts, self._tokens + 1)
        return len(prompts) * self._tokens / (long_s - short_s)

    def prefill(self, prompts: Prompts) -> float:
        """Prompt tokens per second."""
        _, metrics = self._generate(prompts, 1)
        return 1000.0 * len(prompts[0]) / float(metrics.get_ttft().mean)

    def _generate(self, prompts: Prompts, count: int) -> tuple[float, Any]:
        import numpy as np

        ids = np.array(prompts, np.int64)
        inputs = self._genai.TokenizedInputs(
            self._openvino.Tensor(ids), self._openvino.Tensor(np.ones_like(ids))
        )
        started = time.perf_counter()
        result = self._pipeline.generate(inputs, max_new_tokens=count, ignore_eos=True, do_sample=False)
        elapsed = time.perf_counter() - started
        if any(len(tokens) != count for tokens in result.tokens):
            raise RuntimeError(f"OpenVINO gave {[len(t) for t in result.tokens]} tokens, not {count}")
        return elapsed, result.perf_metrics


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


ENGINES: dict[str, type[Engine]] = {"sampan": Sampan, "llama.cpp": LlamaCpp, "openvino": OpenVino}


def main() -> None:
    """Serve jobs until stdin ends. What an engine itself prints goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    engine = ENGINES[sys.argv[1]](json.loads(sys.argv[2]))
    print(json.dumps(engine.about), file=answers, flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        rate = getattr(engine, job["kind"])(job["prompts"])
        print(json.dumps({"tok_s": rate}), file=answers, flush=True)


if __name__ == "__main__":
    main()
