"""Bytes of the KV cache against arrays of the shapes that docs/bundle-format.md gives."""

import itertools

import msgspec
import numpy as np
import pytest

from edgetok.bundle.buffers import cache_bytes, cache_bytes_by_flavour

HEADS, WIDTH, SLOTS = 3, 16, (40, 24)
DTYPES = {
    ("fp32", "ort"): np.float32,
    ("fp32", "portable"): np.float32,
    ("int8", "ort"): np.int8,
    ("int8", "portable"): np.int8,
    ("int4", "ort"): np.uint8,
    ("int4", "portable"): np.int8,
}


def arrays(kv, flavour, rows, planes):
    """All that is kept of so many rows of a layer."""
    width = WIDTH // 2 if kv == "int4" else WIDTH
    yield from (np.zeros((1, HEADS, rows, width), DTYPES[kv, flavour]) for _ in range(2))
    if kv != "fp32" and flavour == "portable":
        yield from (np.zeros((1, HEADS, rows, 1), np.float32) for _ in range(2))
    if planes:
        yield np.zeros((planes, HEADS, rows), np.float32)


@pytest.mark.parametrize(("kv", "flavour"), DTYPES)
@pytest.mark.parametrize(("keep", "planes"), [((), 0), ((30, 20), 0), ((20, 23), 2)])
def test_every_array_is_counted(tiny, schemes, kv, flavour, keep, planes) -> None:
    manifest = schemes.manifest_of(tiny, schemes.plain(kv, flavour, keep, planes, SLOTS), kv)
    rows = [*SLOTS, *([max(keep)] if keep else [])]  # and the scratch of one layer
    held = itertools.chain(*(arrays(kv, flavour, count, planes) for count in rows))
    assert cache_bytes(manifest, flavour) == sum(array.nbytes for array in held)


def test_only_flavours_that_a_bundle_has_are_counted(tiny, schemes) -> None:
    manifest = schemes.manifest_of(tiny, schemes.plain("int8"), "int8")
    assert list(cache_bytes_by_flavour(manifest)) == ["ort"]
    more = [msgspec.structs.replace(stage, flavour="portable") for stage in manifest.stages]
    both = msgspec.structs.replace(manifest, stages=[*manifest.stages, *more])
    assert list(cache_bytes_by_flavour(both)) == ["ort", "portable"]
