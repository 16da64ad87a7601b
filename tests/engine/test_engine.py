"""The step loop over the NumPy twin: batching, chunks and pages leave no trace in anybody's text."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest
from engines import MODEL, answer, decode, greedy_by_definition, make_engine
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_runner import TINY, ReferenceRunner

from sampan.cache.pages import PagePool
from sampan.engine.engine import Engine
from sampan.engine.options import SamplingOptions
from sampan.errors import QueueFullError, RequestError, SampanError


@given(
    prompt=st.lists(st.integers(0, TINY.vocab_size - 1), min_size=1, max_size=40),
    max_tokens=st.integers(1, 12),
    max_batch_tokens=st.integers(1, 24),
)
@settings(max_examples=25, deadline=None)
def test_greedy_text_is_the_models(prompt: list[int], max_tokens: int, max_batch_tokens: int) -> None:
    engine = make_engine(max_batch_tokens=max_batch_tokens)
    outputs = answer(engine, prompt, SamplingOptions(temperature=0, max_tokens=max_tokens))
    tokens = [output.token for output in outputs]
    assert tokens == greedy_by_definition(prompt, max_tokens)
    assert "".join(output.text for output in outputs) == decode(tokens)
    assert [output.finish_reason for output in outputs] == [None] * (max_tokens - 1) + ["length"]
    assert engine.pages.free_count == engine.pages.page_count


REQUESTS = st.lists(
    st.tuples(
        st.lists(st.integers(0, TINY.vocab_size - 1), min_size=1, max_size=30),
        st.integers(1, 8),
        st.integers(0, 2**64 - 1),
    ),
    min_size=2,
    max_size=6,
)


@given(requests=REQUESTS, max_batch_tokens=st.integers(1, 20), page_count=st.integers(8, 30))
@settings(max_examples=20, deadline=None)
def test_neighbours_do_not_change_a_text(
    requests: list[tuple[list[int], int, int]], max_batch_tokens: int, page_count: int
) -> None:
    def options(max_tokens: int, seed: int) -> SamplingOptions:
        return SamplingOptions(temperature=1, max_tokens=max_tokens, seed=seed)

    alone = [
        [output.token for output in answer(make_engine(), prompt, options(max_tokens, seed))]
        for prompt, max_tokens, seed in requests
    ]
    engine = make_engine(max_batch_tokens=max_batch_tokens, page_count=page_count)
    sequences = [engine.new_sequence(prompt, options(*rest)) for prompt, *rest in requests]
    for sequence in sequences:
        engine.submit(sequence)
        engine.step()
    for _ in range(1000):
        if all(sequence.finish_reason for sequence in sequences):
            break
        engine.step()
    assert [[output.token for output in sequence.pending] for sequence in sequences] == alone
    assert engine.pages.free_count == page_count


def test_decoding_goes_on_while_a_long_prompt_is_read() -> None:
    engine = make_engine(max_batch_tokens=8)
    first = engine.new_sequence([1, 2], SamplingOptions(temperature=0, max_tokens=20))
    engine.submit(first)
    engine.step()
    second = engine.new_sequence(list(range(30)), SamplingOptions(temperature=0, max_tokens=3))
    engine.submit(second)
    before = len(first.pending)
    steps = 0
    while not second.pending:
        engine.step()
        steps += 1
    assert len(first.pending) == before + steps
    assert isinstance(engine.runner, ReferenceRunner)
    # How long the parts are depends on how long steps take; the last one may be a single token.
    parts = [count for _, count, outputs in engine.runner.spans if outputs == "none"]
    assert all(4 <= count <= 7 for count in parts)
    assert 1 <= 30 - sum(parts) <= 7
    assert (sum(parts), 30 - sum(parts), "last") in engine.runner.spans


def test_streams_read_in_turns_share_steps() -> None:
    engine = make_engine()
    options = SamplingOptions(temperature=0, max_tokens=10)
    streams = [engine.stream(engine.new_sequence([i, i + 1], options)) for i in range(3)]
    texts = [[], [], []]
    for _ in range(10):
        for text, stream in zip(texts, streams, strict=True):
            text.append(next(stream).token)
    assert texts == [greedy_by_definition([i, i + 1], 10) for i in range(3)]
    assert isinstance(engine.runner, ReferenceRunner)
    assert engine.runner.largest_batch == 3


def test_threads_take_turns() -> None:
    engine = make_engine(page_count=6)
    options = SamplingOptions(temperature=0, max_tokens=6)
    texts: dict[int, list[int]] = {}

    def run(i: int) -> None:
        texts[i] = [output.token for output in answer(engine, [i, i], options)]

    threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == {i: greedy_by_definition([i, i], 6) for i in range(8)}
    assert engine.pages.free_count == 6


def test_a_request_waits_for_pages() -> None:
    engine = make_engine(context=40, page_count=5)
    options = SamplingOptions(temperature=0, max_tokens=22)
    first, second = (engine.new_sequence([i, 3], options) for i in (1, 2))
    engine.submit(first)
    engine.submit(second)
    while first.finish_reason is None:
        engine.step()
        assert not second.pending
    assert len(list(second.pending)) == 0
    engine.step()
    assert len(second.pages.pages) == 3
    assert engine.pages.free_count == 2


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ([], SamplingOptions(), "the prompt is empty"),
        ([1] * 64, SamplingOptions(), "the prompt has 64 tokens, but the context holds 64"),
        ([1] * 99, SamplingOptions(max_tokens=1), "99 tokens and max_tokens is 1, 100 in all, .* holds 64"),
        ([1] * 60, SamplingOptions(max_tokens=5), "60 tokens and max_tokens is 5, 65 in all, .* holds 64"),
        ([1], SamplingOptions(max_tokens=10**30), "context holds 64"),
        ([1, TINY.vocab_size], SamplingOptions(), f"from 0 to {TINY.vocab_size - 1}"),
        ([-1], SamplingOptions(), "token ids"),
    ],
)
def test_requests_that_cannot_be_honoured(prompt: list[int], options: SamplingOptions, message: str) -> None:
    engine = make_engine()
    with pytest.raises(RequestError, match=message):
        engine.new_sequence(prompt, options)
    assert engine.pages.free_count == 24


def test_no_max_tokens_fills_the_context() -> None:
    outputs = answer(make_engine(context=20), [1, 2, 3], SamplingOptions(temperature=0))
    assert len(outputs) == 17
    assert outputs[-1].finish_reason == "length"


def test_context_is_never_more_than_the_pages() -> None:
    assert make_engine(context=1000, page_count=3).context == 24


def test_the_end_token_ends_without_text() -> None:
    tokens = greedy_by_definition([5, 6], 8)
    end = next(i for i, token in enumerate(tokens) if token not in tokens[:i] and i > 0)
    engine = make_engine(eos_ids=frozenset({tokens[end]}))
    outputs = answer(engine, [5, 6], SamplingOptions(temperature=0, max_tokens=8))
    assert [output.token for output in outputs] == tokens[: end + 1]
    assert outputs[-1].finish_reason == "stop"
    assert "".join(output.text for output in outputs) == decode(tokens[:end])
    going_on = answer(engine, [5, 6], SamplingOptions(temperature=0, max_tokens=8, ignore_eos=True))
    assert [output.token for output in going_on] == tokens


def test_a_stop_string_ends_before_it() -> None:
    sampled = SamplingOptions(temperature=2, top_p=1, max_tokens=30, seed=4)
    text = decode([output.token for output in answer(make_engine(), [5, 6], sampled)])
    stop = text[10:13]
    options = SamplingOptions(temperature=2, top_p=1, max_tokens=30, seed=4, stop=(stop,))
    engine = make_engine()
    outputs = answer(engine, [5, 6], options)
    assert "".join(output.text for output in outputs) == text[: text.index(stop)]
    assert outputs[-1].finish_reason == "stop"
    assert len(outputs) == text.index(stop) + 3
    assert engine.pages.free_count == 24


def test_stop_strings_need_a_tokenizer() -> None:
    engine = Engine(ReferenceRunner(MODEL, 4), PagePool(4), context=32)
    with pytest.raises(RequestError, match="no tokenizer"):
        engine.new_sequence([1], SamplingOptions(stop=("a",)))
    outputs = answer(engine, [1], SamplingOptions(max_tokens=2))
    assert [output.text for output in outputs] == ["", ""]


def test_leaving_a_stream_frees_its_pages() -> None:
    engine = make_engine()
    sequence = engine.new_sequence([1, 2], SamplingOptions())
    for _ in engine.stream(sequence):
        break
    assert sequence.finish_reason == "cancelled"
    assert engine.pages.free_count == 24
    engine.step()


def test_a_request_that_has_ended_does_not_start() -> None:
    engine = make_engine()
    sequence = engine.new_sequence([1], SamplingOptions())
    assert engine.cancel(sequence)
    with pytest.raises(RequestError, match="ended already"):
        engine.submit(sequence)
    assert not engine.has_work


def test_cancelling_a_waiting_request() -> None:
    engine = make_engine(context=40, page_count=5)
    first, second = (engine.new_sequence([i], SamplingOptions(max_tokens=39)) for i in (1, 2))
    engine.submit(first)
    engine.submit(second)
    engine.step()
    engine.cancel(second)
    engine.cancel(second)
    assert (first.finish_reason, second.finish_reason) == (None, "cancelled")
    assert list(engine.stream(first))[-1].finish_reason == "length"


def test_close_ends_everything() -> None:
    engine = make_engine()
    stream = engine.stream(engine.new_sequence([1], SamplingOptions()))
    next(stream)
    engine.close()
    assert list(stream) == []
    assert isinstance(engine.runner, ReferenceRunner)
    assert engine.runner.closed
    assert engine.pages.free_count == 24


def test_seeds() -> None:
    def text(seed: int | None) -> tuple[list[int], int]:
        engine = make_engine()
        options = SamplingOptions(temperature=1.5, top_p=1, max_tokens=20, seed=seed)
        sequence = engine.new_sequence([1, 2], options)
        return [output.token for output in engine.stream(sequence)], sequence.seed

    assert text(11) == text(11)
    assert text(11)[0] != text(12)[0]
    tokens, seed = text(None)
    assert text(seed) == (tokens, seed)
    assert text(None)[1] != seed


def test_damage_in_one_sequence_spares_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine()
    options = SamplingOptions(temperature=0, max_tokens=5)
    broken, healthy = engine.new_sequence([7], options), engine.new_sequence([9], options)
    forward = engine.runner.forward

    def damaged(spans: list) -> np.ndarray:  # type: ignore[type-arg]
        logits = forward(spans)
        for row, span in enumerate(spans):
            if span.tokens.base is broken.tokens:
                logits[row] = np.nan
        return logits

    monkeypatch.setattr(engine.runner, "forward", damaged)
    engine.submit(broken)
    assert [output.token for output in engine.stream(healthy)] == greedy_by_definition([9], 5)
    assert isinstance(broken.error, SampanError)
    assert engine.pages.free_count == 24


def test_damage_is_raised_to_its_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine()
    forward = engine.runner.forward
    monkeypatch.setattr(engine.runner, "forward", lambda spans: np.full_like(forward(spans), np.nan))
    with pytest.raises(SampanError, match="nan"):
        answer(engine, [1], SamplingOptions())
    assert engine.pages.free_count == 24


def test_logprobs_come_with_each_token() -> None:
    options = SamplingOptions(temperature=0, max_tokens=5, logprobs=2, logit_bias=((3, 100.0),))
    outputs = answer(make_engine(), [5, 6], options)
    tokens = [5, 6]
    for output in outputs:
        assert output.token == 3
        exact = MODEL.forward(tokens)[-1].astype(np.float64)
        expected = exact - np.logaddexp.reduce(exact)
        assert output.logprob is not None
        assert output.logprob.logprob == pytest.approx(expected[3], abs=1e-5)
        top = np.argsort(-expected)[:2]
        assert [token for token, _ in output.logprob.top] == top.tolist()
        tokens.append(output.token)
    assert all(output.logprob is None for output in answer(make_engine(), [5], SamplingOptions(max_tokens=2)))


def test_a_bias_for_a_token_that_does_not_exist() -> None:
    with pytest.raises(RequestError, match=f"logit_bias names token {TINY.vocab_size}"):
        make_engine().new_sequence([1], SamplingOptions(logit_bias=((TINY.vocab_size, 1.0),)))


def test_a_request_may_decode_in_its_own_way() -> None:
    engine = make_engine()
    options = SamplingOptions(temperature=0, max_tokens=4)
    sequence = engine.new_sequence([5], options, decode=lambda tokens: decode(tokens).swapcase())
    text = "".join(output.text for output in engine.stream(sequence))
    assert text == decode(greedy_by_definition([5], 4)).swapcase()
    assert text != text.swapcase()
    bare = Engine(ReferenceRunner(MODEL, 4), PagePool(4), context=32)
    assert bare.new_sequence([1], SamplingOptions(stop=("a",)), decode=decode).stop_string is None


def test_the_stop_string_that_ended_an_answer_is_known() -> None:
    text = decode(greedy_by_definition([5, 6], 8))
    engine = make_engine()
    options = SamplingOptions(temperature=0, max_tokens=8, stop=("never", text[3:5]))
    sequence = engine.new_sequence([5, 6], options)
    list(engine.stream(sequence))
    assert (sequence.finish_reason, sequence.stop_string) == ("stop", text[3:5])


class CountDown:
    """Wants descending tokens, from 9 on to `end`."""

    def __init__(self, end: int, refuses: int | None = None) -> None:
        self.next, self.end, self.refuses = 9, end, refuses

    @property
    def ended(self) -> bool:
        return self.next < self.end

    def restrict(self, logits: np.ndarray) -> None:
        kept = logits[self.next]
        logits[:] = -np.inf
        logits[self.next] = kept

    def accept(self, token: int) -> None:
        if token == self.refuses:
            raise RequestError(f"token {token} is refused")
        self.next -= 1


def test_a_constraint_chooses_and_ends() -> None:
    engine = make_engine()
    limited = engine.new_sequence([5], SamplingOptions(max_tokens=30), constraint=CountDown(4))
    free = engine.new_sequence([5], SamplingOptions(temperature=0, max_tokens=9))
    engine.submit(free)
    outputs = list(engine.stream(limited))
    assert [output.token for output in outputs] == [9, 8, 7, 6, 5, 4]
    assert "".join(output.text for output in outputs) == decode([9, 8, 7, 6, 5, 4])
    assert [output.finish_reason for output in outputs] == [None] * 5 + ["stop"]
    while free.finish_reason is None:
        engine.step()
    assert [output.token for output in free.pending] == greedy_by_definition([5], 9)


def test_a_failing_constraint_ends_its_own_sequence() -> None:
    engine = make_engine()
    broken = engine.new_sequence([5], SamplingOptions(), constraint=CountDown(4, refuses=7))
    healthy = engine.new_sequence([9], SamplingOptions(temperature=0, max_tokens=6))
    engine.submit(broken)
    assert [output.token for output in engine.stream(healthy)] == greedy_by_definition([9], 6)
    assert (broken.finish_reason, str(broken.error)) == ("error", "token 7 is refused")
    assert [output.token for output in broken.pending] == [9, 8]
    assert engine.pages.free_count == 24


def test_a_failing_step_ends_its_sequences_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine(context=40, page_count=5)
    options = SamplingOptions(temperature=0, max_tokens=30)
    running = engine.new_sequence([1], options)
    waiting = engine.new_sequence([2], options)
    engine.submit(running)
    engine.submit(waiting)
    engine.step()

    def fails(_spans: list[Any]) -> np.ndarray:
        raise MemoryError("no room for the step")

    with monkeypatch.context() as patch:
        patch.setattr(engine.runner, "forward", fails)
        assert engine.step() == [running]
    assert running.finish_reason == "error"
    assert isinstance(running.error, MemoryError)
    assert [output.token for output in engine.stream(waiting)] == greedy_by_definition([2], 30)


def test_deadlines_end_what_runs_and_what_waits() -> None:
    engine = make_engine(context=40, page_count=5)
    options = SamplingOptions(temperature=0, max_tokens=30)
    past, future = time.monotonic() - 1, time.monotonic() + 1e6
    first = engine.new_sequence([1], options, deadline=future)
    late, last = (engine.new_sequence([i], options, deadline=future) for i in (2, 3))
    for sequence in (first, late, last):
        engine.submit(sequence)
    assert engine.step() == [first]
    late.deadline = past
    assert engine.step() == [late, first]
    first.deadline = past
    assert engine.step() == [first, last]
    assert [sequence.finish_reason for sequence in (first, late, last)] == ["deadline", "deadline", None]
    assert len(first.pending) == 2
    assert not late.pending
    last.deadline = past
    assert list(engine.stream(engine.new_sequence([1], options, deadline=past))) == []
    assert engine.pages.free_count == 5


def test_clients_take_turns_to_start() -> None:
    engine = make_engine(context=40, page_count=5)
    options = SamplingOptions(temperature=0, max_tokens=30)
    order: list[str] = []
    sequences = [engine.new_sequence([1], options, client=client) for client in "aaab"]
    for sequence in sequences:
        engine.submit(sequence)
    while engine.has_work:
        order += [sequence.client for sequence in engine.step() if sequence.finish_reason is not None]
    assert "".join(order) == "abaa"


def test_too_many_waiting_are_refused() -> None:
    engine = make_engine(max_waiting=2)
    sequences = [engine.new_sequence([i], SamplingOptions(max_tokens=1)) for i in range(3)]
    engine.submit(sequences[0])
    engine.submit(sequences[1])
    with pytest.raises(QueueFullError):
        engine.submit(sequences[2])
    engine.step()
    engine.submit(sequences[2])
    assert engine.max_waiting == 2


def test_stats_count_what_happened() -> None:
    engine = make_engine(context=40, page_count=5)
    first, second = (engine.new_sequence([1] * 9, SamplingOptions(max_tokens=20)) for _ in range(2))
    engine.submit(first)
    engine.submit(second)
    for _ in range(3):
        engine.step()
    stats = engine.stats()
    assert (stats.waiting, stats.running, stats.pages_total, stats.pages_used) == (1, 1, 5, 4)
    assert (stats.prompt_tokens_total, stats.generated_tokens_total, stats.steps_total) == (9, 3, 3)
    assert stats.batch_tokens == 1
