"""Manifests whose graphs do not mean the same KV cache, each named for what is wrong.

Graphs are compared with the manifest afterwards, so that none of these needs any.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgetok.bundle.buffers import buffer_problems, require_buffers
from edgetok.bundle.parse import parse_manifest
from edgetok.errors import BundleError

Tree = dict[str, Any]
Place = tuple[str, list[int]]

SLOTS, RING, HEAD, LAYERS = 64, 16, 16, 2
IN_PREFILL = ("prefill", "segment", "exited")


def _floats(*shape: int) -> Place:
    return "float32", [1, 1, *shape]


def _bytes(*shape: int) -> Place:
    return "int8", [1, 1, *shape]


WHOLE = {"key": _floats(SLOTS, HEAD), "value": _floats(SLOTS, HEAD)}
WAITING = {"ring_key": _floats(RING, HEAD), "ring_value": _floats(RING, HEAD)}


def _of_groups(rows: int) -> dict[str, Place]:
    return {
        "key": _bytes(rows, HEAD // 4),
        "value": _bytes(rows, HEAD // 4),
        "key_step": _floats(rows // RING, HEAD),
        "value_step": _floats(rows, 1),
    }


def _of_tiers(high: int, low: int) -> dict[str, Place]:
    return {
        f"{tier}_{kind}": place
        for tier, rows, width in (("high", high, HEAD // 2), ("low", low, HEAD // 4))
        for kind, place in {
            "key": _bytes(rows, width),
            "value": _bytes(rows, width),
            "value_step": _floats(rows, 1),
        }.items()
    }


def plain(tree: Tree) -> None:
    """Every row of every layer is held."""


def groups(tree: Tree) -> None:
    """Full rings become groups of few bits."""
    tree["kv"].update(ring=RING, filing="groups", reuse="append", extends=False)
    _list(tree, _of_groups(3 * RING) | WAITING, written=WAITING, flushed=_of_groups(RING))


def tiers(tree: Tree) -> None:
    """Full rings are divided between two tiers, whose keys have one range."""
    tree["kv"].update(ring=RING, filing="tiers", reuse="append", extends=False)
    ranges = {f"{tier}_key_step": _floats(1, HEAD) for tier in ("high", "low")}
    held = _of_tiers(40, 24) | ranges | {"filled": ("int32", [2])}
    waiting = WAITING | {"ring_score": _floats(RING)}
    _list(tree, held | waiting, written=waiting, flushed=_of_tiers(10, 6))


def shifted(tree: Tree) -> None:
    """Keys leave a ring as the graphs themselves have it."""
    tree["kv"].update(ring=RING, reuse="append", extends=False)
    key, waiting = _floats(SLOTS - RING, HEAD // 2), {"ring_key": WAITING["ring_key"]}
    held = {"key": key, "value": WHOLE["value"]} | waiting
    _list(tree, held | {"channels": ("int32", [1, 1, HEAD // 2])}, written=held)


def emptied(tree: Tree) -> None:
    """A graph of each layer says which rows stay, and what is remembered of them."""
    tree["kv"].update(keep=[30, 20], policy="streaming", reuse="append", extends=False)
    _list(tree, WHOLE | {"state": ("float32", [3, 1, SLOTS])})
    for layer, rows in enumerate(tree["kv"]["keep"]):
        kept = {
            "kept_key": _floats(rows, HEAD),
            "kept_value": _floats(rows, HEAD),
            "kept_state": ("float32", [3, 1, rows]),
        }
        read = [t for t in _stage(tree, "decode")["inputs"] if t["name"].endswith(f"_{layer}")]
        _add(tree, "compact", read, [_tensor(name, *place) for name, place in kept.items()], layer)


def remembering(tree: Tree) -> None:
    """A convolution before the layers holds the last two rows."""
    tree["kv"]["reuse"] = "append"
    tensor = ("float32", [1, 32, 2])
    for stage in tree["stages"]:
        if stage["stage"] in ("extend", "decode"):
            stage["inputs"].append(_tensor("past_convolution_7", *tensor))
        if stage["stage"] in (*IN_PREFILL, "extend", "decode"):
            stage["outputs"].append(_tensor("present_convolution_7", *tensor))


GOOD = (plain, groups, tiers, shifted, emptied, remembering)


def _tensor(name: str, dtype: str, shape: list[int]) -> Tree:
    return {"name": name, "dtype": dtype, "shape": list(shape)}


def _stage(tree: Tree, name: str) -> Tree:
    return next(stage for stage in tree["stages"] if stage["stage"] == name)


def _add(tree: Tree, name: str, inputs: list[Tree], outputs: list[Tree], layer: int | None) -> None:
    decode = _stage(tree, "decode")
    made = decode | {"stage": name, "inputs": inputs, "outputs": outputs, "layer": layer}
    tree["stages"].append(made)


def _list(
    tree: Tree,
    held: dict[str, Place],
    written: dict[str, Place] | None = None,
    flushed: dict[str, Place] | None = None,
) -> None:
    """Have all graphs list these buffers of each layer."""

    def listed(side: str, kinds: dict[str, Place]) -> list[Tree]:
        numbers = range(LAYERS)
        return [_tensor(f"{side}_{kind}_{n}", *kinds[kind]) for n in numbers for kind in kinds]

    if not tree["kv"]["extends"]:
        tree["stages"].remove(_stage(tree, "extend"))
    for stage in tree["stages"]:
        for side, prefix in (("inputs", "past_"), ("outputs", "present_")):
            tensors = stage[side]
            own = [t for t in tensors if t["name"] == "past_lengths" or prefix not in t["name"]]
            stage[side] = own
        if stage["stage"] in IN_PREFILL:
            stage["outputs"] += listed("present", held)
        if stage["stage"] == "decode":
            stage["inputs"] += listed("past", held)
            stage["outputs"] += listed("present", held if written is None else written)
    if flushed is not None:
        _add(tree, "flush", listed("past", written or {}), listed("flushed", flushed), None)


def _change(stage: str, name: str, /, **fields: object) -> Callable[[Tree], None]:
    """Say something else of a tensor of a graph."""

    def edit(tree: Tree) -> None:
        graph = _stage(tree, stage)
        for tensor in (*graph["inputs"], *graph["outputs"]):
            if tensor["name"] == name:
                tensor.update(fields)
                return
        raise AssertionError(name)

    return edit


def _drop(stage: str, name: str) -> Callable[[Tree], None]:
    def edit(tree: Tree) -> None:
        graph = _stage(tree, stage)
        before = len(graph["inputs"]) + len(graph["outputs"])
        for side in ("inputs", "outputs"):
            graph[side] = [tensor for tensor in graph[side] if tensor["name"] != name]
        assert len(graph["inputs"]) + len(graph["outputs"]) < before

    return edit


def _everywhere(name: str, shape: list[int]) -> Callable[[Tree], None]:
    """Another shape of a buffer, of which all graphs say the same."""

    def edit(tree: Tree) -> None:
        for stage in tree["stages"]:
            for tensor in (*stage["inputs"], *stage["outputs"]):
                if tensor["name"] in (f"past_{name}", f"present_{name}"):
                    tensor["shape"] = shape

    return edit


def _kv(**fields: object) -> Callable[[Tree], None]:
    return lambda tree: tree["kv"].update(fields)


# Name -> (a good manifest, what is done to it, what the message says).
CASES: dict[str, tuple[Callable[[Tree], None], Callable[[Tree], None], str]] = {
    "more slots than rows": (plain, _kv(slots=[80, 80]), "have 64 rows, and .* is 80"),
    "fewer slots than rows": (
        plain,
        _everywhere("key_1", [1, 1, 65, HEAD]),
        "layer 1 have 65 rows, and .* is 64",
    ),
    "no keys": (plain, _drop("decode", "past_key_0"), "key buffers of layer 0 have 0 rows"),
    "other heads": (plain, _kv(kv_heads=2), r"\[1, 1, 64, 16\] is not \[1, 2, rows, width\]"),
    "wider heads": (plain, _kv(head_dim=17), "has 16 numbers, and .* is 17"),
    "prefill writes past the end": (
        plain,
        _change("prefill", "present_key_0", shape=[1, 1, 65, HEAD]),
        "prefill_4.onnx: present_key_0 is float32",
    ),
    "prefill writes another type": (
        plain,
        _change("prefill", "present_value_1", dtype="int8"),
        r"present_value_1 is int8 .*, not float32",
    ),
    "prefill leaves a buffer": (
        plain,
        _drop("prefill", "present_value_0"),
        "prefill_4.onnx: does not make present_value_0",
    ),
    "extend reads less": (
        plain,
        _change("extend", "past_key_0", shape=[1, 1, 8, HEAD]),
        "extend.onnx: past_key_0 is float32",
    ),
    "a step writes nothing": (plain, _drop("decode", "present_key_1"), "decode.* present_key_1"),
    "a buffer of no layer": (
        plain,
        _change("decode", "past_key_1", name="past_key_2"),
        "past_key_2 is of none of 2 layers",
    ),
    "a buffer without a number": (
        plain,
        _change("decode", "past_key_1", name="past_key_01"),
        "past_key_01 is of none",
    ),
    "the tower reads the cache": (
        plain,
        _change("tower", "pixels", name="past_key_0"),
        "past_key_0 is read by tower, which has no cache",
    ),
    "the tower writes the cache": (
        plain,
        _change("tower", "features", name="present_key_0"),
        "present_key_0 is made by tower",
    ),
    "another ring": (groups, _kv(ring=8), "past_ring_key_0 has 16 rows, not 8"),
    "no ring": (groups, _drop("decode", "past_ring_value_0"), "past_ring_value_0 is missing"),
    "too few groups": (
        groups,
        _everywhere("value_step_1", [1, 1, 47, 1]),
        "flushed_value_step_1: 3 x 16 rows exceed 47",
    ),
    "a group that is too large": (
        groups,
        _change("flush", "flushed_key_0", shape=[1, 1, 17, HEAD // 4]),
        "files 17 rows of key 0",
    ),
    "a group that is too wide": (
        groups,
        _change("flush", "flushed_key_0", shape=[1, 1, RING, 5]),
        "flushed_key_0 is int8",
    ),
    "a group without rows": (
        groups,
        _change("flush", "flushed_key_step_0", shape=[1, 1]),
        r"flushed_key_step_0 is float32 \[1, 1\]",
    ),
    "a part of a group": (
        groups,
        _drop("flush", "flushed_key_step_1"),
        "does not make flushed_key_step_1",
    ),
    "flushed into nowhere": (
        groups,
        _change("flush", "flushed_key_0", name="flushed_keys_0"),
        "flushed_keys_0 is no buffer",
    ),
    "bytes that hold no head": (groups, _everywhere("key_0", [1, 1, 48, 5]), "5 bytes hold no"),
    "tiers that are too small": (tiers, _everywhere("low_key_0", [1, 1, 7, 4]), "have 63 rows"),
    "nothing counts": (tiers, _drop("decode", "past_filled_1"), "past_filled_1 is missing"),
    "three tiers": (tiers, _everywhere("filled_0", [3]), r"past_filled_0 is missing, or not"),
    "counted in bytes": (tiers, _change("decode", "past_filled_0", dtype="int8"), "not int32"),
    "half a ring": (
        tiers,
        _change("flush", "flushed_low_value_0", shape=[1, 1, 5, 4]),
        "files 15 rows of value 0",
    ),
    "tiers of other rows": (
        tiers,
        _change("flush", "flushed_low_value_step_0", shape=[1, 1, 7, 1]),
        "flushed_low_value_step_0 has 7 rows, not 6",
    ),
    "keys that leave no room": (shifted, _everywhere("key_0", [1, 1, 47, 8]), "have 63 rows"),
    "values that nobody writes": (shifted, _drop("decode", "present_value_0"), "present_value_0"),
    "another number stays": (emptied, _kv(keep=[30, 21]), "has 20 rows, and .*keep is 21"),
    "state of other rows": (
        emptied,
        _change("compact", "kept_state", shape=[3, 1, 29]),
        "kept_state has 29 rows",
    ),
    "state of other planes": (
        emptied,
        _change("compact", "kept_state", shape=[2, 1, 30]),
        r"kept_state is float32 \[2, 1, 30\], not float32 \[3, 1, 30\]",
    ),
    "state is left": (emptied, _drop("compact", "kept_state"), "does not make kept_state"),
    "memory that is cut": (remembering, _kv(reuse="rewind"), "a convolution remembers rows"),
}


def edited(bundle: Path, *edits: Callable[[Tree], None]) -> bytes:
    """The manifest of a bundle of the `tiny_vlm` module, changed."""
    tree = json.loads((bundle / "manifest.json").read_text())
    for edit in edits:
        edit(tree)
    return json.dumps(tree).encode()


@pytest.fixture(scope="module")
def bundle(
    load_helper: Callable[[str], ModuleType], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("buffers") / "tiny.bundle"
    return Path(load_helper("runtimes/tiny_vlm").write(out))


@pytest.mark.parametrize("good", GOOD, ids=lambda good: good.__name__)
def test_good_caches_pass(bundle: Path, good: Callable[[Tree], None]) -> None:
    assert not list(buffer_problems(parse_manifest(edited(bundle, good)), "ort"))


@pytest.mark.parametrize("name", CASES)
def test_graphs_that_do_not_agree_are_refused(bundle: Path, name: str) -> None:
    good, edit, message = CASES[name]
    manifest = parse_manifest(edited(bundle, good, edit))
    with pytest.raises(BundleError, match=rf"KV cache of the ort graphs: .*{message}"):
        require_buffers(manifest, "ort")
