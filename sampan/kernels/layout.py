"""The memory that the interpreter and the Program builder share: op fields, step fields, scheduler words.

Everything is int64 words; a float parameter lies in the low four bytes of its word.
"""

from __future__ import annotations

# Positions of one sequence that a page of the KV cache holds; cache/layout.py says how.
PAGE_TOKENS = 64

# --- op codes -----------------------------------------------------------------------------------------------

EMBED = 0
NORM_QUANTIZE = 1
MATMUL = 2
ROPE_STORE = 3
ATTENTION = 4
ATTENTION_FINISH = 5
GATE_UP = 6
NORM_ADD = 7
ROUTER_LOGITS = 8
ROUTE = 9
DISPATCH_TOKENS = 10
GATHER = 11
EXPERT_GATE_UP_OP = 12
EXPERT_DOWN_OP = 13
COMBINE = 14
LATENT_STORE = 15
HEAD_MATMUL = 16
QUANTIZE = 17
SAMPLE = 21

# --- fields of an op (word index) ---------------------------------------------------------------------------

OP_WORDS = 72

OP_CODE = 0
# Which count of the step gives the rows: STEP_TOKENS, STEP_OUTPUTS or STEP_LOGITS.
OP_COUNT_WORD = 1

# Quantized activations that the op writes: rows, then planes of scales (see kernels/quantize.py); wide: 15
# bits.
QUANTIZED_X = 2
QUANTIZED_STRIDE = 3
QUANTIZED_SCALES = 4
QUANTIZED_SCALE_STRIDE = 5
QUANTIZED_PLANE = 6

SOURCE = 7
SOURCE_STRIDE = 8
TARGET = 9
TARGET_STRIDE = 10
COLUMNS = 11
WEIGHT = 12
EPSILON = 13
FACTOR = 14
ACCUMULATE = 15
# int64 row numbers to gather from SOURCE; 0: row i is i.
ROWS = 16

# MATMUL: up to 3 matrices side by side. GATE_UP: gate and up.
SEGMENT_COUNT = 17
SEGMENTS = 18
SEGMENT_WORDS = 5
SEGMENT_ADDRESS = 0
SEGMENT_FORMAT = 1
SEGMENT_BLOCKS = 2
SEGMENT_BLOCK_BYTES = 3
SEGMENT_TARGET_OFFSET = 4
ACTIVATION = 33
# The same for the quantized activations that a matmul reads.
INPUT_X = 34
INPUT_STRIDE = 35
INPUT_SCALES = 36
INPUT_SCALE_STRIDE = 37
INPUT_PLANE = 38
INPUT_WIDE = 39
QUANTIZED_WIDE = 40
# GATE_UP: float32 per token that its result is multiplied by; 0: none.
ROW_WEIGHTS = 41

# ROPE_STORE, LATENT_STORE and ATTENTION*; numbers of a key and of a value. Latent attention has one KV head
# in the cache; ATTENTION may see groups of its query heads as KV heads that lie 0 bytes apart.
HEADS = 17
KV_HEADS = 18
KEY_DIM = 19
VALUE_DIM = 62
ROTARY = 20
COSINES = 21
SINES = 22
QUERY_BIAS = 23
KEY_BIAS = 24
VALUE_BIAS = 25
QUERY_NORM = 26
KEY_NORM = 27
CACHE = 28
HEAD_BYTES = 29
PAGE_BYTES = 30
INTEGER_CACHE = 31
WINDOW = 32
PARTIALS = 34
PARTIAL_SLOT_BYTES = 35

# ROPE_STORE: how queries and keys are normed.
QK_NORM = 33
QK_NORM_PER_HEAD = 0
QK_NORM_WIDE = 1
QK_NORM_AFTER_ROPE = 2

# LATENT_STORE: float32 queries, the parts without position of all heads, then the parts to be rotated.
QUERIES = 63
QUERIES_STRIDE = 64

# HEAD_MATMUL: blocks of 16 rows of a head's matrix, and bytes between the outputs of two heads.
HEAD_BLOCKS = 65
HEAD_TARGET_BYTES = 66

# Experts. ROUTES: int32 [tokens][ROUTE_WIDTH], -1 where there is none; ROUTE_WEIGHTS: float32 alike.
EXPERT_COUNT = 42
ROUTES = 43
ROUTE_WEIGHTS = 44
ROUTE_WIDTH = 45
LOGITS = 46
LOGITS_STRIDE = 47
ROUTER_SCORING = 48
ROUTER_BIAS = 49
ROUTER_NORMALIZE = 50
ROUTER_FLOOR = 51
ROUTER_SCALE = 52
GROUPS = 53
GROUPS_USED = 54
GROUP_SCORE = 55
SHARED_GATE = 56
SHARED_WEIGHTS = 57
EXPERTS = 58
EXPERT_WIDTH = 59
OUTPUT_ROWS = 60
DISPATCH = 61

# EXPERTS: one entry per expert of a layer.
EXPERT_WORDS = 16
EXPERT_GATE = 0
EXPERT_GATE_FORMAT = 1
EXPERT_GATE_BLOCK_BYTES = 2
EXPERT_UP = 3
EXPERT_UP_FORMAT = 4
EXPERT_UP_BLOCK_BYTES = 5
EXPERT_DOWN = 6
EXPERT_DOWN_FORMAT = 7
EXPERT_DOWN_BLOCK_BYTES = 8

# DISPATCH: counts of the step, then addresses: the table of active experts; int64 token of each row; int64
# row of each token's k-th expert, or -1; float32 weight of each row; int64 room for a count per expert.
DISPATCH_WORDS = 16
DISPATCH_ACTIVE = 0
DISPATCH_ROWS = 1
DISPATCH_GATE_UNITS = 2
DISPATCH_DOWN_UNITS = 3
DISPATCH_TABLE = 4
DISPATCH_SOURCES = 5
DISPATCH_PLACES = 6
DISPATCH_WEIGHTS = 7
DISPATCH_COUNTS = 8

ACTIVE_WORDS = 8
ACTIVE_EXPERT = 0
ACTIVE_START = 1
ACTIVE_ROWS = 2
ACTIVE_FIRST_GATE = 3
ACTIVE_FIRST_DOWN = 4

# --- the step -----------------------------------------------------------------------------------------------

STEP_WORDS = 16
STEP_TOKENS = 0
STEP_OUTPUTS = 1
STEP_SPANS = 2
# Addresses of int64 arrays, one entry per token: id, position, page number, partial slot (or -1).
STEP_IDS = 3
STEP_POSITIONS = 4
STEP_PAGES = 5
STEP_SLOTS = 6
STEP_SPAN_TABLE = 7
# Addresses of one entry per token: int64 experts that it may go to, float32 share of the routing weight it
# keeps.
STEP_EXPERTS = 8
STEP_MASSES = 9
# How many of the outputs, the first ones, get logits; of the others the normed hidden state is wanted.
STEP_LOGITS = 10
# Address of how each row with logits is sampled.
STEP_DRAWS = 11

SPAN_WORDS = 8
SPAN_FIRST = 0
SPAN_COUNT = 1
SPAN_START = 2
SPAN_PAGES = 3
SPAN_SLOT = 4

# Float32 1 / temperature: 0 takes the likeliest token, and with less than 0 none is wanted. Int64 number of
# the likeliest tokens that are kept, 0 for all; float32 share of the weight, and weight relative to the
# largest, that keep a token; random number of 53 bits. The token that was chosen, or -1.
DRAW_WORDS = 8
DRAW_FACTOR = 0
DRAW_TOP_K = 1
DRAW_TOP_P = 2
DRAW_MIN_P = 3
DRAW_NUMBER = 4
DRAW_TOKEN = 5
# More tokens than this are not looked into one by one.
MAX_CANDIDATES = 4096

# --- the scheduler ------------------------------------------------------------------------------------------
# Words that different threads write lie 128 bytes apart, so that they never share a cache line.

PHASE = 0
END_PHASE = 16
STOP = 32
THREADS = 48
OPS = 49
OP_COUNT = 50
STEP = 51
SCRATCH = 52
SCRATCH_BYTES = 53
RING = 64
RING_SLOTS = 8
RING_DONE = 0
RING_REGIONS = 16
REGION_WORDS = 16
# A phase's units are split among at most so many threads to begin with; others steal.
MAX_REGIONS = 8
RING_WORDS = RING_REGIONS + MAX_REGIONS * REGION_WORDS
SCHEDULER_WORDS = RING + RING_SLOTS * RING_WORDS
# The word of a region packs a tag, the end and the next unit; these are the bits of either unit.
UNIT_BITS = 20
MAX_UNITS = (1 << UNIT_BITS) - 1

# Tokens that one unit of a matmul or of gate+up covers: bounds the scratch and gives many threads enough
# units.
MATMUL_SLICE = 128
GATE_UP_SLICE = 64
ROUTER_SLICE = 64
# Scratch of gate+up, bytes per token: 32 rows of each as float32.
GATE_UP_STRIDE = 256
# Positions of keys that attention takes at a time.
ATTENTION_CHUNK = 128
# Floats behind a row's values in its attention state: maximum and sum, padded so that states stay aligned.
STATE_EXTRA = 16
# Rows (query, head) that one unit of attention covers.
ATTENTION_ROWS = 64
# Rows that kernels may touch past the last: the tallest tile.
TILE_SLACK = 16
