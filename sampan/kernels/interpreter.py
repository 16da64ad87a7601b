"""The interpreter: all threads run a whole Program for one step inside one compiled call each.

Work is handed out dynamically. Ops are phases, numbered without end. The current phase has a word that packs
its tag, its number of units and the next unit to take; a thread takes some units with one
compare-and-exchange and adds them to a count when done. Whoever completes the count opens the next phase. So
a phase never waits for a thread that holds no work: with a busy neighbour on one core, the others carry on,
and a thread that comes back finds the current phase at once. A packed word of an old phase can never be taken
from, because its tag no longer matches.
"""

from __future__ import annotations

from sampan.kernels.jit import inlined_kernel, kernel
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
    load_word,
    sleep_microseconds,
    yield_thread,
)

# The packed word: 23 bits of tag, 20 bits of unit count, 20 bits of next unit.
_UNIT_BITS = 20
_UNIT_MASK = (1 << _UNIT_BITS) - 1
_TAG_MASK = (1 << 23) - 1
# Weight bytes times tiles of tokens that one take of a matmul aims at, and the same in tokens for the small
# ops.
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
    code = load_word(op, OP_CODE)
    rows = load_word(step, load_word(op, OP_COUNT_WORD))
    if code == ATTENTION:
        return attention_units(op, step)
    if code == MATMUL:
        blocks = 0
        for i in range(load_word(op, SEGMENT_COUNT)):
            blocks += load_word(op, SEGMENTS + i * SEGMENT_WORDS + SEGMENT_BLOCKS)
        return blocks * ((rows + MATMUL_SLICE - 1) // MATMUL_SLICE)
    if code == GATE_UP:
        return load_word(op, SEGMENTS + SEGMENT_BLOCKS) // 2 * ((rows + GATE_UP_SLICE - 1) // GATE_UP_SLICE)
    return rows


@kernel
def largest_take(op: int, step: int) -> int:
    """The most units a thread takes at once: enough to hide the exchange, few enough that none waits long."""
    code = load_word(op, OP_CODE)
    if code == ATTENTION:
        return 1
    if code == MATMUL or code == GATE_UP:  # noqa: SIM109, a tuple would be built at run time
        rows = load_word(step, load_word(op, OP_COUNT_WORD))
        unit = load_word(op, SEGMENTS + SEGMENT_BLOCK_BYTES) * (4 if code == GATE_UP else 1)
        slice_rows = min(rows, GATE_UP_SLICE if code == GATE_UP else MATMUL_SLICE)
        return max(_TAKE_BYTES // max(unit * ((slice_rows + 3) // 4), 1), 1)
    return _TAKE_TOKENS


@inlined_kernel
def run_units(op: int, step: int, first: int, end: int, scratch: int) -> None:
    """Run units [first, end) of one op."""
    code = load_word(op, OP_CODE)
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
    end = first_phase + load_word(state, OP_COUNT)
    following = phase + 1
    while following < end:
        op = load_word(state, OPS) + (following - first_phase) * OP_WORDS * 8
        units = op_units(op, load_word(state, STEP))
        if units > 0:
            _open_phase(state, following, units)
            break
        following += 1
    atomic_store(state + PHASE * 8, following)


def enter(state: int, thread: int) -> int:
    """Thread 0 runs the Program for one step and returns when its last op is complete.

    The other threads help with step after step; they return 1 when told to stop, 0 after some time without a
    step.
    """
    scratch = load_word(state, SCRATCH) + thread * load_word(state, SCRATCH_BYTES)
    threads = load_word(state, THREADS)
    step = load_word(state, STEP)
    op_count = load_word(state, OP_COUNT)
    if thread == 0:
        first_phase = atomic_load(state + PHASE * 8)
        _open_next(state, first_phase - 1, first_phase)
        atomic_store(state + END_PHASE * 8, first_phase + op_count)
    waits = 0
    waited_phase = 0
    while True:
        end_phase = atomic_load(state + END_PHASE * 8)
        first_phase = end_phase - op_count
        phase = atomic_load(state + PHASE * 8)
        idle = phase >= end_phase
        if idle and thread == 0:
            return 0
        if atomic_load(state + STOP * 8) != 0 and thread != 0:
            return 1
        slot = _ring_slot(state, phase)
        word = atomic_load(slot)
        units = (word >> _UNIT_BITS) & _UNIT_MASK
        unit = word & _UNIT_MASK
        current = (word >> (2 * _UNIT_BITS)) & _TAG_MASK == phase & _TAG_MASK
        if idle or (current and unit >= units):
            if phase != waited_phase:
                waited_phase = phase
                waits = 0
            waits += 1
            if waits < (_IDLE_SPINS if idle else _SPINS):
                cpu_relax()
            elif waits < _SPINS + _YIELDS and not idle:
                yield_thread()
            elif waits < _IDLE_SPINS + _IDLE_SLEEPS or not idle:
                sleep_microseconds(_SLEEP_MICROSECONDS)
            else:
                return 0
            continue
        if not current:
            continue
        op = load_word(state, OPS) + (phase - first_phase) * OP_WORDS * 8
        # Shares shrink towards the end of the op, so that the last ones are small.
        take = min(max((units - unit) // (2 * threads), 1), largest_take(op, step))
        if not atomic_compare_exchange(slot, word, word + take):
            continue
        run_units(op, step, unit, unit + take, scratch)
        if atomic_add(slot + RING_DONE * 8, take) + take == units:
            _open_next(state, phase, first_phase)
