"""The interpreter: all threads run a whole Program for one step inside one compiled call each.

Work is handed out dynamically. Ops are phases, numbered without end. A phase's units are cut into one region
per thread. A region has a word that packs the phase's tag, the next unit and the end: its own thread takes
units from the front, so that it reads weights in one long run that the CPU's prefetchers follow, and a thread
with nothing left takes from the back of another's region. Each take is one compare-and-exchange. Units done
are added to a count, and whoever completes the count opens the next phase. So a phase never waits for a
thread that holds no work: with a busy neighbour on one core, the others carry on, and a thread that comes
back finds the current phase at once. The word of an old phase can never be taken from, because its tag no
longer matches.
"""

from __future__ import annotations

from sampan.kernels.ahead import AHEAD_BYTES, fetch_lines, first_weights, next_weights
from sampan.kernels.delta import convolution_units, delta_blocks, delta_rule, linear_conv, linear_norm
from sampan.kernels.experts import combine, dispatch, expert_down, expert_gate_up, gather
from sampan.kernels.jit import inlined_kernel, kernel
from sampan.kernels.latent import head_matmul, latent_store, quantize
from sampan.kernels.layout import (
    ATTENTION,
    ATTENTION_FINISH,
    COMBINE,
    DELTA_RULE,
    DISPATCH,
    DISPATCH_DOWN_UNITS,
    DISPATCH_GATE_UNITS,
    DISPATCH_ROWS,
    DISPATCH_TOKENS,
    EMBED,
    END_PHASE,
    EXPERT_COUNT,
    EXPERT_DOWN_OP,
    EXPERT_GATE_UP_OP,
    GATE_UP,
    GATE_UP_SLICE,
    GATHER,
    HEAD_BLOCKS,
    HEAD_MATMUL,
    HEADS,
    LATENT_STORE,
    LINEAR_CONV,
    LINEAR_NORM,
    MATMUL,
    MATMUL_SLICE,
    MAX_REGIONS,
    MAX_UNITS,
    NORM_ADD,
    NORM_QUANTIZE,
    OP_CODE,
    OP_COUNT,
    OP_COUNT_WORD,
    OP_WORDS,
    OPS,
    PHASE,
    QUANTIZE,
    REGION_WORDS,
    RING,
    RING_DONE,
    RING_REGIONS,
    RING_SLOTS,
    RING_WORDS,
    ROPE_STORE,
    ROUTE,
    ROUTER_LOGITS,
    ROUTER_SLICE,
    SAMPLE,
    SCRATCH,
    SCRATCH_BYTES,
    SEGMENT_BLOCK_BYTES,
    SEGMENT_BLOCKS,
    SEGMENT_COUNT,
    SEGMENT_WORDS,
    SEGMENTS,
    STEP,
    STEP_SPANS,
    STOP,
    THREADS,
    UNIT_BITS,
)
from sampan.kernels.mlp import gate_up
from sampan.kernels.operators import (
    attention,
    attention_finish,
    attention_units,
    embed,
    matmul,
    norm_add,
    norm_quantize,
    rope_store,
)
from sampan.kernels.router import route, router_logits
from sampan.kernels.sampling import sample
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

# The packed word of a region: 23 bits of tag, 20 bits of end, 20 bits of next unit.
_TAG_MASK = (1 << 23) - 1
# Weight bytes times tiles of tokens that one take of a matmul aims at, and the same in tokens for the small
# ops.
_TAKE_BYTES = 98304
_TAKE_TOKENS = 4
# Units of an expert's matrices at a time: with their 32 rows they are large.
_TAKE_EXPERT_UNITS = 2
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
    if rows == 0:
        # Not what the table of rows says either: an earlier step left it.
        return 0
    if code == ATTENTION:
        return attention_units(op, step)
    if code == MATMUL:
        blocks = 0
        for i in range(load_word(op, SEGMENT_COUNT)):
            blocks += (load_word(op, SEGMENTS + i * SEGMENT_WORDS + SEGMENT_BLOCKS) + 1) // 2
        return blocks * ((rows + MATMUL_SLICE - 1) // MATMUL_SLICE)
    if code == HEAD_MATMUL:
        head_blocks = load_word(op, HEAD_BLOCKS)
        heads = load_word(op, SEGMENTS + SEGMENT_BLOCKS) // head_blocks
        return heads * ((head_blocks + 1) // 2) * ((rows + MATMUL_SLICE - 1) // MATMUL_SLICE)
    if code == GATE_UP:
        return load_word(op, SEGMENTS + SEGMENT_BLOCKS) // 2 * ((rows + GATE_UP_SLICE - 1) // GATE_UP_SLICE)
    if code == ROUTER_LOGITS:
        return (load_word(op, EXPERT_COUNT) + 15) // 16 * ((rows + ROUTER_SLICE - 1) // ROUTER_SLICE)
    if code == LINEAR_CONV:
        return load_word(step, STEP_SPANS) * convolution_units(op)
    if code == DELTA_RULE:
        return load_word(step, STEP_SPANS) * load_word(op, HEADS) * delta_blocks(op)
    if code == DISPATCH_TOKENS:
        return 1
    if code == GATHER:
        return load_word(load_word(op, DISPATCH), DISPATCH_ROWS)
    if code == EXPERT_GATE_UP_OP:
        return load_word(load_word(op, DISPATCH), DISPATCH_GATE_UNITS)
    if code == EXPERT_DOWN_OP:
        return load_word(load_word(op, DISPATCH), DISPATCH_DOWN_UNITS)
    return rows


@kernel
def largest_take(op: int, step: int) -> int:
    """The most units a thread takes at once: enough to hide the exchange, few enough that none waits long."""
    code = load_word(op, OP_CODE)
    if code == ATTENTION or code == ROUTER_LOGITS or code == DISPATCH_TOKENS or code == SAMPLE:  # noqa: SIM109
        return 1
    if code == EXPERT_GATE_UP_OP or code == EXPERT_DOWN_OP:  # noqa: SIM109
        return _TAKE_EXPERT_UNITS
    if code == MATMUL or code == HEAD_MATMUL or code == GATE_UP:  # noqa: SIM109, a tuple would be built at run time
        rows = load_word(step, load_word(op, OP_COUNT_WORD))
        unit = load_word(op, SEGMENTS + SEGMENT_BLOCK_BYTES) * (4 if code == GATE_UP else 2)
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
    elif code == LATENT_STORE:
        latent_store(op, step, first, end)
    elif code == HEAD_MATMUL:
        head_matmul(op, step, first, end)
    elif code == QUANTIZE:
        quantize(op, first, end)
    elif code == LINEAR_CONV:
        linear_conv(op, step, first, end)
    elif code == DELTA_RULE:
        delta_rule(op, step, first, end)
    elif code == LINEAR_NORM:
        linear_norm(op, first, end)
    elif code == ROUTER_LOGITS:
        router_logits(op, step, first, end)
    elif code == ROUTE:
        route(op, step, first, end, scratch)
    elif code == DISPATCH_TOKENS:
        dispatch(op, step)
    elif code == GATHER:
        gather(op, first, end)
    elif code == EXPERT_GATE_UP_OP:
        expert_gate_up(op, first, end, scratch)
    elif code == EXPERT_DOWN_OP:
        expert_down(op, first, end)
    elif code == COMBINE:
        combine(op, first, end)
    elif code == SAMPLE:
        sample(op, step, first, end, scratch)


@kernel
def _ring_slot(state: int, phase: int) -> int:
    return state + (RING + phase % RING_SLOTS * RING_WORDS) * 8


@kernel
def _region_word(slot: int, region: int) -> int:
    return slot + (RING_REGIONS + region * REGION_WORDS) * 8


@kernel
def _open_phase(state: int, phase: int, units: int) -> None:
    slot = _ring_slot(state, phase)
    regions = min(load_word(state, THREADS), MAX_REGIONS)
    atomic_store(slot + RING_DONE * 8, units)
    for region in range(regions):
        first = region * units // regions
        end = (region + 1) * units // regions
        tag = (phase & _TAG_MASK) << (2 * UNIT_BITS)
        atomic_store(_region_word(slot, region), tag | (end << UNIT_BITS) | first)


@kernel
def _take_units(slot: int, phase: int, home: int, regions: int, largest: int) -> tuple[int, int]:
    """(first unit, how many) for a thread whose own region is `home`: none left gives 0, and a phase that is
    over or a race that was lost gives -1.
    """
    for offset in range(regions):
        region = (home + offset) % regions
        address = _region_word(slot, region)
        word = atomic_load(address)
        if (word >> (2 * UNIT_BITS)) & _TAG_MASK != phase & _TAG_MASK:
            return 0, -1
        unit = word & MAX_UNITS
        end = (word >> UNIT_BITS) & MAX_UNITS
        if unit < end:
            # Shares shrink towards the end of a region, so that the last ones are small.
            take = min(max((end - unit) // 2, 1), largest)
            own = offset == 0
            if not atomic_compare_exchange(address, word, word + (take if own else -(take << UNIT_BITS))):
                return 0, -1
            return (unit if own else end - take), take
    return 0, 0


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
    regions = min(load_word(state, THREADS), MAX_REGIONS)
    home = thread % regions
    step = load_word(state, STEP)
    op_count = load_word(state, OP_COUNT)
    if thread == 0:
        first_phase = atomic_load(state + PHASE * 8)
        _open_next(state, first_phase - 1, first_phase)
        atomic_store(state + END_PHASE * 8, first_phase + op_count)
    waits = 0
    waited_phase = 0
    # The op whose weights are asked for while there is nothing to do, where they lie, and how much was.
    ahead = -1
    first, second = 0, 0
    fetched = AHEAD_BYTES
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
        op = load_word(state, OPS) + (phase - first_phase) * OP_WORDS * 8
        unit, take = (0, 0) if idle else _take_units(slot, phase, home, regions, largest_take(op, step))
        if take == 0:
            if phase != waited_phase:
                waited_phase = phase
                waits = 0
                if not idle:
                    ops = load_word(state, OPS)
                    following = next_weights(ops, step, phase - first_phase + 1, op_count)
                    if following == op_count:
                        fetched = AHEAD_BYTES
                    elif first_phase + following != ahead:
                        ahead = first_phase + following
                        first, second = first_weights(ops + following * OP_WORDS * 8, home, regions)
                        fetched = 0
            waits += 1
            if fetched < AHEAD_BYTES and not idle:
                fetched = fetch_lines(first, second, fetched)
            elif waits < (_IDLE_SPINS if idle else _SPINS):
                cpu_relax()
            elif waits < _SPINS + _YIELDS and not idle:
                yield_thread()
            elif waits < _IDLE_SPINS + _IDLE_SLEEPS or not idle:
                sleep_microseconds(_SLEEP_MICROSECONDS)
            else:
                return 0
        elif take > 0:
            run_units(op, step, unit, unit + take, scratch)
            if atomic_add(slot + RING_DONE * 8, -take) == take:
                _open_next(state, phase, first_phase)
