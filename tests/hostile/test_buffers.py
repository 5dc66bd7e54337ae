"""Graphs that mean other buffers of a KV cache than each other, or than the manifest says.

Each would have a runtime read what nobody wrote, or write rows where there is no room for them.
"""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetok.bundle.buffers import cache_bytes, list_buffers, require_buffers
from edgetok.bundle.manifest import Manifest
from edgetok.errors import BundleError, ResourceError
from edgetok.ladder import Ladder, Rung
from edgetok.runtimes.device import machine
from edgetok.runtimes.runtime.requirements import require_memory

ALL = (
    "plain",
    "int8 portable",
    "int4",
    "policy",
    "kivi",
    "zipcache",
    "think",
    "segments",
    "convolutions",
)


def flavour_of(manifest: Manifest) -> Any:
    return manifest.stages[0].flavour


def tree_of(tiny, schemes, name: str) -> dict[str, Any]:
    return msgspec.to_builtins(schemes.manifest_of(tiny, schemes.SCHEMES[name]()))


def require(tree: dict[str, Any]) -> None:
    manifest = msgspec.convert(tree, Manifest)
    require_buffers(manifest, flavour_of(manifest))


def find(tree, name: str, stage: str | None = None) -> list[dict[str, Any]]:
    """All tensors of a name: in every graph, or in those of one stage."""
    return [
        tensor
        for each in tree["stages"]
        if stage in (None, each["stage"])
        for side in ("inputs", "outputs")
        for tensor in each[side]
        if tensor["name"] == name
    ]


def resize(name: str, axis: int, size: int, stage: str | None = None):
    """Edit of one dimension; of a buffer, all graphs name it alike unless a stage is given."""

    def edit(tree) -> None:
        names = [name] if stage else [name, name.replace("past_", "present_", 1)]
        for tensor in (t for each in names for t in find(tree, each, stage)):
            tensor["shape"][axis] = size

    return edit


def pop(name: str):
    return lambda tree: [t["shape"].pop() for t in find(tree, name)]


def retype(name: str, dtype: str, stage: str):
    return lambda tree: [t.update(dtype=dtype) for t in find(tree, name, stage)]


def drop(name: str, stage: str | None = None):
    def edit(tree) -> None:
        for each in tree["stages"]:
            for side in ("inputs", "outputs"):
                if stage in (None, each["stage"]):
                    each[side] = [t for t in each[side] if t["name"] != name]

    return edit


def add(stage: str, side: str, name: str, shape: list[int], dtype: str = "float32"):
    def edit(tree) -> None:
        for each in tree["stages"]:
            if each["stage"] == stage:
                each[side].append({"name": name, "dtype": dtype, "shape": shape})

    return edit


def add_everywhere(name: str, shape: list[int]):
    """A buffer that prefill writes and decode reads and writes."""

    def edit(tree) -> None:
        for stage in ("prefill", "decode", "extend"):
            add(stage, "outputs", name.replace("past_", "present_", 1), list(shape))(tree)
        add("decode", "inputs", name, list(shape))(tree)

    return edit


def also(*edits):
    return lambda tree: [edit(tree) for edit in edits]


def add_stage(name: str):
    return lambda tree: tree["stages"].append(
        tree["stages"][0] | {"stage": name, "inputs": [], "outputs": []}
    )


def kv(**changes):
    return lambda tree: tree["kv"].update(changes)


ROW = [1, 3, 70, 16]

# Name -> (scheme, edit of its manifest, what the message says).
ATTACKS = {
    # Rows: as many as the host will write, where it believes them to be.
    "fewer rows than slots": ("plain", resize("past_key_1", 2, 69), "69 rows, and $.kv.slots is"),
    "more rows than slots": ("plain", resize("past_value_0", 2, 71), "71 rows, and $.kv.slots is"),
    "more slots than rows": ("plain", kv(slots=[70, 71]), "layer 1 have 70 rows"),
    "no rows at all": ("plain", resize("past_key_0", 2, 0), "layer 0 have 0 rows"),
    "scales of fewer rows": ("int8 portable", resize("past_key_scale_0", 2, 8), "has 8 rows, and"),
    "state of fewer rows": ("policy", resize("past_state_1", 2, 8), "past_state_1 has 8 rows"),
    "region and ring too short": ("kivi", kv(slots=[97, 97]), "96 rows, and $.kv.slots is 97"),
    "pruned keys that miss rows": ("think", resize("past_key_0", 2, 37), "69 rows, and $.kv.slots"),
    "tiers too short": ("zipcache", kv(slots=[200, 200]), "rows, and $.kv.slots is 200"),
    "a tier shorter than a flush": ("zipcache", resize("past_low_value_1", 2, 1), "rows exceed 1"),
    # The ring.
    "another ring than the graphs'": (
        "kivi",
        kv(ring=16),
        "has 32 rows, and $.kv.ring is 16",
    ),
    "another ring of pruned keys": (
        "think",
        kv(ring=31),
        "has 32 rows, and $.kv.ring is 31",
    ),
    "another ring of tiers": (
        "zipcache",
        kv(ring=33),
        "has 32 rows, and $.kv.ring is 33",
    ),
    "no ring beside groups": (
        "kivi",
        kv(ring=0),
        "has 32 rows, and $.kv.ring is 0",
    ),
    "a ring that nobody asked for": (
        "plain",
        add_everywhere("past_ring_key_0", [1, 3, 0, 16]),
        "past_ring_key_0 has 0 rows, and $.kv.ring is 0",
    ),
    "a ring of values missing": (
        "kivi",
        also(*(drop(f"{side}_ring_value_0") for side in ("past", "present")), kv(slots=[64, 64])),
        "past_ring_value_0 is missing",
    ),
    "scores of another ring": (
        "zipcache",
        resize("past_ring_score_0", 2, 31),
        "31 rows, and",
    ),
    # Heads and numbers.
    "another number of heads": ("plain", kv(kv_heads=4), "is not [1, 4, rows"),
    "heads too narrow": ("plain", resize("past_key_0", 3, 15), "past_key_0"),
    "heads that fill no bytes": ("kivi", kv(head_dim=17), "hold no head of 17 numbers"),
    "a batch of two": ("plain", resize("past_key_0", 0, 2), "is not [1, 3, rows, width]"),
    "no numbers": ("int4", resize("past_key_0", 3, 0), "is not [1, 3, rows, width]"),
    "more channels than a head": ("think", resize("past_key_0", 3, 17), "has 17 numbers"),
    "keys without an axis": (
        "plain",
        lambda tree: [
            t["shape"].pop() for n in ("past_", "present_") for t in find(tree, n + "key_0")
        ],
        "is not [1, 3, rows, width]",
    ),
    # Graphs against each other.
    "prefill writes another shape": (
        "plain",
        resize("present_key_0", 2, 71, "prefill"),
        "present_key_0 is float32 [1, 3, 71, 16], not float32 [1, 3, 70, 16]",
    ),
    "a step writes another shape": (
        "plain",
        resize("present_key_0", 3, 8, "decode"),
        "decode.onnx",
    ),
    "a chunk writes another type": ("plain", retype("present_key_0", "int8", "extend"), "int8"),
    "prefill writes another type": ("int4", retype("present_key_1", "int8", "prefill"), "uint8"),
    "prefill reads another type": ("plain", retype("past_key_0", "float16", "prefill"), "float16"),
    "other channels at a step": ("think", resize("past_channels_0", 2, 8, "decode"), "channels_0"),
    "flush reads another shape": ("kivi", resize("past_ring_key_0", 3, 8, "flush"), "flush.onnx"),
    "prefill forgets a buffer": (
        "plain",
        drop("present_value_1", "prefill"),
        "prefill.onnx: does not make present_value_1",
    ),
    "prefill forgets channels": ("think", drop("present_channels_0", "prefill"), "does not make"),
    "prefill forgets counts": ("zipcache", drop("present_filled_1", "prefill"), "does not make"),
    "prefill forgets a memory": (
        "convolutions",
        drop("present_convolution_2", "prefill"),
        "does not make present_convolution_2",
    ),
    "a segment forgets a buffer": (
        "segments",
        drop("present_key_1", "segment"),
        "segment_1.onnx: does not make present_key_1",
    ),
    "a prefill without visual rows forgets one": (
        "segments",
        drop("present_key_1", "exited"),
        "exited_1.onnx: does not make present_key_1",
    ),
    "a step forgets its row": ("plain", drop("present_key_0", "decode"), "does not make"),
    "a step forgets its row of a ring": ("kivi", drop("present_ring_key_1", "decode"), "does not"),
    "a step forgets the row that leaves": ("think", drop("present_key_0", "decode"), "does not"),
    "a chunk forgets its rows": (
        "plain",
        drop("present_value_0", "extend"),
        "extend.onnx: does not",
    ),
    "a step writes what it never reads": ("plain", drop("past_key_0", "decode"), "no buffer that"),
    "decode of one rung reads less": (
        "plain",
        lambda tree: tree["stages"].append(
            tree["stages"][1]
            | {"file": "onnx/ort/d.onnx", "inputs": tree["stages"][1]["inputs"][1:]}
        ),
        "d.onnx: past_key_0 is read by other graphs of decode",
    ),
    "the tower reads the cache": (
        "plain",
        also(add_stage("tower"), add("tower", "inputs", "past_key_0", ROW)),
        "past_key_0 is read by tower, which has no cache",
    ),
    "the embedding writes the cache": (
        "plain",
        also(add_stage("embed"), add("embed", "outputs", "present_key_0", ROW)),
        "present_key_0 is made by embed",
    ),
    # Buffers of nothing.
    "a layer too many": ("plain", add_everywhere("past_key_2", ROW), "none of 2 layers"),
    "a layer in other digits": ("plain", add_everywhere("past_key_01", ROW), "none of 2 layers"),
    "no layer": ("plain", add_everywhere("past_key", ROW), "none of 2 layers"),
    "many digits": ("plain", add_everywhere("past_key_" + "9" * 99, ROW), "none of 2 layers"),
    "a layer without keys": (
        "plain",
        also(drop("past_key_1"), drop("present_key_1")),
        "layer 1 have 0 rows",
    ),
    # Packing.
    "groups of fewer rows": ("kivi", resize("flushed_key_0", 2, 31, "flush"), "files 31 rows"),
    "groups of more rows": ("kivi", resize("flushed_key_0", 2, 33, "flush"), "files 33 rows"),
    "ranges of more groups": ("kivi", resize("flushed_key_least_0", 2, 2, "flush"), "exceed 2"),
    "ranges of fewer rows": (
        "kivi",
        resize("flushed_key_step_1", 2, 0, "flush"),
        "key_step_1",
    ),
    "a group of another type": ("kivi", retype("flushed_key_0", "uint8", "flush"), "uint8"),
    "a group of another width": ("kivi", resize("flushed_key_0", 3, 5, "flush"), "flushed_key_0"),
    "a group without ranges": (
        "kivi",
        drop("flushed_key_step_0", "flush"),
        "does not make present_key_step_0",
    ),
    "values that nobody files": (
        "kivi",
        drop("present_value_1", "decode"),
        "does not make present_value_1",
    ),
    "a part of the values filed": (
        "kivi",
        add("flush", "outputs", "flushed_value_0", [1, 3, 5, 4], "int8"),
        "files 5 rows of value 0",
    ),
    "a group of a layer missing": ("kivi", drop("flushed_key_1", "flush"), "files 0 rows of key 1"),
    "a group of no buffer": (
        "kivi",
        add("flush", "outputs", "flushed_more_0", [1, 3, 32, 4]),
        "flushed_more_0 is no buffer",
    ),
    "counts as a group": (
        "zipcache",
        add("flush", "outputs", "flushed_filled_0", [2], "int32"),
        "past_filled_0 has no rows",
    ),
    "tiers that lose rows": ("zipcache", resize("flushed_low_key_0", 2, 11, "flush"), "files 31"),
    "tiers that make up rows": ("zipcache", resize("flushed_high_value_0", 2, 21, "flush"), "33"),
    "ranges of a tier missing": (
        "zipcache",
        drop("flushed_high_value_step_1", "flush"),
        "flushed_high_value_step_1 has 0 rows, not 20",
    ),
    "counts missing": (
        "zipcache",
        also(drop("past_filled_0"), drop("present_filled_0")),
        "past_filled_0 is missing, or not int32 [2]",
    ),
    "counts of three": ("zipcache", resize("past_filled_1", 0, 3), "past_filled_1 is missing, or"),
    "counts in float": (
        "zipcache",
        also(
            *(
                retype(f"{side}_filled_0", "float32", stage)
                for side in ("past", "present")
                for stage in ("prefill", "decode")
            )
        ),
        "past_filled_0 is missing, or not int32 [2]",
    ),
    "groups filed as tiers": ("kivi", kv(filing="tiers"), "past_filled_0 is missing"),
    "tiers filed as groups": ("zipcache", kv(filing="groups"), "key buffers of layer 0 have 32"),
    "groups that nobody files": ("kivi", kv(filing="none"), "96 rows, and $.kv.slots is 70"),
    "a step that packs": (
        "kivi",
        add("decode", "outputs", "flushed_key_0", [1, 3, 32, 4], "int8"),
        "flushed_key_0 is made by decode",
    ),
    "a flush into the ring": (
        "kivi",
        add("flush", "outputs", "flushed_ring_key_0", [1, 3, 32, 16]),
        "flushed_ring_key_0 is nothing that is filed as groups",
    ),
    "a flush into no tier": (
        "zipcache",
        add("flush", "outputs", "flushed_ring_score_0", [1, 3, 13]),
        "flushed_ring_score_0 is nothing that is filed as tiers",
    ),
    "ranges of the prompt filed": (
        "zipcache",
        add("flush", "outputs", "flushed_high_key_least_0", [1, 3, 1, 16]),
        "flushed_high_key_least_0 has 1 rows, not 20",
    ),
    "a flush that answers": (
        "kivi",
        add("flush", "outputs", "logits", [1, 7]),
        "logits is nothing that flush makes",
    ),
    # Compaction.
    "compaction that answers": (
        "policy",
        add("compact", "outputs", "logits", [1, 7]),
        "logits is nothing that compact makes",
    ),
    "more rows stay than keep": ("policy", resize("kept_key", 2, 61, "compact"), "$.kv.keep is"),
    "another keep": ("policy", kv(keep=[60, 41]), "40 rows, and $.kv.keep is 41"),
    "keep of nothing": ("policy", kv(keep=[]), "kept_key has 60 rows, and $.kv.keep is 0"),
    "state that does not stay": (
        "policy",
        drop("kept_state", "compact"),
        "does not make kept_state",
    ),
    "scales that do not stay": ("policy", drop("kept_key_scale", "compact"), "not make kept_"),
    "what stays in another type": ("policy", retype("kept_key", "uint8", "compact"), "kept_key"),
    "what stays of no buffer": (
        "policy",
        add("compact", "outputs", "kept_more", [1, 3, 60, 1]),
        "kept_more is no buffer",
    ),
    "compaction of no layer": (
        "policy",
        lambda tree: tree["stages"][-1].update(layer=7),
        "kept_key is no buffer",
    ),
    # Memories.
    "a memory that is rewound": ("convolutions", kv(reuse="rewind"), "a convolution remembers"),
    "a memory of rows that leave": (
        "convolutions",
        lambda tree: tree["prefill"].update(method="fastv", ratio=0.5),
        "a convolution remembers",
    ),
}


@pytest.mark.parametrize("name", ALL)
def test_what_exporters_write_is_admitted(tiny, schemes, name: str) -> None:
    tree = tree_of(tiny, schemes, name)
    require(tree)
    assert set(schemes.SCHEMES) == set(ALL)


@pytest.mark.parametrize("name", ATTACKS)
def test_buffers_that_do_not_fit_are_refused(tiny, schemes, name: str) -> None:
    scheme, edit, words = ATTACKS[name]
    tree = tree_of(tiny, schemes, scheme)
    before = msgspec.json.encode(tree)
    edit(tree)
    assert msgspec.json.encode(tree) != before  # the edit found what it attacks
    with pytest.raises(BundleError) as caught:
        require(tree)
    message = str(caught.value)
    assert words in message
    assert message.isprintable() and len(message) < 2000


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_no_graph_may_differ_in_one_tensor(tiny, schemes, data) -> None:
    """Whatever is changed of one tensor of one graph, another graph or the manifest speaks up."""
    tree = tree_of(tiny, schemes, data.draw(st.sampled_from(ALL)))
    stage = data.draw(st.sampled_from(tree["stages"]))
    side = data.draw(st.sampled_from([s for s in ("inputs", "outputs") if stage[s]]))
    tensor = data.draw(st.sampled_from(stage[side]))
    kinds = ["dtype", "size", "rank"]
    if side == "outputs" or stage["stage"] == "decode":
        kinds.append("drop")  # a graph that reads less than it may harms nobody
    match data.draw(st.sampled_from(kinds)):
        case "dtype":
            others = {"float32", "float16", "int8", "uint8", "int32"} - {tensor["dtype"]}
            tensor["dtype"] = data.draw(st.sampled_from(sorted(others)))
        case "size":
            axis = data.draw(st.sampled_from(range(len(tensor["shape"]))))
            sizes = st.integers(0, 100) | st.integers(0, 2**33)
            tensor["shape"][axis] = data.draw(sizes.filter(lambda n: n != tensor["shape"][axis]))
        case "rank":
            tensor["shape"] = data.draw(
                st.sampled_from([tensor["shape"][:-1], [*tensor["shape"], 1]])
            )
        case _:
            stage[side].remove(tensor)
    with pytest.raises(BundleError):
        require(tree)


NAMES = st.from_regex(
    r"(past|present|flushed|kept)_(key|high_key|ring_key|filled)?_?[0-9]{0,3}", fullmatch=True
)
TENSORS = st.fixed_dictionaries(
    {
        "name": NAMES,
        "dtype": st.sampled_from(["float32", "int8", "uint8", "int32"]),
        "shape": st.lists(st.integers(0, 4) | st.integers(0, 2**33), max_size=5),
    }
)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_buffers_are_admitted_or_a_bundle_error(tiny, schemes, data) -> None:
    tree = tree_of(tiny, schemes, data.draw(st.sampled_from(ALL)))
    for _ in range(data.draw(st.integers(1, 4))):
        stage = data.draw(st.sampled_from(tree["stages"]))
        tensors = stage[data.draw(st.sampled_from(["inputs", "outputs"]))]
        if tensors and data.draw(st.booleans()):
            tensors.remove(data.draw(st.sampled_from(tensors)))
        tensors.append(data.draw(TENSORS))
    numbers = st.integers(1, 200)
    tree["kv"] |= data.draw(
        st.fixed_dictionaries(
            {},
            optional={
                "ring": numbers,
                "slots": st.lists(numbers, min_size=2, max_size=2),
                "filing": st.sampled_from(["none", "groups", "tiers"]),
                "keep": st.lists(numbers, max_size=3),
                "head_dim": numbers,
            },
        )
    )
    try:
        require(tree)
    except BundleError as error:
        assert str(error).isprintable()


def test_huge_buffers_are_refused_before_anything_is_allocated(
    tiny, schemes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All graphs agree on them, so only their size can speak."""
    tree = tree_of(tiny, schemes, "convolutions")
    for name in ("past_convolution_1", "present_convolution_1"):
        for tensor in find(tree, name):
            tensor["shape"] = [2**33] * 8
    manifest = msgspec.convert(tree, Manifest)
    require_buffers(manifest, "ort")
    assert list_buffers(manifest, "ort")["past_convolution_1"].bytes == 4 * 2**264
    assert cache_bytes(manifest) > 2**264
    monkeypatch.setattr(machine, "available_bytes", lambda: 2**50)
    rungs = (Rung(r.budget, r.prompt_tokens, r.cache_slots) for r in manifest.ladder)
    with pytest.raises(ResourceError, match="needs at least"):
        require_memory(manifest, Ladder(tuple(rungs)), "ort")
