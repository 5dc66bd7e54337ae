"""The parts of benchmarks/peers.py: checkpoints, environments, what contestants run, rounds.

`run_*.py` run inside their own environment and import nothing of edgetok's but `run_edgetok.py`;
`serve.py` is what they share.
"""
