"""KV stores: how rows of keys and values are held in few bits, as functions that freeze."""
