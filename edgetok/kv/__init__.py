"""The KV cache: how rows are stored in few bits."""
