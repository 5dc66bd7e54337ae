"""The parity check: every graph, and the chain end to end, against PyTorch before publication."""
