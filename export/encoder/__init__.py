"""Models without a language model: classifiers, embeddings, CLIP and SigLIP, depth, masks.

A tower that merges tokens inside, and a head, as one graph per rung; `describe` embeds texts. Such
bundles have a manifest of their own (`bundle/encoders.py`) with a `task`.
"""
