"""A model's README.md, written from its figures: no number in it is written by hand."""

from __future__ import annotations

from typing import Any

from trainer.config import ModelShape
from trainer.markdown import sources_table, table

Figures = dict[str, Any]

_HEAD = """---
license: apache-2.0
language: [zh, en]
pipeline_tag: text-generation
---

# {name}
"""

_MOE = """\
A mixture-of-experts language model with {parameters:.1f} million parameters, of which {used:.1f}
million are multiplied with a token: {layers} layers of {experts} experts, {per_token} of them per
token. Architecture Qwen3-MoE, Chinese and English, five domains: law, health, finance, general text
and Python code.
"""

_DENSE = """\
The dense companion of the mixture of experts beside it: {parameters:.1f} million parameters, all of
which are multiplied with each token. Architecture Qwen3, Chinese and English, five domains: law,
health, finance, general text and Python code.
"""

_USE = """\
## What it is for, and what not

It is a test object: expert statistics, quantization, specialization and speed can be measured on a
model that was trained, which random weights do not allow. It is far too small and has read far too
little to be of use as a language model: it continues text in the style of a domain, and what it
says is not to be relied on, least of all about law, health or money. It was not trained on
conversations and has no chat template.
"""

_TRAINING = """\
## Training

`python tools/train_moe.py train --steps {total}` from the repository: {steps:,} steps of
{sequences} windows of {length:,} tokens, {tokens:.2f} million tokens in all, {epochs:.1f} times
through the {corpus:.2f} million tokens of the training text. Muon for the layers' matrices and AdamW
for the rest, learning rate {rate}, warmed up, constant, and falling to zero over the last
{decay:.0%} of the steps; bfloat16 products, float32 weights. {minutes:.0f} minutes of one core of a
Zen 5 CPU, {flops:.0f} TFLOP in matrix products.
"""

_BALANCE = """
The last matrix of each expert takes steps larger by the number of experts per token, because a
mixture's output is a mean over them. The balance loss of the router counts an expert's load over many
steps, so that experts may specialise by domain.
"""

_EQUAL = """
Both models read the same batches in the same order with the same recipe, so they saw the same
tokens, and a token is multiplied with the same number of parameters but for the router: {moe:,} in
{moe_name}, {dense:,} in {dense_name}. Not equal are memory (the mixture has {ratio:.1f} times the
parameters) and time: training took the mixture {moe_minutes:.0f} minutes of a core and the dense
model {dense_minutes:.0f}, because many small products are slower than few large ones.
"""

_LOSSES = """\
## Held-out loss

Every twentieth document was held out. The exported bfloat16 weights, computed in float32; each
document by itself, in windows of the whole context.

"""

_SPECIALISATION = """\
## Specialisation

On held-out text. Mutual information between the chosen expert and the text's domain and language,
in bits, by layer (0: all texts use experts alike; at most {bound:.2f}): {information}. For each
text, the expert whose share of its choices exceeds that expert's mean share over all texts most:

"""

_DATA = """\
## Data

The corpus is in `assets/corpus/`, made by `tools/collect_corpus.py`.

"""

_LICENCE = """\
## Licence

The weights: Apache-2.0, see LICENSE. The texts keep the licences in the table.
"""


def model_card(result: Figures, results: dict[str, Figures], sources: dict[str, list[Figures]]) -> str:
    """The card of the model of `result` beside the others of `results`, on the corpus of `sources`."""
    moe = bool(result["shape"]["expert_count"])
    sections = (
        _HEAD.format(name=result["name"]),
        _about(result),
        _USE,
        _training(result) + (_BALANCE if moe else "") + _comparison(results),
        _LOSSES + _losses(results),
        *([_specialisation(result)] if moe else []),
        _DATA + sources_table(sources),
        _LICENCE,
    )
    return "\n".join(sections)


def _about(result: Figures) -> str:
    shape = ModelShape(**result["shape"])
    return (_MOE if shape.expert_count else _DENSE).format(
        parameters=result["parameters"] / 1e6,
        used=result["matrix_parameters_per_token"] / 1e6,
        layers=shape.layer_count,
        experts=shape.expert_count,
        per_token=shape.experts_per_token,
    )


def _training(result: Figures) -> str:
    recipe = result["recipe"]
    return _TRAINING.format(
        total=recipe["steps"],
        steps=result["steps"],
        sequences=recipe["sequences"],
        length=recipe["length"],
        tokens=result["tokens"] / 1e6,
        epochs=result["tokens"] / result["training_tokens"],
        corpus=result["training_tokens"] / 1e6,
        rate=recipe["learning_rate"],
        decay=recipe["decay"],
        minutes=result["cpu_seconds"] / 60,
        flops=result["training_matrix_flops"] / 1e12,
    )


def _comparison(results: dict[str, Figures]) -> str:
    mixtures = [result for result in results.values() if result["shape"]["expert_count"]]
    dense = [result for result in results.values() if not result["shape"]["expert_count"]]
    if len(mixtures) != 1 or len(dense) != 1 or mixtures[0]["tokens"] != dense[0]["tokens"]:
        return ""
    return _EQUAL.format(
        moe=mixtures[0]["matrix_parameters_per_token"],
        dense=dense[0]["matrix_parameters_per_token"],
        moe_name=mixtures[0]["name"],
        dense_name=dense[0]["name"],
        ratio=mixtures[0]["parameters"] / dense[0]["parameters"],
        moe_minutes=mixtures[0]["cpu_seconds"] / 60,
        dense_minutes=dense[0]["cpu_seconds"] / 60,
    )


def _losses(results: dict[str, Figures]) -> str:
    head = ["domain.language", "bytes", "tokens"]
    for name in results:
        head += [f"{name}: nats per token", "perplexity", "bits per byte"]
    cells = {name: result["held_out"] | {"all": result["held_out_all"]} for name, result in results.items()}
    rows = []
    for cell, first in next(iter(cells.values())).items():
        row = [cell, f"{first['bytes']:,}", f"{first['tokens']:,}"]
        for losses in cells.values():
            loss = losses[cell]
            row.append(f"{loss['nats_per_token']:.3f}")
            row.append(f"{loss['perplexity']:.1f}")
            row.append(f"{loss['bits_per_byte']:.3f}")
        rows.append(row)
    return table(head, rows, 1)


def _specialisation(result: Figures) -> str:
    experts = result["experts"]
    text = _SPECIALISATION.format(
        information=", ".join(f"{value:.2f}" for value in experts["mutual_information_bits"]),
        bound=experts["mutual_information_bound"],
    )
    rows = [
        [cell, str(lift["layer"]), str(lift["expert"]), f"{lift['ratio']:.1f}"]
        for cell, lift in experts["largest_lift"].items()
    ]
    return text + table(["domain.language", "layer", "expert", "times its mean share"], rows, 1)
