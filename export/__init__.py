"""From a Hugging Face model directory to a checked bundle; the only place that needs torch."""

import os

# ONNX Runtime 1.29 and later report session data to their maker unless told not to, before import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
