"""What a bundle's KV cache takes in memory, to the byte, whatever is asked of it."""

from __future__ import annotations

from edgetok.bundle.manifest import Manifest, ring_shape

_BITS = {"fp32": 32, "int8": 8, "int4": 4}
_PLANE_BYTES = 4  # float32


def cache_bytes(manifest: Manifest) -> int:
    """Keys, values and what a policy remembers of rows, in all layers; and the scratch of one.

    The scratch is what compaction writes to before a layer's rows are replaced: as large as the
    rows of the layer that keeps most.
    """
    kv = manifest.kv
    if (ringed := ring_shape(manifest)) is not None:
        return ringed.bytes
    return _row_bytes(manifest) * (sum(kv.slots) + max(kv.keep, default=0))


def _row_bytes(manifest: Manifest) -> int:
    """One row of one layer."""
    kv = manifest.kv
    pair = 2 * kv.head_dim * _BITS[manifest.precision.kv] // 8
    return kv.kv_heads * (pair + _PLANE_BYTES * len(kv.planes))
