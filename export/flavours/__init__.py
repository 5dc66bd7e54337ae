"""How a graph is spelled: fused operators for ONNX Runtime, standard ones for TensorRT."""
