"""Where Sampan's greedy text first differs from llama.cpp's on the same GGUF file, and who is right.

    python bench/greedy_agreement.py [MODEL] [--tokens 128] [--json]

Both get the same token ids (the chat template's) for 20 prompts. Two correct engines that round activations
to 8 bits part where two tokens are nearly equally likely: at the first difference this prints both tokens
and how far apart their logits are in the float32 twin (positive: Sampan's token is the likelier one there).
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import xllamacpp

import sampan
from sampan.engine.options import SamplingOptions
from sampan.errors import SampanError, UnsupportedError
from sampan.hub.resolve import resolve
from sampan.measure.logits import float32_logits
from sampan.plan.machine import default_threads

PROMPTS = (
    "Why do boats float?",
    "Name three rivers in Asia.",
    "Write a haiku about rain.",
    "What is 17 plus 25?",
    "Explain photosynthesis in two sentences.",
    "Give me a recipe for pancakes.",
    "Who wrote Don Quixote?",
    "Write a Python function that reverses a list.",
    "What is the difference between weather and climate?",
    "Tell me a story about a lighthouse keeper.",
    "List the planets of the solar system.",
    "How does a bicycle stay upright?",
    "Translate 'good morning' into French.",
    "What should I pack for a week in the mountains?",
    "Summarise the plot of a fairy tale you know.",
    "Why is the sky blue?",
    "Write a polite email asking for a day off.",
    "What are prime numbers?",
    "Describe the taste of a lemon.",
    "Give three tips for learning a language.",
)


@dataclass(frozen=True)
class Agreement:
    """One prompt: equal tokens before the first difference (None: no difference), both tokens there, and by
    how much Sampan's is likelier in float32, as a difference of logits.
    """

    prompt: str
    tokens: int
    first_divergence: int | None
    sampan_token: str | None = None
    llama_cpp_token: str | None = None
    float32_gap: float | None = None


def llama_cpp_server(path: str, context: int, threads: int) -> Any:
    """A server with one slot."""
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx, params.n_parallel, params.n_gpu_layers = context, 1, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.verbosity = -1
    return xllamacpp.Server(params)


def llama_cpp_greedy(server: Any, prompt: list[int], count: int) -> list[int]:
    """The likeliest tokens one after another; fewer than `count` when the text ends."""
    answer = server.handle_completions(
        {"prompt": prompt, "n_predict": count, "temperature": 0, "logprobs": 1, "cache_prompt": False}
    )
    return [int(entry["id"]) for entry in answer["choices"][0]["logprobs"]["content"]]


def run(reference: str | None, count: int) -> dict[str, Any]:
    """All prompts."""
    local = resolve(reference)
    if local.kind != "gguf":
        raise UnsupportedError(f"{local.reference} is not a GGUF file, which llama.cpp needs")
    results = []
    with (
        sampan.load(reference, context=count + 256) as model,
        float32_logits(reference, model.context) as twin,
    ):
        assert model.tokenizer is not None
        server = llama_cpp_server(str(local.path), count + 256, default_threads())
        for text in PROMPTS:
            prompt = model.tokenize([{"role": "user", "content": text}])
            options = SamplingOptions(temperature=0, max_tokens=count)
            sequence = model.engine.new_sequence(prompt, options)
            ends = model.tokenizer.eos_ids
            ours = [o.token for o in model.engine.stream(sequence)]
            theirs = llama_cpp_greedy(server, prompt, count)
            if len(theirs) < count:  # llama.cpp does not tell its end token
                theirs.append(ours[-1] if ours[-1] in ends else min(ends))
            same = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
            if same is None:
                results.append(Agreement(text, len(ours), None))
                continue
            before = np.array([*prompt, *ours[:same]], np.int32)
            logits = np.concatenate([part[-1:] for part in twin.logits(before, 64)])[-1]
            results.append(
                Agreement(
                    text,
                    len(ours),
                    same,
                    model.tokenizer.decode([ours[same]], skip_special=False),
                    model.tokenizer.decode([theirs[same]], skip_special=False),
                    float(logits[ours[same]] - logits[theirs[same]]),
                )
            )
    agreed = [r.tokens if r.first_divergence is None else r.first_divergence for r in results]
    return {
        "model": local.reference,
        "xllamacpp": xllamacpp.__version__,
        "tokens_each": count,
        "identical": sum(r.first_divergence is None for r in results),
        "mean_first_divergence": sum(agreed) / len(agreed),
        "largest_float32_gap": max(
            (abs(r.float32_gap) for r in results if r.float32_gap is not None), default=0.0
        ),
        "prompts": [asdict(r) for r in results],
    }


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--tokens", type=int, default=128, help="tokens generated for each prompt")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    try:
        report = run(args.model, args.tokens)
    except SampanError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if args.json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
        return 0
    for entry in report["prompts"]:
        if entry["first_divergence"] is None:
            print(f"{entry['prompt']:55} same, {entry['tokens']} tokens")
        else:
            print(
                f"{entry['prompt']:55} {entry['first_divergence']:4} {entry['sampan_token']!r} against "
                f"{entry['llama_cpp_token']!r}, float32 gap {entry['float32_gap']:+.3f}"
            )
    print(
        f"{report['identical']} of {len(PROMPTS)} the same; on average {report['mean_first_divergence']:.0f}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
