"""Rows in float16: half of the bytes, and no scales to measure."""
