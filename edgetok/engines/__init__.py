"""Engines of TensorRT and of TensorRT for RTX, made from a bundle's portable graphs.

Engines are a cache, never content: they are built where they run or for named GPUs, kept in the
user's cache directory, and made again when anything that went into them changes.
"""
