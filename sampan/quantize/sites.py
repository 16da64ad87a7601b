"""What the matrices of a model do to its answers, site by site.

A *site* is a matrix of a layer, or the same part of all experts of a layer. `sampan/quantize/probe.py`
rounds one at a time.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

# Few enough bits that the divergence is far above float32's own errors, enough that it is proportional to the
# squared error still.
PROBE_FORMAT = "q3c"


@dataclass(frozen=True)
class ProbeSettings:
    """How much is measured. `tokens`: of how many tokens, the beginnings of all windows, a site's
    divergence is measured. `layers`: of how many layers' sites, the first, the last and some between; the
    others are held to be as their neighbours. The cost, beside reading all windows a few times:
    `sites_per_layer` * (`layers` / 2 + 1) times that of reading `tokens` tokens in float32. The memory:
    `sites_per_layer` * `layers` * `tokens` hidden states in float32.
    """

    tokens: int = 1024
    layers: int = 12


@dataclass(frozen=True)
class Site:
    """`error`: squared error per token that rounding the site leaves in the hidden state after its layer;
    `divergence`: the mean KL divergence that it ends in, in nats; None where that was not measured.
    """

    error: float
    divergence: float | None


@dataclass
class SiteMeasures:
    """All that a walk through the model found.

    `tokens`: of all windows. `sites`: by name. `probed`: the format that each matrix was rounded to for
    that. `direct`: of the embedding and the output, the divergence of each format. `rounding_errors`: of
    every other matrix and format, the squared error of some of its outputs.
    `expert_errors`: of the matrices of experts, rounded as for their site, the sum over tokens of the
    squared error in the layer's output. `expert_tokens`: how many tokens reached the expert.
    """

    tokens: int
    sites: dict[str, Site] = field(default_factory=dict)
    direct: dict[str, dict[str, float]] = field(default_factory=dict)
    probed: dict[str, str] = field(default_factory=dict)
    rounding_errors: dict[str, dict[str, float]] = field(default_factory=dict)
    expert_errors: dict[str, float] = field(default_factory=dict)
    expert_tokens: dict[str, int] = field(default_factory=dict)


def site_of(name: str) -> str:
    """The site of a matrix: of an expert's, without the expert's number."""
    return re.sub(r"\.experts\.\d+\.", ".experts.", name)


def probed_layers(kinds: Sequence[Hashable], wanted: int) -> list[int]:
    """Which layers to measure, of layers of these kinds: all, or `wanted`, those of each kind by their
    number, but two at least. Of a kind the first and the last always, and between them closer together at
    the beginning, where layers differ most.
    """
    probed = []
    for kind in dict.fromkeys(kinds):
        layers = [layer for layer, of in enumerate(kinds) if of == kind]
        count = min(len(layers), max(2, round(wanted * len(layers) / len(kinds))))
        places = np.round(np.linspace(0, 1, count) ** 1.5 * (len(layers) - 1)).astype(int)
        for place in range(1, count):
            places[place] = max(places[place], places[place - 1] + 1)
        probed += [layers[place] for place in places]
    return sorted(probed)


def first_tokens(lengths: Sequence[int], wanted: int) -> list[int]:
    """Of windows of these lengths about as many first tokens each, `wanted` or a few more in all."""
    left, shares = wanted, [0] * len(lengths)
    # The shortest first: what one lacks is shared by the rest.
    for number, place in enumerate(sorted(range(len(lengths)), key=lambda place: lengths[place])):
        shares[place] = min(lengths[place], max(1, -(-left // (len(lengths) - number))))
        left -= shares[place]
    return shares
