"""A cache of constant size, whose policy says which rows stay (H2O, SnapKV, LoCoCo, ...)."""
