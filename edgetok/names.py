"""Every graph input and output: name, shape and dtype, shared by exporter and runtimes.

Shapes are written with the letters of the documentation: N visual tokens of the tower, K budget,
V vision width, D language-model width, S prefill rows, R rows of a chunk, C cache slots,
G key/value heads, H head dimension, L decoder layers, W vocabulary, B signal points.
"""

from __future__ import annotations

PIXELS = "pixels"  # float32 [1, 3, height, width], normalised
FEATURES = "features"  # float32 [N, V], what the projector reads, CLS removed
DEEP_FEATURES = "deep_features"  # float32 [N, layers * V], rows of earlier blocks beside FEATURES
CLS_ATTENTION = "cls_attention"  # float32 [N], mean over heads of the CLS row, feature layer
KEYS = "keys"  # float32 [N, H], mean over heads of the feature layer's keys
CLS_FEATURE = "cls_feature"  # float32 [1, V], the CLS row beside FEATURES
RECEIVED_ATTENTION = "received_attention"  # float32 [N], mean over heads and queries (no CLS)

# Attention of other blocks than the feature layer: `VisionParts` says which ones they are.
EARLY_CLS_ATTENTION = "early_cls_attention"  # float32 [N], CLS_ATTENTION of the first block
LATE_CLS_ATTENTION = "late_cls_attention"  # float32 [N], CLS_ATTENTION summed over late blocks
OBJECT_ATTENTION = "object_attention"  # float32 [N], RECEIVED_ATTENTION of the object block
GLOBAL_ATTENTION = "global_attention"  # float32 [N], from the most attended patches to all
NEXT_CLS_ATTENTION = "next_cls_attention"  # float32 [N], CLS_ATTENTION of the next block
NEXT_CLS_LOGITS = "next_cls_logits"  # float32 [N], the same before its softmax
NEXT_WIDE_ATTENTION = "next_wide_attention"  # float32 [N], the same as one head of width V
NEXT_KEYS = "next_keys"  # float32 [N, V], keys of the next block, all heads side by side
FLOW_SCORE = "flow_score"  # float32 [N], attention and values of all blocks (FlowCut)

# Of methods in the tower: names of what they read there, and what a tower of one rung adds.
VALUES = "values"  # float32 [heads, n, H], values of the block
ATTENTION = "attention"  # float32 [heads, n, n], the whole map of the block
TOWER_KEPT = "tower_kept"  # int64 [K], as KEPT
TOWER_SIZES = "tower_sizes"  # float32 [K], as SIZES

SIGNAL_ELBOW = "signal_elbow_tokens"  # float32 [1], elbow of the sorted CLS-similarity curve
SIGNAL_ATTENTION = "signal_attention_tokens"  # float32 [1], effective count of CLS attention
SIGNAL_RANK = "signal_rank"  # float32 [1], participation rank of the features, 1..N
SIGNAL_EDGES = "signal_edges"  # float32 [1], mean step between neighbours of a small grey image
SIGNAL_COMPLEXITY = "signal_complexity"  # of a thumbnail, by `rules.Thumbnail`; no graph emits it
ANSWER_MARGIN = "answer_margin"  # probability of the likeliest first token less that of the second
ANSWER_LOG_PROBABILITY = "answer_log_probability"  # natural logarithm, mean over generated tokens
ANSWER_SIGNALS = (ANSWER_MARGIN, ANSWER_LOG_PROBABILITY)

# Of encoders, which have no language model.
ENCODE = "encode"  # stage: pixels -> the head's output, of a rung
DESCRIBE = "describe"  # stage: a text -> its embedding, shared by all rungs
EMBEDDING = "embedding"  # float32 [1, E], of length 1 where it is compared with texts
TEXT_EMBEDDING = "text_embedding"  # float32 [1, E], of length 1
DEPTH = "depth"  # float32 [1, height, width], relative unless the model says otherwise
SCORES = "scores"  # float32 [1, classes, height, width], of each class at each place

VISUAL_TOKENS = "visual_tokens"  # float32 [K, D], projected
KEPT = "kept"  # int64 [K], source index of each token; -1 for the CLS token or a mixture of all
SIZES = "sizes"  # float32 [K], how many source tokens each stands for

VISUAL_DEEP = "visual_deep"  # float32 [K, layers * D], added after the first decoder layers

TOKEN_IDS = "token_ids"  # int64 [T]
TEXT_EMBEDS = "text_embeds"  # float32 [T, D], padded after the prompt
TEXT_MASK = "text_mask"  # float32 [T], 1 at rows of the user's own text, 0 at all others
OF_PROMPT = (TEXT_EMBEDS, TEXT_MASK)  # what text-aware methods read; no tower emits it
PICTURE_WEIGHTS = "picture_weights"  # float32 [P], of each image of a prompt, as the user says
OF_REQUEST = (*OF_PROMPT, PICTURE_WEIGHTS)  # what methods may read that no tower emits

INPUT_EMBEDS = "input_embeds"  # float32 [1, S, D], text and visual rows, padded on the right
LAST_ROW = "last_row"  # int64 [1], index of the last true row of INPUT_EMBEDS
VISUAL_START = "visual_start"  # int64 [1], the first visual row of INPUT_EMBEDS
VISUAL_KEPT = "visual_kept"  # int64 [K], KEPT of the visual rows, where positions have three axes
PAST_LENGTHS = "past_lengths"  # int32 [L], of each layer: true rows after this call, minus one
CHUNK_EMBEDS = "chunk_embeds"  # float32 [1, R, D], rows to put after those of the cache
CHUNK_POSITIONS = "chunk_positions"  # int64 [L, R], of each layer: rotary positions of the chunk
POSITIONS = "positions"  # int64 [L, 1], of each layer: rotary position of the token to decode
TOKEN_ID = "token_id"  # int64 [1, 1], the token to decode
EXIT_SIGNAL = "exit_signal"  # float32 [1], above 0 where all visual rows are to leave
TEXT_POSITIONS = "text_positions"  # int64 [T], rotary positions of rows without visual ones
PREFILL_KEPT = "prefill_kept"  # int64 [sum], visual rows kept at each cut, one cut after another
DECODE_READ = "decode_read"  # int64 [choices, G, k], rows a step read; or -1
LOGITS = "logits"  # float32 [1, W], of the last true row

KEPT_KEY = "kept_key"  # [1, G, keep, H], as `past_key` of a layer, the rows that stay
KEPT_VALUE = "kept_value"  # [1, G, keep, H]
KEPT_KEY_SCALE = "kept_key_scale"  # float32 [1, G, keep, 1], where each slot has its own
KEPT_VALUE_SCALE = "kept_value_scale"  # float32 [1, G, keep, 1]
KEPT_STATE = "kept_state"  # float32 [P, G, keep]

STAGES = ("tower", "compress", "embed", "prefill", "extend", "decode")
EXTEND = "extend"  # only where every row stays: a policy looks at each row as it comes
OF_ROWS = ("prefill", EXTEND)  # may have several graphs of a rung, for so many rows at most
SEGMENT = "segment"  # prefill from a layer on, with visual rows; only where a signal may end them
EXITED = "exited"  # prefill from a layer on, without visual rows
FLUSH = "flush"  # only where rows of a KIVI cache wait to be packed
UNPACK = "unpack"  # makes int8 weights of packed ones, once; only where graphs read them
UNPACKED = "unpacked_weight_"  # and a number: int8 [K, N], what `unpack` makes
COMPACT = "compact"  # one for each layer where a policy empties the cache; none elsewhere


def past_key(layer: int) -> str:
    """[1, G, C, H] float32 or int8, or two int4 in a uint8; the same memory as `present_key`."""
    return f"past_key_{layer}"


def past_value(layer: int) -> str:
    """[1, G, C, H] float32 or int8, or two int4 in a uint8; the same memory as `present_value`."""
    return f"past_value_{layer}"


def past_key_scale(layer: int) -> str:
    """float32 [1, G, C, 1], where each slot has its own; bound like `past_key`."""
    return f"past_key_scale_{layer}"


def past_value_scale(layer: int) -> str:
    """float32 [1, G, C, 1], where each slot has its own; bound like `past_value`."""
    return f"past_value_scale_{layer}"


def past_convolution(number: int) -> str:
    """float32 [1, D, J - 1], what a short convolution remembers; bound like `past_key`."""
    return f"past_convolution_{number}"


def rows_before(layer: int) -> str:
    """float32 [1, S, D], hidden rows of a prompt between two graphs of prefill."""
    return f"rows_{layer}"


def text_rows_before(layer: int) -> str:
    """float32 [1, T, D], the same without visual rows."""
    return f"text_rows_{layer}"


def present_of(past: str) -> str:
    """What the buffer of a `past_` name is called after the graph."""
    return past.replace("past_", "present_", 1)


def present_key(layer: int) -> str:
    """As `past_key`."""
    return f"present_key_{layer}"


def present_value(layer: int) -> str:
    """As `past_value`."""
    return f"present_value_{layer}"


def past_state(layer: int) -> str:
    """float32 [P, G, C], P numbers that a policy remembers of each row."""
    return f"past_state_{layer}"


def buffer_name(side: str, kind: str, layer: int) -> str:
    """A buffer of a cache: `side` is past, present or flushed; `kind` is as its store names it."""
    return f"{side}_{kind}_{layer}"
