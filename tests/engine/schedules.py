"""Ways to bring sequences through a runner: whole, token by token, in chunks, side by side with others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from sampan.engine.experts import FULL, ExpertDial
from sampan.engine.span import ModelRunner, Span

Tokens = NDArray[np.int32]
Logits = NDArray[np.float32]
# One step: (sequence, how many of its next tokens).
Step = list[tuple[int, int]]
CHUNKS = (7, 1, 64, 3, 2, 130, 1)


def run_schedule(
    runner: ModelRunner,
    prompts: Sequence[Tokens],
    steps: Iterator[Step],
    dials: Sequence[ExpertDial] | None = None,
    routes: list[list[NDArray[np.int32]]] | None = None,
) -> list[Logits]:
    """Logits [tokens, vocab_size] of each prompt after each of its tokens, computed in these steps.

    The sequences' pages are dealt out in turns, from the last to the first, so that none is contiguous; their
    state slots lie in reverse order.
    `dials`: one per prompt, the full setting unless given. `routes`: a list per prompt, to which its tokens'
    routes are added step by step.
    """
    counts = [-(-len(prompt) // runner.page_tokens) for prompt in prompts]
    order = sorted((turn, index) for index, count in enumerate(counts) for turn in range(count))
    pages: list[list[int]] = [[] for _ in prompts]
    for page, (_, index) in zip(range(len(order) - 1, -1, -1), order, strict=True):
        pages[index].append(page)
    states = range(len(prompts) - 1, -1, -1)
    if runner.config.linear_count:
        for state in states:
            runner.clear_state(state)
    done = [0] * len(prompts)
    rows: list[list[Logits]] = [[] for _ in prompts]
    for step in steps:
        spans = [
            Span(
                prompts[index][done[index] : done[index] + count],
                done[index],
                np.array(pages[index], np.int32),
                "all",
                FULL if dials is None else dials[index],
                state=states[index],
            )
            for index, count in step
        ]
        logits = runner.forward(spans)
        row = 0
        for index, count in step:
            rows[index].append(logits[row : row + count].copy())
            if routes is not None:
                routes[index].append(runner.routes[:, row : row + count].copy())
            row += count
            done[index] += count
        assert row == len(logits)
    assert done == [len(prompt) for prompt in prompts]
    return [np.concatenate(parts) for parts in rows]


def alone(lengths: Sequence[int]) -> Iterator[Step]:
    """One whole prompt after the other."""
    for index, length in enumerate(lengths):
        yield [(index, length)]


def token_by_token(lengths: Sequence[int]) -> Iterator[Step]:
    """One token a step, one sequence after the other."""
    for index, length in enumerate(lengths):
        for _ in range(length):
            yield [(index, 1)]


def in_chunks(lengths: Sequence[int]) -> Iterator[Step]:
    """Uneven pieces, one sequence after the other."""
    for index, length in enumerate(lengths):
        start = turn = 0
        while start < length:
            count = min(CHUNKS[turn % len(CHUNKS)], length - start)
            yield [(index, count)]
            start += count
            turn += 1


def side_by_side(lengths: Sequence[int], limit: int, last: int = 4) -> Iterator[Step]:
    """All but the last tokens of every prompt in steps as full as can be, then the last ones together."""
    left = [max(length - last, 0) for length in lengths]
    while any(left):
        step, room = [], limit
        for index, count in enumerate(left):
            taken = min(count, room)
            if taken:
                step.append((index, taken))
                left[index] -= taken
                room -= taken
        yield step
    for turn in range(last):
        yield [(index, 1) for index, length in enumerate(lengths) if turn < min(length, last)]


def at_random(lengths: Sequence[int], limit: int, seed: int) -> Iterator[Step]:
    """Any sequences in any order with any counts, many of them 1."""
    random = np.random.default_rng(seed)
    left = list(lengths)
    while any(left):
        step, room = [], limit
        for index in random.permutation(len(left)).tolist():
            if not left[index] or random.random() < 0.3:
                continue
            most = min(left[index], room)
            count = 1 if random.random() < 0.4 else int(random.integers(0, most, endpoint=True))
            if 0 < count <= most:
                step.append((index, count))
                left[index] -= count
                room -= count
        if step:
            yield step


def assert_same_bits(runner: ModelRunner, prompts: list[Tokens], expected: list[Logits]) -> None:
    """In every schedule, with what earlier schedules left in the pages."""
    lengths = [len(prompt) for prompt in prompts]
    limit = runner.max_batch_tokens
    schedules = {
        "alone": alone(lengths),
        "token by token": token_by_token(lengths),
        "in chunks": in_chunks(lengths),
        "side by side": side_by_side(lengths, limit),
        **{f"at random, {seed}": at_random(lengths, limit, seed) for seed in range(3)},
    }
    for name, schedule in schedules.items():
        for logits, whole in zip(run_schedule(runner, prompts, schedule), expected, strict=True):
            assert np.array_equal(logits, whole), f"{name}: {len(whole)} tokens"
