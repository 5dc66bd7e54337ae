"""From a Hugging Face model directory to a proven bundle; the only place that needs torch."""
