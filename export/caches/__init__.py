"""KV caches: one folder per scheme, with its graphs, its eager reference and its parity check."""
