"""What a bundle's KV cache takes in memory, to the byte, whatever is asked of it."""

from __future__ import annotations

from edgetok.bundle.manifest import Flavour, Manifest, ring_shape

_BITS = {"fp32": 32, "int8": 8, "int4": 4}
_FLOAT_BYTES = 4  # of what a policy remembers of a row, and of a slot's scale


def cache_bytes(manifest: Manifest, flavour: Flavour = "ort") -> int:
    """Keys, values and what goes with rows, in all layers, the scratch of one, and convolutions.

    What goes with a row are the numbers that a policy remembers of it and, in `portable` caches of
    8 or 4 bits, the scales of its slot. A cache with a ring is the same in both flavours.

    The scratch is what compaction writes to before a layer's rows are replaced: as large as the
    rows of the layer that keeps most.
    """
    kv = manifest.kv
    if (ringed := ring_shape(manifest)) is not None:
        return ringed.bytes
    memory = kv.convolutions * manifest.text.hidden * max(kv.kernel - 1, 0) * _FLOAT_BYTES
    return memory + _row_bytes(manifest, flavour) * (sum(kv.slots) + max(kv.keep, default=0))


def cache_bytes_by_flavour(manifest: Manifest) -> dict[str, int]:
    """`cache_bytes` of every flavour that the bundle has graphs of."""
    decoders: list[Flavour] = [s.flavour for s in manifest.stages if s.stage == "decode"]
    return {flavour: cache_bytes(manifest, flavour) for flavour in decoders}


def _row_bytes(manifest: Manifest, flavour: Flavour) -> int:
    """One row of one layer."""
    kv, bits = manifest.kv, _BITS[manifest.precision.kv]
    pair = 2 * kv.head_dim * bits // 8
    scales = 2 if flavour == "portable" and bits < 32 else 0  # of key and of value
    return kv.kv_heads * (pair + _FLOAT_BYTES * (len(kv.planes) + scales))
