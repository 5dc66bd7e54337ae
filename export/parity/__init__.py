"""The parity check: every graph, and the chain end to end, against PyTorch before publication.

`gate` is the one loop, for all flavours and schemes; `ledger` holds limits and the worst of each
measure; `sessions` runs graphs in ONNX Runtime, deliberately not with the runtime that ships.
Choices that PyTorch leaves open itself (`undecided`) are reported per rung.
"""
