"""A cache of constant size, whose policy says which rows stay (H2O, SnapKV, LoCoCo, ...).

Prefill attends to the whole prompt and writes the rows that stay; decode carries on what is
remembered of each row; `compact`, a graph per layer, empties a full layer to `keep` rows, so that a
choice is paid for once in `slots - keep` steps. Keys are kept as they were rotated; policies that
renumber rows rotate them back by the places that they move.
"""
