// Written by `make docs` (runtimes/cpp/make_generated.py) from edgetok/names.py, edgetok/limits.py,
// edgetok/bundle/operators.py and what runtimes/runtime/reuse.py measured.
// Do not edit: a test compares it with them.
#pragma once

#include <cstdint>

namespace edgetok_impl {

namespace limits {
constexpr std::int64_t MANIFEST_BYTES = 1048576;
constexpr std::int64_t MANIFEST_DEPTH = 16;
constexpr std::int64_t BUNDLE_FILES = 4096;
constexpr std::int64_t GRAPH_BYTES = 67108864;
constexpr std::int64_t GRAPH_NODES = 200000;
constexpr std::int64_t GRAPH_INLINE_TENSOR_BYTES = 1048576;
constexpr std::int64_t GRAPH_TENSOR_ELEMENTS = 8589934592;
constexpr std::int64_t GRAPH_TENSOR_RANK = 8;
constexpr std::int64_t BUNDLE_BYTES = 274877906944;
constexpr std::int64_t BUNDLE_READ_BYTES = 268435456;
constexpr std::int64_t PROCESSOR_BYTES = 1048576;
constexpr std::int64_t PATH_CHARACTERS = 240;
constexpr std::int64_t PATH_COMPONENTS = 8;
constexpr std::int64_t GOLDEN_BYTES = 268435456;
constexpr std::int64_t GOLDEN_CASES = 64;
constexpr std::int64_t GOLDEN_INPUT_BYTES = 16777216;
constexpr std::int64_t GOLDEN_INPUTS = 256;
constexpr std::int64_t TIMING_BYTES = 268435456;
constexpr std::int64_t WEIGHTS_ALIGNMENT_BYTES = 4096;
constexpr std::int64_t BUCKETS = 64;
constexpr std::int64_t PROMPT_TOKENS = 32768;
constexpr std::int64_t PROMPT_GRAPHS = 8;
constexpr std::int64_t CACHE_SLOTS = 131072;
constexpr std::int64_t NEW_TOKENS = 32768;
constexpr std::int64_t IMAGE_PIXELS = 64000000;
constexpr std::int64_t IMAGE_SIDE_PIXELS = 32768;
constexpr std::int64_t IMAGE_FILE_BYTES = 268435456;
constexpr std::int64_t VIDEO_FRAMES = 1000000;
constexpr std::int64_t PROMPT_BYTES = 1048576;
constexpr std::int64_t SAMPLES_FILE_BYTES = 268435456;
constexpr std::int64_t SAMPLES = 1000000;
constexpr std::int64_t SAMPLE_LINE_BYTES = 1048576;
constexpr std::int64_t CONFIG_BYTES = 4194304;
constexpr std::int64_t TOKENIZER_BYTES = 268435456;
constexpr std::int64_t CHAT_TEMPLATE_BYTES = 262144;
constexpr std::int64_t TILES = 64;
constexpr std::int64_t PICTURES = 64;
constexpr std::int64_t TOWER_SIDE_PIXELS = 4096;
constexpr std::int64_t SCORER_BYTES = 67108864;
constexpr std::int64_t CHAT_TEMPLATE_SECONDS = 20;
}  // namespace limits

namespace costs {
constexpr std::int64_t CALL_COST = 24;
constexpr std::int64_t STEP_COST = 10;
}  // namespace costs

namespace names {
constexpr char PIXELS[] = "pixels";
constexpr char FEATURES[] = "features";
constexpr char DEEP_FEATURES[] = "deep_features";
constexpr char CLS_ATTENTION[] = "cls_attention";
constexpr char KEYS[] = "keys";
constexpr char CLS_FEATURE[] = "cls_feature";
constexpr char RECEIVED_ATTENTION[] = "received_attention";
constexpr char EARLY_CLS_ATTENTION[] = "early_cls_attention";
constexpr char LATE_CLS_ATTENTION[] = "late_cls_attention";
constexpr char OBJECT_ATTENTION[] = "object_attention";
constexpr char GLOBAL_ATTENTION[] = "global_attention";
constexpr char NEXT_CLS_ATTENTION[] = "next_cls_attention";
constexpr char NEXT_CLS_LOGITS[] = "next_cls_logits";
constexpr char NEXT_WIDE_ATTENTION[] = "next_wide_attention";
constexpr char NEXT_KEYS[] = "next_keys";
constexpr char FLOW_SCORE[] = "flow_score";
constexpr char VALUES[] = "values";
constexpr char ATTENTION[] = "attention";
constexpr char TOWER_KEPT[] = "tower_kept";
constexpr char TOWER_SIZES[] = "tower_sizes";
constexpr char SIGNAL_ELBOW[] = "signal_elbow_tokens";
constexpr char SIGNAL_ATTENTION[] = "signal_attention_tokens";
constexpr char SIGNAL_RANK[] = "signal_rank";
constexpr char SIGNAL_EDGES[] = "signal_edges";
constexpr char SIGNAL_COMPLEXITY[] = "signal_complexity";
constexpr char ANSWER_MARGIN[] = "answer_margin";
constexpr char ANSWER_LOG_PROBABILITY[] = "answer_log_probability";
constexpr char ENCODE[] = "encode";
constexpr char DESCRIBE[] = "describe";
constexpr char EMBEDDING[] = "embedding";
constexpr char TEXT_EMBEDDING[] = "text_embedding";
constexpr char DEPTH[] = "depth";
constexpr char SCORES[] = "scores";
constexpr char VISUAL_TOKENS[] = "visual_tokens";
constexpr char KEPT[] = "kept";
constexpr char SIZES[] = "sizes";
constexpr char VISUAL_DEEP[] = "visual_deep";
constexpr char TOKEN_IDS[] = "token_ids";
constexpr char TEXT_EMBEDS[] = "text_embeds";
constexpr char TEXT_MASK[] = "text_mask";
constexpr char PICTURE_WEIGHTS[] = "picture_weights";
constexpr char INPUT_EMBEDS[] = "input_embeds";
constexpr char LAST_ROW[] = "last_row";
constexpr char VISUAL_START[] = "visual_start";
constexpr char VISUAL_KEPT[] = "visual_kept";
constexpr char PAST_LENGTHS[] = "past_lengths";
constexpr char CHUNK_EMBEDS[] = "chunk_embeds";
constexpr char CHUNK_POSITIONS[] = "chunk_positions";
constexpr char POSITIONS[] = "positions";
constexpr char TOKEN_ID[] = "token_id";
constexpr char EXIT_SIGNAL[] = "exit_signal";
constexpr char TEXT_POSITIONS[] = "text_positions";
constexpr char PREFILL_KEPT[] = "prefill_kept";
constexpr char DECODE_READ[] = "decode_read";
constexpr char LOGITS[] = "logits";
constexpr char KEPT_KEY[] = "kept_key";
constexpr char KEPT_VALUE[] = "kept_value";
constexpr char KEPT_KEY_SCALE[] = "kept_key_scale";
constexpr char KEPT_VALUE_SCALE[] = "kept_value_scale";
constexpr char KEPT_STATE[] = "kept_state";
constexpr char EXTEND[] = "extend";
constexpr char SEGMENT[] = "segment";
constexpr char EXITED[] = "exited";
constexpr char FLUSH[] = "flush";
constexpr char UNPACK[] = "unpack";
constexpr char UNPACKED[] = "unpacked_weight_";
constexpr char COMPACT[] = "compact";
}  // namespace names

struct Operator {
  const char* domain;
  const char* name;
};

constexpr Operator kAllowed[] = {
    {"", "Abs"},
    {"", "Acos"},
    {"", "Acosh"},
    {"", "Add"},
    {"", "And"},
    {"", "ArgMax"},
    {"", "ArgMin"},
    {"", "Asin"},
    {"", "Asinh"},
    {"", "Atan"},
    {"", "Atanh"},
    {"", "Attention"},
    {"", "AveragePool"},
    {"", "BatchNormalization"},
    {"", "BitCast"},
    {"", "BitShift"},
    {"", "BitwiseAnd"},
    {"", "BitwiseNot"},
    {"", "BitwiseOr"},
    {"", "BitwiseXor"},
    {"", "Cast"},
    {"", "CastLike"},
    {"", "CausalConvWithState"},
    {"", "Ceil"},
    {"", "Celu"},
    {"", "Clip"},
    {"", "Concat"},
    {"", "Constant"},
    {"", "ConstantOfShape"},
    {"", "Conv"},
    {"", "ConvInteger"},
    {"", "ConvTranspose"},
    {"", "Cos"},
    {"", "Cosh"},
    {"", "CumProd"},
    {"", "CumSum"},
    {"", "DepthToSpace"},
    {"", "DequantizeLinear"},
    {"", "Div"},
    {"", "Dropout"},
    {"", "DynamicQuantizeLinear"},
    {"", "Einsum"},
    {"", "Elu"},
    {"", "Equal"},
    {"", "Erf"},
    {"", "Exp"},
    {"", "Expand"},
    {"", "EyeLike"},
    {"", "Flatten"},
    {"", "Floor"},
    {"", "Gather"},
    {"", "GatherElements"},
    {"", "GatherND"},
    {"", "Gelu"},
    {"", "Gemm"},
    {"", "GlobalAveragePool"},
    {"", "GlobalMaxPool"},
    {"", "Greater"},
    {"", "GreaterOrEqual"},
    {"", "GridSample"},
    {"", "GroupNormalization"},
    {"", "HardSigmoid"},
    {"", "HardSwish"},
    {"", "Hardmax"},
    {"", "Identity"},
    {"", "InstanceNormalization"},
    {"", "IsInf"},
    {"", "IsNaN"},
    {"", "LayerNormalization"},
    {"", "LeakyRelu"},
    {"", "Less"},
    {"", "LessOrEqual"},
    {"", "LinearAttention"},
    {"", "Log"},
    {"", "LogSoftmax"},
    {"", "LpNormalization"},
    {"", "MatMul"},
    {"", "MatMulInteger"},
    {"", "Max"},
    {"", "MaxPool"},
    {"", "Mean"},
    {"", "MeanVarianceNormalization"},
    {"", "Min"},
    {"", "Mish"},
    {"", "Mod"},
    {"", "Mul"},
    {"", "Neg"},
    {"", "Not"},
    {"", "OneHot"},
    {"", "Or"},
    {"", "PRelu"},
    {"", "Pad"},
    {"", "Pow"},
    {"", "QLinearConv"},
    {"", "QLinearMatMul"},
    {"", "QuantizeLinear"},
    {"", "RMSNormalization"},
    {"", "Range"},
    {"", "Reciprocal"},
    {"", "ReduceL1"},
    {"", "ReduceL2"},
    {"", "ReduceLogSum"},
    {"", "ReduceLogSumExp"},
    {"", "ReduceMax"},
    {"", "ReduceMean"},
    {"", "ReduceMin"},
    {"", "ReduceProd"},
    {"", "ReduceSum"},
    {"", "ReduceSumSquare"},
    {"", "Relu"},
    {"", "Reshape"},
    {"", "Resize"},
    {"", "RotaryEmbedding"},
    {"", "Round"},
    {"", "Scatter"},
    {"", "ScatterElements"},
    {"", "ScatterND"},
    {"", "Selu"},
    {"", "Shape"},
    {"", "Shrink"},
    {"", "Sigmoid"},
    {"", "Sign"},
    {"", "SimplifiedLayerNormalization"},
    {"", "Sin"},
    {"", "Sinh"},
    {"", "Size"},
    {"", "Slice"},
    {"", "Softmax"},
    {"", "Softplus"},
    {"", "Softsign"},
    {"", "SpaceToDepth"},
    {"", "Split"},
    {"", "Sqrt"},
    {"", "Squeeze"},
    {"", "Sub"},
    {"", "Sum"},
    {"", "SwiGLU"},
    {"", "Swish"},
    {"", "Tan"},
    {"", "Tanh"},
    {"", "TensorScatter"},
    {"", "ThresholdedRelu"},
    {"", "Tile"},
    {"", "TopK"},
    {"", "Transpose"},
    {"", "Trilu"},
    {"", "Unsqueeze"},
    {"", "Where"},
    {"", "Xor"},
    {"com.microsoft", "Attention"},
    {"com.microsoft", "BiasGelu"},
    {"com.microsoft", "DequantizeLinear"},
    {"com.microsoft", "DynamicQuantizeMatMul"},
    {"com.microsoft", "EmbedLayerNormalization"},
    {"com.microsoft", "FastGelu"},
    {"com.microsoft", "FusedConv"},
    {"com.microsoft", "FusedGemm"},
    {"com.microsoft", "FusedMatMul"},
    {"com.microsoft", "GatedAdd"},
    {"com.microsoft", "GatedRMSNorm"},
    {"com.microsoft", "GatherBlockQuantized"},
    {"com.microsoft", "Gelu"},
    {"com.microsoft", "GroupQueryAttention"},
    {"com.microsoft", "LinearAttention"},
    {"com.microsoft", "LinearAttentionGate"},
    {"com.microsoft", "MRotaryEmbedding"},
    {"com.microsoft", "MatMulBnb4"},
    {"com.microsoft", "MatMulInteger16"},
    {"com.microsoft", "MatMulIntegerToFloat"},
    {"com.microsoft", "MatMulNBits"},
    {"com.microsoft", "MultiHeadAttention"},
    {"com.microsoft", "NhwcMaxPool"},
    {"com.microsoft", "QAttention"},
    {"com.microsoft", "QEmbedLayerNormalization"},
    {"com.microsoft", "QGemm"},
    {"com.microsoft", "QLinearAdd"},
    {"com.microsoft", "QLinearAveragePool"},
    {"com.microsoft", "QLinearConcat"},
    {"com.microsoft", "QLinearConv"},
    {"com.microsoft", "QLinearGlobalAveragePool"},
    {"com.microsoft", "QLinearLeakyRelu"},
    {"com.microsoft", "QLinearMul"},
    {"com.microsoft", "QLinearSigmoid"},
    {"com.microsoft", "QLinearSoftmax"},
    {"com.microsoft", "QLinearWhere"},
    {"com.microsoft", "QMoE"},
    {"com.microsoft", "QuantizeLinear"},
    {"com.microsoft", "QuickGelu"},
    {"com.microsoft", "RotaryEmbedding"},
    {"com.microsoft", "ScaledSiLU"},
    {"com.microsoft", "SkipLayerNormalization"},
    {"com.microsoft", "SkipSimplifiedLayerNormalization"},
    {"com.microsoft", "TransposeMatMul"},
    {"com.microsoft", "Trilu"},
};

struct SizedBy {
  const char* name;
  int operand;
};

constexpr SizedBy kSizedBy[] = {
    {"ConstantOfShape", 0},
    {"Expand", 1},
    {"OneHot", 1},
    {"Pad", 1},
    {"Range", 0},
    {"Range", 1},
    {"Range", 2},
    {"Resize", 2},
    {"Resize", 3},
    {"Tile", 1},
};

}  // namespace edgetok_impl
