"""Both libraries refuse the same caches, and say the same about them."""

from __future__ import annotations

import json
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetok.bundle.buffers import buffer_problems
from edgetok.bundle.parse import parse_manifest
from edgetok.errors import BundleError

OPENING, END = "KV cache of the ort graphs: ", "; export again"
SHOWN = 8
OTHERS = {
    "ring": [0, 8],
    "filing": ["none", "groups", "tiers"],
    "reuse": ["rewind", "append", "nothing"],
    "keep": [[]],
    "kv_heads": [2],
    "head_dim": [8, 1 << 40],
    "extends": [False, True],
}


@pytest.fixture(scope="module")
def hostile(load_helper):
    """The module tests/hostile/test_buffers.py."""
    return load_helper("hostile/test_buffers")


@pytest.fixture(scope="module")
def good(tiny_vlm, tmp_path_factory) -> dict:
    folder = tiny_vlm.write(tmp_path_factory.mktemp("good") / "tiny.bundle")
    return json.loads((folder / "manifest.json").read_text())


@pytest.fixture(scope="module")
def ask(library, capi, tiny_vlm, tmp_path_factory):
    """What the C library says of a manifest when its bundle is loaded."""
    folder = tiny_vlm.write(tmp_path_factory.mktemp("asked") / "tiny.bundle")

    def load(manifest: bytes) -> str:
        (folder / "manifest.json").write_bytes(manifest)
        try:
            capi.Model(capi.Bundle(library, folder), threads=1)
        except capi.Failure as failure:
            assert failure.status == 3 or "needs at least" in str(failure), failure
            return str(failure)
        return ""

    return load


def _edited(good: dict, *edits) -> bytes:
    tree = json.loads(json.dumps(good))
    for edit in edits:
        edit(tree)
    return json.dumps(tree).encode()


def _plain(problem: str) -> str:
    """Without the names of which it says the first ones, each library in its own order."""
    return re.sub("(does not make (present|kept)).*", r"\1", problem)


def _require_same(ask, manifest: bytes) -> bool:
    """Whether the cache passes."""
    found = {_plain(each) for each in buffer_problems(parse_manifest(manifest), "ort")}
    said = ask(manifest)
    assert said.startswith(OPENING) == bool(found), (said, found)
    if found:
        told = {_plain(e) for e in said.removeprefix(OPENING).removesuffix(END).split("; ")}
        assert told <= found
        assert len(told) == min(SHOWN, len(found))
    return not found


def test_good_caches_pass(hostile, good, ask):
    for make in hostile.GOOD:
        assert _require_same(ask, _edited(good, make)), make.__name__


def test_graphs_that_do_not_agree_are_refused(hostile, good, ask):
    for name, (make, edit, message) in hostile.CASES.items():
        manifest = _edited(good, make, edit)
        assert re.search(OPENING + ".*" + message, ask(manifest)), name
        assert not _require_same(ask, manifest), name


def _disturb(tree: dict, draw: random.Random) -> None:
    """Say something else of the cache, somewhere."""
    stage = draw.choice(tree["stages"])
    tensors = draw.choice([stage["inputs"], stage["outputs"]])
    names = [t["name"] for s in tree["stages"] for t in (*s["inputs"], *s["outputs"])]
    match draw.randrange(8):
        case 0 if tensors:
            tensors.pop(draw.randrange(len(tensors)))
        case 1 if tensors:
            tensor = draw.choice(tensors)
            tensor["name"] = draw.choice([*names, "past_0", "past__0", "past_key_00", "kept_"])
        case 2 if tensors:
            draw.choice(tensors)["dtype"] = draw.choice(["float32", "int8", "uint8", "int32"])
        case 3 | 4 if tensors:
            shape = draw.choice(tensors)["shape"]
            if shape:
                at = draw.randrange(len(shape))
                shape[at] = draw.choice([0, 1, shape[at] - 1, shape[at] + 1, 16, 64, 1 << 33])
        case 5 if tensors:
            draw.choice(tensors)["shape"] = draw.choice([[], [2], [1, 1], [1, 1, 16, 16, 1]])
        case 6:
            stage["stage"] = draw.choice(["prefill", "extend", "decode", "flush", "tower"])
        case _:
            field = draw.choice(sorted(OTHERS))
            tree["kv"][field] = draw.choice(OTHERS[field])


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_both_take_or_both_refuse(hostile, good, ask, seed):
    draw = random.Random(seed)
    edits = [draw.choice(hostile.GOOD)]
    edits += [lambda tree: _disturb(tree, draw)] * draw.randint(1, 3)
    manifest = _edited(good, *edits)
    try:
        parse_manifest(manifest)
    except BundleError:
        assert ask(manifest).startswith("manifest.json: ")
        return
    _require_same(ask, manifest)
