"""The operators that a bundle's graphs may use.

A list of what is allowed, not of what is forbidden: a runtime gains operators with every release,
and some of them load files (EPContext), decode images or run sub-graphs. Left out on purpose:
control flow, outputs whose shape depends on values (NonZero, Unique, Compress, NonMaxSuppression),
sequences, optionals, strings, random numbers (exports are deterministic) and training losses.
"""

from __future__ import annotations

_STANDARD = frozenset(
    """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool
    BatchNormalization BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast CastLike
    CausalConvWithState Ceil Celu Clip Concat Constant ConstantOfShape Conv ConvInteger
    ConvTranspose Cos Cosh CumProd CumSum DepthToSpace DequantizeLinear Div Dropout
    DynamicQuantizeLinear Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather
    GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool Greater GreaterOrEqual
    GridSample GroupNormalization HardSigmoid HardSwish Hardmax Identity InstanceNormalization
    IsInf IsNaN LayerNormalization LeakyRelu Less LessOrEqual LinearAttention Log LogSoftmax
    LpNormalization MatMul MatMulInteger Max MaxPool Mean MeanVarianceNormalization Min Mish Mod
    Mul Neg Not OneHot Or PRelu Pad Pow QLinearConv QLinearMatMul QuantizeLinear RMSNormalization
    Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin
    ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize RotaryEmbedding Round Scatter
    ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign SimplifiedLayerNormalization Sin Sinh
    Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum SwiGLU Swish Tan
    Tanh TensorScatter ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Where Xor
    """.split()  # noqa: SIM905  one name a line would hide what is missing
)

_MICROSOFT = frozenset(
    """
    Attention BiasGelu DequantizeLinear DynamicQuantizeMatMul EmbedLayerNormalization FastGelu
    FusedConv FusedGemm FusedMatMul GatedAdd GatedRMSNorm GatherBlockQuantized Gelu
    GroupQueryAttention LinearAttention LinearAttentionGate MatMulBnb4 MatMulInteger16
    MatMulIntegerToFloat MatMulNBits MRotaryEmbedding MultiHeadAttention NhwcMaxPool QAttention
    QEmbedLayerNormalization QGemm QLinearAdd QLinearAveragePool QLinearConcat QLinearConv
    QLinearGlobalAveragePool QLinearLeakyRelu QLinearMul QLinearSigmoid QLinearSoftmax
    QLinearWhere QMoE QuantizeLinear QuickGelu RotaryEmbedding ScaledSiLU SkipLayerNormalization
    SkipSimplifiedLayerNormalization TransposeMatMul Trilu
    """.split()  # noqa: SIM905  one name a line would hide what is missing
)

# "ai.onnx" is the long name of the standard domain, whose short name is empty.
ALLOWED = {"": _STANDARD, "ai.onnx": _STANDARD, "com.microsoft": _MICROSOFT}

# Operators whose output is as large as the values of these operands say. The operands must be
# constants inside the graph, so that the size is known before anything is allocated.
SIZED_BY_OPERANDS = {
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "OneHot": (1,),
    "Pad": (1,),
    "Range": (0, 1, 2),
    "Resize": (2, 3),
    "Tile": (1,),
}
