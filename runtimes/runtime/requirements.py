"""What a runtime refuses before it works: wrong options, too little memory, odd shapes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

import numpy as np

from edgetok import names
from edgetok.bundle.buffers import list_buffers
from edgetok.bundle.manifest import Flavour, Manifest, shared_stages
from edgetok.errors import InputError, ResourceError, UsageError
from edgetok.ladder import Ladder
from edgetok.runtimes.backends.providers import DEVICES
from edgetok.runtimes.device import machine
from edgetok.runtimes.runtime.protocol import FloatArray, VisualTokens

WEIGHTS_PREFIX = "weights/"
_CACHE_BITS = {"int8": 8, "uint8": 4}  # of a number, two of 4 bits in a byte
_SCRATCH = 8  # live activations, in multiples of the widest graph input or output


def needed_bytes(manifest: Manifest, ladder: Ladder, flavour: Flavour = "ort") -> int:
    """Memory that loading and running takes at least: weights, KV cache, activations."""
    weights = sum(f.bytes for path, f in manifest.files.items() if path.startswith(WEIGHTS_PREFIX))
    budgets, cache = {None, *ladder.budgets}, list_buffers(manifest, flavour)
    stages = [s for s in manifest.stages if s.flavour == flavour and s.budget in budgets]
    tensors = [t for stage in stages for t in stage.inputs + stage.outputs if t.name not in cache]
    unpacked = {t.name: t for t in tensors if t.name.startswith(names.UNPACKED)}
    held = sum(tensor.bytes for tensor in (*cache.values(), *unpacked.values()))
    return weights + held + _SCRATCH * max(t.bytes for t in tensors if t.name not in unpacked)


def loaded_ladder(ladder: Ladder, budgets: Iterable[int] | None) -> Ladder:
    """The rungs of these budgets; all if None."""
    if budgets is None:
        return ladder
    rungs = tuple(ladder.rung(budget) for budget in sorted(set(budgets)))
    if not rungs:
        raise UsageError(f"no rungs to load; name some of {ladder.budgets}")
    return Ladder(rungs)


def require_threads(threads: int | None) -> int:
    """As many as asked for; one per physical core if None."""
    if threads is None:
        return machine.physical_cores()
    if not 1 <= threads <= 1024:
        raise UsageError(f"threads {threads} is outside 1..1024")
    return threads


def require_flavour(manifest: Manifest, flavour: str) -> Flavour:
    """The flavour, if the bundle has all of its stages."""
    known = get_args(Flavour)
    if flavour not in known:
        raise UsageError(f"flavour {flavour!r} is unknown; choose {', '.join(known)}")
    listed = {stage.stage for stage in manifest.stages if stage.flavour == flavour}
    if missing := [name for name in shared_stages(manifest) if name not in listed]:
        raise UsageError(
            f"this bundle has no {flavour} graphs of {', '.join(missing)}; export it again with "
            f"--flavour {flavour}, or run its ort graphs"
        )
    return flavour  # type: ignore[return-value]  # one of the literal's names


def require_memory(manifest: Manifest, ladder: Ladder, flavour: Flavour) -> None:
    """Refuse what the machine has too little free memory for."""
    needed, available = needed_bytes(manifest, ladder, flavour), machine.available_bytes()
    if available is not None and needed > available:
        raise ResourceError(
            f"this bundle needs at least {needed >> 20} MiB and {available >> 20} MiB are free; "
            f"end other programs, load fewer rungs, or export with int4 weights"
        )


def require_cache(manifest: Manifest, flavour: Flavour, provider: str) -> None:
    """GroupQueryAttention of a GPU may have been compiled without caches of few bits.

    Raises:
        IncompatibleError: with the provider's own words.
    """
    if flavour != "ort" or provider == DEVICES["cpu"] or manifest.kv.ring:
        return  # a ring's rows are not that operator's
    key = list_buffers(manifest, flavour).get(names.past_key(0))
    if key is not None and key.dtype in _CACHE_BITS:
        from edgetok.runtimes.backends.kernel_support import require_kv_bits  # imports onnx

        require_kv_bits(provider, _CACHE_BITS[key.dtype])


def require_pixels(pixels: FloatArray, shape: tuple[int, ...]) -> None:
    """Pixels are finite float32 of this shape."""
    if pixels.shape != shape or pixels.dtype != np.float32:
        raise InputError(
            f"pixels are {pixels.dtype} {list(pixels.shape)}; this bundle reads float32 "
            f"{list(shape)}"
        )
    if not np.isfinite(pixels).all():
        raise InputError("pixels hold NaN or infinity; normalise the image again")


def require_visual(start: int | None, visual: int, count: int) -> int:
    """The first of `visual` rows, which lie before the last of `count` rows."""
    if start is None:
        raise UsageError(
            "this bundle takes visual rows away at prefill; say where they begin (visual_start)"
        )
    if not 0 <= start < count - visual:
        raise InputError(
            f"{visual} visual rows from row {start} do not fit in front of the last of {count} "
            "prompt rows; text must follow the image"
        )
    return start


def require_tokens(visual: VisualTokens | None, count: int) -> VisualTokens:
    """The tokens that `count` visual rows are."""
    if visual is None or len(visual.kept) != count:
        raise UsageError(
            f"this bundle places visual rows in the picture; say which {count} tokens they are "
            "(visual)"
        )
    return visual


def require_rows(count: int, limit: int, what: str) -> None:
    """A graph has room for so many rows."""
    if not 1 <= count <= limit:
        raise InputError(f"{count} {what}; this rung has room for 1..{limit}")
