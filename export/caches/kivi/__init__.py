"""KIVI (arXiv 2402.02750): groups of 2 or 4 bits, the last rows in float32."""
