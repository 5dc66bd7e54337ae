"""Both libraries refuse the same caches, and say the same about them.

Graphs are looked at afterwards, so the bundles that are asked have none that would be admitted.
"""

from __future__ import annotations

import copy
import hashlib
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
NOTHING = b"not looked at here"
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
def tree_of(hostile, load_helper, tiny):
    """The manifest of a scheme, with which nothing but its cache may be wrong."""
    schemes = load_helper("bundle/schemes")

    def make(name: str, edit=None) -> dict:
        tree = hostile.tree_of(tiny, schemes, name)
        if edit is not None:
            edit(tree)
        for stage in tree["stages"]:
            stage["flavour"] = "ort"
        more = [stage | {"budget": 4} for stage in tree["stages"] if stage["stage"] == "segment"]
        names = {stage["stage"] for stage in tree["stages"]} | {"extend"}
        rest = json.loads(tiny.good_manifest())["stages"]
        tree["stages"] += [*more, *(stage for stage in rest if stage["stage"] not in names)]
        for rung in tree["ladder"]:
            rung["removed"] = [0] * tree["kv"]["layers"]
        return tree

    return make


@pytest.fixture(scope="module")
def ask(library, capi, tiny, tmp_path_factory):
    """What the C library says of a manifest when its bundle is loaded."""
    folder = tmp_path_factory.mktemp("asked") / "tiny.bundle"
    tiny.write(folder)
    held = json.loads((folder / "manifest.json").read_text())["files"]

    def load(tree: dict) -> str:
        for stage in tree["stages"]:
            if stage["file"] not in held:
                file = folder / stage["file"]
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(NOTHING)
                digest = hashlib.sha256(NOTHING).hexdigest()
                held[stage["file"]] = {"bytes": len(NOTHING), "sha256": digest}
        (folder / "manifest.json").write_text(json.dumps(tree | {"files": held}))
        with pytest.raises(capi.Failure) as caught:
            capi.Model(capi.Bundle(library, folder), threads=1)
        assert caught.value.status == 3 or "needs at least" in str(caught.value)
        return str(caught.value)

    return load


def _plain(problem: str) -> str:
    """Without the names of which it says the first ones, each library in its own order."""
    return re.sub("(does not make (present|kept)).*", r"\1", problem)


def _require_same(ask, tree: dict) -> str:
    """What the C library says, which is what Python says."""
    said = ask(tree)
    files = {stage["file"]: {"bytes": 1, "sha256": "0" * 64} for stage in tree["stages"]}
    for name in ("image", "prompt", "tokenizer"):
        files[f"processor/{name}.json"] = {"bytes": 1, "sha256": "0" * 64}
    try:
        manifest = parse_manifest(json.dumps(tree | {"files": files}).encode())
    except BundleError:
        assert said.startswith("manifest.json: ")
        return said
    found = {_plain(each) for each in buffer_problems(manifest, "ort")}
    assert said.startswith(OPENING) == bool(found), (said, found)
    if found:
        told = {_plain(e) for e in said.removeprefix(OPENING).removesuffix(END).split("; ")}
        assert told <= found
        assert len(told) == min(SHOWN, len(found))
    return said


def test_what_exporters_write_is_admitted(hostile, tree_of, ask):
    for name in hostile.ALL:
        said = _require_same(ask, tree_of(name))
        assert said.startswith("onnx/ort/"), (name, said)  # a graph is what is wrong


def test_buffers_that_do_not_fit_are_refused(hostile, tree_of, ask):
    by_buffers = 0
    for name, (scheme, edit, words) in hostile.ATTACKS.items():
        said = _require_same(ask, tree_of(scheme, edit))
        assert said.startswith((OPENING, "manifest.json: ")), (name, said)
        by_buffers += said.startswith(OPENING)
        assert not said.startswith(OPENING) or words in said, (name, said)
    assert by_buffers > 0.8 * len(hostile.ATTACKS)  # the manifest alone contradicts some


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
                shape[at] = draw.choice([0, 1, abs(shape[at] - 1), shape[at] + 1, 16, 1 << 33])
        case 5 if tensors:
            draw.choice(tensors)["shape"] = draw.choice([[], [2], [1, 1], [1, 1, 16, 16, 1]])
        case 6:
            stage["stage"] = draw.choice(["prefill", "extend", "decode", "flush", "tower"])
        case _:
            field = draw.choice(sorted(OTHERS))
            tree["kv"][field] = draw.choice(OTHERS[field])


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_both_take_or_both_refuse(hostile, tree_of, ask, seed):
    draw = random.Random(seed)
    tree = copy.deepcopy(tree_of(draw.choice(hostile.ALL)))
    for _ in range(draw.randint(1, 3)):
        _disturb(tree, draw)
    _require_same(ask, tree)
