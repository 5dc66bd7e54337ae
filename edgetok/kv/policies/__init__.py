"""Published policies of the KV cache, one file each."""
