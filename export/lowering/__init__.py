"""From a traced stage to an ONNX graph: operators, fusion, quantization, and the weights file.

`ort` graphs use ONNX Runtime's fused operators (GroupQueryAttention with rotary embedding and cache
inside, MatMulNBits); `portable` ones the standard operators of opset 24, or of 20 after `opset20`.
Names and shapes of both are the same, so one host runs either. A loop of many rounds is traced as
one round, which `unroll` repeats.
"""
