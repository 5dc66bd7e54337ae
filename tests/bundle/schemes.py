"""Manifests of every kind of KV cache, for the tests of buffers: what graphs list, without graphs.

Loaded by the `schemes` fixture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from edgetok.bundle.manifest import Flavour, KvCache, Manifest, Precision, Prefill, Stage, Tensor
from edgetok.kv.stores.kivi import KiviShape
from edgetok.kv.stores.think import ThinkShape
from edgetok.kv.stores.zipcache import ZipShape

LAYERS, HEADS, WIDTH, SLOTS, RING = 2, 3, 16, 70, 32
Place = tuple[str, list[int]]
WIDTHS = {"fp32": ("float32", WIDTH), "int8": ("int8", WIDTH), "int4": ("int8", WIDTH // 2)}


def cache(slots: Sequence[int] = (SLOTS, SLOTS), **changes: Any) -> KvCache:
    given: dict[str, Any] = {
        "layers": len(slots),
        "kv_heads": HEADS,
        "head_dim": WIDTH,
        "slots": list(slots),
        "policy": "none",
        "positions": "kept",
        "reuse": "append",
        "extends": False,
    }
    return KvCache(**given | changes)


def plain_buffers(kv: str, flavour: Flavour, rows: int, planes: int = 0) -> dict[str, Place]:
    """Of one layer, by kind."""
    dtype, width = ("uint8", WIDTH // 2) if (kv, flavour) == ("int4", "ort") else WIDTHS[kv]
    row: Place = (dtype, [1, HEADS, rows, width])
    found: dict[str, Place] = {"key": row, "value": row}
    if kv != "fp32" and flavour == "portable":
        scale: Place = ("float32", [1, HEADS, rows, 1])
        found |= {"key_scale": scale, "value_scale": scale}
    return found | ({"state": ("float32", [planes, HEADS, rows])} if planes else {})


def named(side: str, places: dict[str, Place], layer: int | None) -> list[Tensor]:
    end = "" if layer is None else f"_{layer}"
    return [
        Tensor(name=f"{side}_{kind}{end}", dtype=dtype, shape=list(shape))  # type: ignore[arg-type]
        for kind, (dtype, shape) in places.items()
    ]


def stage(
    name: str, flavour: Flavour, inputs: list[Tensor], outputs: list[Tensor], layer: int | None
) -> Stage:
    end = "" if layer is None else f"_{layer}"
    file = f"onnx/{flavour}/{name}{end}.onnx"
    bucket = 2 if name == "segment" else None
    return Stage(name, bucket, flavour, file, inputs, outputs, layer)  # type: ignore[arg-type]


class Scheme:
    """A cache of these buffers by layer, and graphs over them."""

    def __init__(self, kv: KvCache, layers: list[dict[str, Place]], flavour: Flavour) -> None:
        self.kv, self.layers, self.flavour = kv, layers, flavour
        self.stages: list[Stage] = []

    def side(self, side: str, kinds: Sequence[str] | None = None) -> list[Tensor]:
        return [
            tensor
            for layer, places in enumerate(self.layers)
            for tensor in named(
                side, {k: p for k, p in places.items() if kinds is None or k in kinds}, layer
            )
        ]

    def add(self, name: str, inputs: list[Tensor], outputs: list[Tensor], layer: int | None = None):
        self.stages.append(stage(name, self.flavour, inputs, outputs, layer))
        return self


def plain(
    kv: str = "fp32",
    flavour: Flavour = "ort",
    keep: Sequence[int] = (),
    planes: int = 0,
    slots: Sequence[int] = (SLOTS, SLOTS),
) -> Scheme:
    """Keys and values as they are, or each rounded by itself; with a policy if layers keep rows."""
    layers = [plain_buffers(kv, flavour, rows, planes) for rows in slots]
    scheme = Scheme(cache(slots, keep=list(keep), extends=not keep), layers, flavour)
    whole = scheme.side("past"), scheme.side("present")
    scheme.add("prefill", whole[0] if not keep else [], whole[1]).add("decode", *whole)
    if not keep:
        scheme.add("extend", *whole)
    for layer, rows in enumerate(keep):
        kept = named("kept", plain_buffers(kv, flavour, rows, planes), None)
        scheme.add("compact", named("past", layers[layer], layer), kept, layer)
    return scheme


def ringed(shape: Any) -> Scheme:
    """A cache with a ring, of a store's shape."""
    kv = cache((shape.slots,) * shape.layers, ring=shape.ring, filing=shape.filing)
    scheme = Scheme(kv, [shape.buffers] * shape.layers, "ort")
    scheme.add("prefill", [], scheme.side("present"))
    scheme.add("decode", scheme.side("past"), scheme.side("present", shape.written))
    if shape.filing != "none":
        flushed = [t for n in range(shape.layers) for t in named("flushed", shape.group, n)]
        scheme.add("flush", scheme.side("past", shape.waiting), flushed)
    return scheme


def segmented() -> Scheme:
    """A prefill in segments: each graph writes the buffers of its layers."""
    scheme = plain()
    for index, name in enumerate(("prefill", "segment", "exited")):
        layer = min(index, 1)
        sides = [named(side, scheme.layers[layer], layer) for side in ("past", "present")]
        made = stage(name, "ort", *sides, layer if index else None)
        scheme.stages = [*(s for s in scheme.stages if s.stage != name), made]
    return scheme


def convolving() -> Scheme:
    """Layers beside those of the cache remember some rows; there are three of them."""
    scheme = plain()
    memory = {f"convolution_{n}": ("float32", [1, 24, 2]) for n in range(3)}
    stages = [
        msgspec.structs.replace(
            s,
            inputs=[*s.inputs, *(named("past", memory, None) if s.stage != "prefill" else [])],
            outputs=[*s.outputs, *named("present", memory, None)],
        )
        for s in scheme.stages
    ]
    scheme.stages = stages
    return scheme


SIZES = (LAYERS, HEADS, WIDTH, SLOTS)
SCHEMES: dict[str, Callable[[], Scheme]] = {
    "plain": plain,
    "int8 portable": lambda: plain("int8", "portable"),
    "int4": lambda: plain("int4"),
    "policy": lambda: plain("int8", "portable", keep=(60, 40), planes=2),
    "kivi": lambda: ringed(KiviShape(*SIZES, RING, 2)),
    "zipcache": lambda: ringed(ZipShape(*SIZES, prompt=40)),
    "think": lambda: ringed(ThinkShape(*SIZES, channels=9)),
    "segments": segmented,
    "convolutions": convolving,
}


def manifest_of(tiny: Any, scheme: Scheme, kv: str = "fp32") -> Manifest:
    """The tiny bundle's manifest with this cache."""
    exits = [1] if any(s.stage == "segment" for s in scheme.stages) else []
    return msgspec.structs.replace(
        tiny.manifest(),
        kv=scheme.kv,
        stages=scheme.stages,
        precision=Precision(weights="fp32", kv=kv),
        prefill=Prefill(method="leave" if exits else "none", ratio=1.0, exits=exits),
    )
