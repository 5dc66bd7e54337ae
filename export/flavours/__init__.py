"""How each operator is spelled: `ort` (fused, com.microsoft) or `portable` (standard ONNX)."""
