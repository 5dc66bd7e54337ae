"""KV caches: one folder per scheme, with its graphs, its eager reference and its parity check.

`scheme` says what a scheme is, `choose` which there are. `plain` and `evicting` caches lie in the
lowering's own buffers; stores with buffers of their own (`fp16`, `kivi`, `zipcache`, `think`) share
`ring`. `tidaldecode` reads a part of a plain cache. docs/adding-a-kv-store.md adds one.
"""
