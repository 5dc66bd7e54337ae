"""A cache that keeps every row: float32, or 8 or 4 bits."""
