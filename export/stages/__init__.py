"""Torch modules of what a bundle runs: static shapes, Hugging Face's own layers inside.

A stage owns the names of its `inputs` and `outputs`. Stages know no lowering: attention is emitted
by whatever `edgetok.export.attention` routes it to while they are traced.
"""
