"""The interpreter: all threads run a whole Program for one step inside one compiled call each.

Work is handed out dynamically. Ops are phases, numbered without end. The current phase has a word that packs its tag,
its number of units and the next unit to take; a thread takes some units with one compare-and-exchange and adds them
to a count when done. Whoever completes the count opens the next phase. So a phase never waits for a thread that holds
no work: with a busy neighbour on one core, the others carry on, and a thread that comes back finds the current phase
at once. A packed word of an old phase can never be taken from, because its tag no longer matches.
"""

from __future__ import annotations

from sampan.kernels.jit import kernel
from sampan.kernels.layout import (
    ATTENTION,
    ATTENTION_FINISH,
    EMBED,
    END_PHASE,
    GATE_UP,
    GATE_UP_SLICE,
    MATMUL,
    MATMUL_SLICE,
    NORM_ADD,
    NORM_QUANTIZE,
    OP_CODE,
    OP_COUNT,
    OP_COUNT_WORD,
    OP_WORDS,
    OPS,
    PHASE,
    RING,
    RING_DONE,
    RING_SLOTS,
    RING_WORDS,
    ROPE_STORE,
    SCRATCH,
    SCRATCH_BYTES,
    SEGMENT_BLOCK_BYTES,
    SEGMENT_BLOCKS,
    SEGMENT_COUNT,
    SEGMENT_WORDS,
    SEGMENTS,
    STEP,
    STOP,
    THREADS,
)
from sampan.kernels.operators import (
    attention,
    attention_finish,
    attention_units,
    embed,
    field,
    gate_up,
    matmul,
    norm_add,
    norm_quantize,
    rope_store,
)
from sampan.kernels.simd import (
    atomic_add,
    atomic_compare_exchange,
    atomic_load,
    atomic_store,
    cpu_relax,
    sleep_microseconds,
    yield_thread,
)

# The packed word: 23 bits of tag, 20 bits of unit count, 20 bits of next unit.
_UNIT_BITS = 20
_UNIT_MASK = (1 << _UNIT_BITS) - 1
_TAG_MASK = (1 << 23) - 1
# Weight bytes times tiles of tokens that one take of a matmul aims at, and the same in tokens for the small ops.
_TAKE_BYTES = 98304
_TAKE_TOKENS = 4
# How a waiting thread behaves: spin for some microseconds, then let others run, then sleep.
_SPINS = 1500
_YIELDS = 20
_SLEEP_MICROSECONDS = 40
# How long an idle worker spins and then polls, in sleeps, before it goes back to Python.
_IDLE_SPINS = 6000
_IDLE_SLEEPS = 500


@kernel
def op_units(op: int, step: int) -> int:
    """How many units of work the op has in this step."""
    code = field(op, OP_CODE)
    rows = field(step, field(op, OP_COUNT_WORD))
    if code == ATTENTION:
        return attention_units(op, step)
    if code == MATMUL:
        blocks = 0
        for i in range(field(op, SEGMENT_COUNT)):
            blocks += field(op, SEGMENTS + i * SEGMENT_WORDS + SEGMENT_BLOCKS)
        return blocks * ((rows + MATMUL_SLICE - 1) // MATMUL_SLICE)
    if code == GATE_UP:
        return field(op, SEGMENTS + SEGMENT_BLOCKS) // 2 * ((rows + GATE_UP_SLICE - 1) // GATE_UP_SLICE)
    return rows


@kernel
def largest_take(op: int, step: int) -> int:
    """The most units a thread takes at once: enough to hide the exchange, few enough that none waits long."""
    code = field(op, OP_CODE)
    if code == ATTENTION:
        return 1
    if code == MATMUL or code == GATE_UP:
        rows = field(step, field(op, OP_COUNT_WORD))
        unit = field(op, SEGMENTS + SEGMENT_BLOCK_BYTES) * (4 if code == GATE_UP else 1)
        slice_rows = min(rows, GATE_UP_SLICE if code == GATE_UP else MATMUL_SLICE)
        return max(_TAKE_BYTES // max(unit * ((slice_rows + 3) // 4), 1), 1)
    return _TAKE_TOKENS


@kernel
def run_units(op: int, step: int, first: int, end: int, scratch: int) -> None:
    """Run units [first, end) of one op."""
    code = field(op, OP_CODE)
    if code == MATMUL:
        matmul(op, step, first, end)
    elif code == GATE_UP:
        gate_up(op, step, first, end, scratch)
    elif code == ATTENTION:
        attention(op, step, first, end, scratch)
    elif code == ATTENTION_FINISH:
        attention_finish(op, step, first, end, scratch)
    elif code == ROPE_STORE:
        rope_store(op, step, first, end)
    elif code == NORM_QUANTIZE:
        norm_quantize(op, first, end)
    elif code == NORM_ADD:
        norm_add(op, first, end)
    elif code == EMBED:
        embed(op, step, first, end)


@kernel
def _ring_slot(state: int, phase: int) -> int:
    return state + (RING + phase % RING_SLOTS * RING_WORDS) * 8


@kernel
def _open_phase(state: int, phase: int, units: int) -> None:
    slot = _ring_slot(state, phase)
    atomic_store(slot + RING_DONE * 8, 0)
    atomic_store(slot, ((phase & _TAG_MASK) << (2 * _UNIT_BITS)) | (units << _UNIT_BITS))


@kernel
def _open_next(state: int, phase: int, first_phase: int) -> None:
    """Open the first phase after `phase` that has work, or end the step."""
    end = first_phase + field(state, OP_COUNT)
    following = phase + 1
    while following < end:
        op = field(state, OPS) + (following - first_phase) * OP_WORDS * 8
        units = op_units(op, field(state, STEP))
        if units > 0:
            _open_phase(state, following, units)
            break
        following += 1
    atomic_store(state + PHASE * 8, following)


@kernel
def _wait_for_phase(state: int, phase: int) -> None:
    """Wait until the current phase is no longer `phase`."""
    spins = 0
    while atomic_load(state + PHASE * 8) == phase:
        spins += 1
        if spins < _SPINS:
            cpu_relax()
        elif spins < _SPINS + _YIELDS:
            yield_thread()
        else:
            sleep_microseconds(_SLEEP_MICROSECONDS)


@kernel
def _work(state: int, thread: int, first_phase: int, end_phase: int) -> None:
    """Take and run units until every phase of the step is over."""
    scratch = field(state, SCRATCH) + thread * field(state, SCRATCH_BYTES)
    threads = field(state, THREADS)
    step = field(state, STEP)
    while True:
        phase = atomic_load(state + PHASE * 8)
        if phase >= end_phase or phase < first_phase:
            return
        slot = _ring_slot(state, phase)
        word = atomic_load(slot)
        if (word >> (2 * _UNIT_BITS)) & _TAG_MASK != phase & _TAG_MASK:
            continue
        units = (word >> _UNIT_BITS) & _UNIT_MASK
        unit = word & _UNIT_MASK
        if unit >= units:
            _wait_for_phase(state, phase)
            continue
        op = field(state, OPS) + (phase - first_phase) * OP_WORDS * 8
        # Shares shrink towards the end of the op, so that the last ones are small.
        take = min(max((units - unit) // (2 * threads), 1), largest_take(op, step))
        if not atomic_compare_exchange(slot, word, word + take):
            continue
        run_units(op, step, unit, unit + take, scratch)
        if atomic_add(slot + RING_DONE * 8, take) + take == units:
            _open_next(state, phase, first_phase)


@kernel
def run_step(state: int) -> None:
    """Run the Program for one step as thread 0; returns when its last op is complete."""
    first_phase = atomic_load(state + PHASE * 8)
    _open_next(state, first_phase - 1, first_phase)
    end_phase = first_phase + field(state, OP_COUNT)
    atomic_store(state + END_PHASE * 8, end_phase)
    _work(state, 0, first_phase, end_phase)


@kernel
def run_worker(state: int, thread: int) -> int:
    """Help with steps as they come; 1 when told to stop, 0 after some time without a step."""
    idle = 0
    while atomic_load(state + STOP * 8) == 0:
        end_phase = atomic_load(state + END_PHASE * 8)
        if atomic_load(state + PHASE * 8) < end_phase:
            _work(state, thread, end_phase - field(state, OP_COUNT), end_phase)
            idle = 0
            continue
        idle += 1
        if idle < _IDLE_SPINS:
            cpu_relax()
        elif idle < _IDLE_SPINS + _IDLE_SLEEPS:
            sleep_microseconds(_SLEEP_MICROSECONDS)
        else:
            return 0
    return 1


@kernel
def enter(state: int, thread: int) -> int:
    """The one compiled entry point: thread 0 runs a step, the others help."""
    if thread == 0:
        run_step(state)
        return 0
    return run_worker(state, thread)
