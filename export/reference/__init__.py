"""The model in eager PyTorch, as Hugging Face runs it: what graphs are compared with.

Nothing here imports stages, lowerings or cache stores.
"""
