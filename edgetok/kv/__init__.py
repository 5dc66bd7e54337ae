"""The KV cache: slot layouts, quantizers and eviction policies."""
