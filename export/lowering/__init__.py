"""From a traced stage to an ONNX graph: operators, fusion, quantization, and the weights file."""
