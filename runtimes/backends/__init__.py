"""What runs graphs: ONNX Runtime and its providers, TensorRT."""
