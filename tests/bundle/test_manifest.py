"""The manifest: one way in, one way out, and nothing but a BundleError in between."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgetok import limits
from edgetok.bundle.manifest import Manifest, encode_manifest, list_shorter
from edgetok.bundle.parse import parse_manifest
from edgetok.bundle.processor import parse_image_plan, parse_prompt_plan
from edgetok.bundle.strict import decode_strict, encode_strict
from edgetok.errors import BundleError


def test_round_trip_is_exact_and_deterministic(tiny):
    data = tiny.good_manifest()
    manifest = parse_manifest(data)
    assert encode_manifest(manifest) == data
    assert data.endswith(b"}\n")
    shuffled = json.dumps(dict(reversed(json.loads(data).items()))).encode()
    assert encode_manifest(parse_manifest(shuffled)) == data


def test_manifest_is_immutable(tiny):
    manifest = parse_manifest(tiny.good_manifest())
    with pytest.raises(AttributeError):
        manifest.seed = 1


# Name of the problem -> (edit of the good manifest, what the message says).
CONTRADICTIONS = {
    "descending ladder": (lambda m: m["ladder"].reverse(), r"\$\.ladder: .*ascending"),
    "repeated rung": (lambda m: m["ladder"].append(m["ladder"][-1]), "ascending and unique"),
    "budget above all tokens": (lambda m: m["vision"].update(full_tokens=3), "exceeds the 3 full"),
    "grid that is not all tokens": (lambda m: m["vision"].update(grid=[2, 3]), "2 x 3 is not"),
    "rung beyond the cache": (
        lambda m: m["kv"].update(slots=[8]),
        r"\$\.ladder\[1\]\.cache_slots 9",
    ),
    "no room for an answer": (lambda m: m["ladder"][0].update(cache_slots=5), "no room"),
    "absurd cache": (lambda m: m["kv"].update(slots=[2**40]), r"\$\.kv\.slots"),
    "a cause in place of what a cache is": (
        lambda m: m["kv"].update(convolutions=2),
        "unknown field `convolutions`",
    ),
    "rows taken back from a cache that gives them up": (
        lambda m: (m["kv"].update(reuse="rewind"), m["prefill"].update(method="fastv")),
        "do not come back",
    ),
    "reuse of its own": (lambda m: m["kv"].update(reuse="some"), r"\$\.kv\.reuse"),
    "filing of its own": (lambda m: m["kv"].update(filing="some"), r"\$\.kv\.filing"),
    "filing without a ring": (
        lambda m: m["kv"].update(filing="tiers"),
        r"filing tiers goes with a ring, and \$\.kv\.ring is 0",
    ),
    "a ring longer than the cache": (
        lambda m: m["kv"].update(ring=10, filing="groups"),
        r"\$\.kv\.ring 10 exceeds \$\.kv\.slots 9",
    ),
    "absurd image": (lambda m: m["vision"].update(width_px=2**40), "image side"),
    "stop id outside the vocabulary": (lambda m: m["text"].update(stop_ids=[7]), "vocabulary"),
    "unlisted graph": (lambda m: m["files"].pop("onnx/ort/tower.onnx"), "tower.onnx` is not list"),
    "unlisted tokenizer": (lambda m: m["files"].pop("processor/tokenizer.json"), "not list proc"),
    "manifest lists itself": (lambda m: m["files"].update(_file("manifest.json")), "own hash"),
    "path upwards": (lambda m: m["files"].update(_file("../x")), "plain relative path"),
    "absolute path": (lambda m: m["files"].update(_file("/x")), "plain relative path"),
    "too many bytes": (lambda m: m["files"].update(_file("x", 2**53)), "bytes together"),
    "too many files": (
        lambda m: [m["files"].update(_file(f"f{i}")) for i in range(limits.BUNDLE_FILES)],
        "4111 files, more than 4096",
    ),
    "stage missing": (lambda m: m["stages"].pop(0), "rung 2 has 0 ort graphs of tower"),
    "stage twice": (lambda m: m["stages"].append(m["stages"][0]), "has 2 ort graphs of tower"),
    "stage shared and own": (
        lambda m: m["stages"].append(m["stages"][0] | {"budget": 4}),
        "rung 4 has 2 ort graphs of tower",
    ),
    "rung without prefill": (
        lambda m: m["stages"].remove(next(s for s in m["stages"] if s["stage"] == "prefill")),
        "rung 2 has 0 ort graphs of prefill",
    ),
    "stage of no rung": (
        lambda m: m["stages"].append(m["stages"][-1] | {"budget": 3}),
        "serves rung 3",
    ),
    "prompts of one length": (
        lambda m: _set_lengths(m, 5, 5),
        r"take at most \[5, 5\] rows, not each",
    ),
    "no prompt as long as the rung's": (
        lambda m: _set_lengths(m, 3, 4),
        "2 ort graphs of prefill of rung 2: the longest has 4 rows, not 2 visual and 3 prompt",
    ),
    "a prompt that is longer": (lambda m: _set_lengths(m, 5, 6), "the longest has 6 rows, not 2"),
    "a prompt without text": (lambda m: _set_lengths(m, 2, 5), "2 rows hold no text beside 2 vis"),
    "a prompt of no rows": (lambda m: _set_lengths(m, 0, 5), "0 rows hold no text beside 2 visual"),
    "prompts that read other inputs": (
        lambda m: _set_lengths(m, 4, 5)[0]["inputs"].append(
            {"name": "visual_start", "dtype": "int64", "shape": [1]}
        ),
        "2 ort graphs of prefill of rung 2 read other inputs",
    ),
    "too many prompts": (
        lambda m: (m["ladder"][0].update(prompt_tokens=10), _set_lengths(m, *range(4, 13))),
        "9 ort graphs of prefill of rung 2, more than 8",
    ),
    "a prompt in segments of several lengths": (
        lambda m: (_set_lengths(m, 4, 5), m["prefill"].update(method="fastv", exits=[1])),
        "a prefill in segments has one length",
    ),
    "chunks of one length": (
        lambda m: m["stages"].append(next(s for s in m["stages"] if s["stage"] == "extend")),
        r"2 ort graphs of extend of rung 2 take at most \[0, 0\] rows",
    ),
    "portable stage of one rung alone": (
        lambda m: m["stages"].append(m["stages"][0] | {"flavour": "portable", "budget": 4}),
        "rung 2 has 0 portable graphs of tower",
    ),
    "portable stages alone": (
        lambda m: [stage.update(flavour="portable") for stage in m["stages"]],
        "rung 2 has 0 ort graphs of tower",
    ),
    "a policy that is no name": (lambda m: m["kv"].update(policy="h2o\n"), r"\$\.kv\.policy"),
    "layers that nobody empties": (
        lambda m: (
            m["kv"].update(policy="mustdrop", keep=[1] * m["kv"]["layers"]),
            m["prefill"].update(method="mustdrop", ratio=0.75),
        ),
        r"ort graphs of compact empty layers \[\], not each one once",
    ),
    "layers that keep more than they hold": (
        lambda m: m["kv"].update(keep=[9]),
        r"\$\.kv\.keep \[9\] frees no row",
    ),
    "more layers that keep than there are": (
        lambda m: m["kv"].update(keep=[1, 1]),
        r"\$\.kv\.keep has 2 entries for 1 layers",
    ),
    "exits without graphs": (
        lambda m: m["prefill"].update(method="dyvte-signal", ratio=0.1, exits=[1]),
        r"ort graphs of segment and exited do not fit exits \[1\]",
    ),
    "exits beyond the last layer": (
        lambda m: m["prefill"].update(method="dyvte-signal", ratio=0.1, exits=[1, 1000]),
        r"prefill.exits \[1, 1000\] are not ascending layers below \d",
    ),
    "exits of no method": (
        lambda m: m["prefill"].update(exits=[1]),
        r"prefill.exits \[1\] go with a method, and with a cache that keeps every row",
    ),
    "segment without an exit": (
        lambda m: m["stages"].append(m["stages"][-1] | {"stage": "segment", "layer": 1}),
        r"ort graphs of segment and exited do not fit exits \[\]",
    ),
    "a weight that nothing unpacks": (
        lambda m: _read_unpacked(m),
        "no ort graph of unpack makes unpacked_weight_0 as it is read",
    ),
    "a weight of another shape": (
        lambda m: (_read_unpacked(m), _unpack(m, shape=[4, 5])),
        "no ort graph of unpack makes unpacked_weight_0 as it is read",
    ),
    "a weight of another flavour": (
        lambda m: (_read_unpacked(m), _unpack(m, flavour="portable")),
        "no ort graph of unpack makes unpacked_weight_0 as it is read",
    ),
    "weights unpacked twice": (
        lambda m: (_unpack(m), _unpack(m)),
        "ort has 2 graphs of unpack, not one without inputs",
    ),
    "unpacking that reads something": (
        lambda m: _unpack(m, inputs=[_weight(name="pixels")]),
        "ort has 1 graphs of unpack, not one without inputs",
    ),
    "something else unpacked": (
        lambda m: _unpack(m, name="past_key_0"),
        "unpack makes past_key_0 of int8, no int8 weight",
    ),
    "tensor twice": (
        lambda m: m["stages"][0]["inputs"].append(m["stages"][0]["inputs"][0]),
        "pixels is listed twice",
    ),
}


def _weight(**changes: Any) -> dict:
    return {"name": "unpacked_weight_0", "dtype": "int8", "shape": [4, 4]} | changes


def _read_unpacked(manifest: dict) -> None:
    prefill = next(stage for stage in manifest["stages"] if stage["stage"] == "prefill")
    prefill["inputs"].append(_weight())


def _unpack(manifest: dict, flavour: str = "ort", inputs: Sequence[dict] = (), **made: Any) -> None:
    of_all = {"stage": "unpack", "budget": None, "flavour": flavour, "inputs": list(inputs)}
    file = manifest["stages"][0]["file"]
    manifest["stages"].append(of_all | {"file": file, "outputs": [_weight(**made)]})


def _set_lengths(manifest: dict, *rows: int) -> list[dict]:
    """Prefill graphs of so many rows for the first rung, in place of its one."""
    stages = manifest["stages"]
    place = next(i for i, s in enumerate(stages) if s["stage"] == "prefill")
    made = []
    for count in rows:
        embeds = {"name": "input_embeds", "dtype": "float32", "shape": [1, count, 12]}
        made.append(stages[place] | {"inputs": [embeds]})
    stages[place : place + 1] = made
    return made


def _file(path: str, size_bytes: int = 0) -> dict:
    return {path: {"bytes": size_bytes, "sha256": "0" * 64}}


@pytest.mark.parametrize("rows", [(5,), (4, 5), (5, 3), (3, 4, 5)])
def test_a_rung_may_have_prompts_of_several_lengths(tiny, rows):
    tree = json.loads(tiny.good_manifest())
    _set_lengths(tree, *rows)
    manifest = parse_manifest(json.dumps(tree).encode())
    assert list_shorter(manifest) == {2: tuple(sorted(n - 2 for n in rows if n < 5)), 4: ()}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_contradictions_are_named(tiny, name):
    edit, message = CONTRADICTIONS[name]
    tree = json.loads(tiny.good_manifest())
    edit(tree)
    with pytest.raises(BundleError, match=message):
        parse_manifest(json.dumps(tree).encode())


def test_all_contradictions_are_listed_at_once(tiny):
    tree = json.loads(tiny.good_manifest())
    tree["ladder"].reverse()
    tree["vision"]["grid"] = [1, 1]
    tree["kv"]["slots"] = [1]
    with pytest.raises(BundleError) as caught:
        parse_manifest(json.dumps(tree).encode())
    assert all(part in str(caught.value) for part in ("ascending", "1 x 1", "slots 1"))


def test_a_stage_may_have_a_graph_per_rung_or_one_for_all(tiny):
    tree = json.loads(tiny.good_manifest())
    tower = tree["stages"].pop(0)
    tree["stages"] += [tower | {"budget": budget} for budget in tiny.BUDGETS]
    assert len(parse_manifest(json.dumps(tree).encode()).stages) == 9


def test_a_stage_may_have_a_portable_form_beside(tiny):
    tree = json.loads(tiny.good_manifest())
    tree["stages"].append(tree["stages"][0] | {"flavour": "portable"})
    flavours = [stage.flavour for stage in parse_manifest(json.dumps(tree).encode()).stages]
    assert flavours.count("portable") == 1


def test_every_truncation_is_refused(tiny):
    data = tiny.good_manifest().rstrip()
    for end in range(0, len(data), 7):
        with pytest.raises(BundleError):
            parse_manifest(data[:end])


def _mutated(data: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    for at, length, replacement in edits:
        at %= len(data) + 1
        data = data[:at] + replacement + data[at + length :]
    return data


TOKENS = st.sampled_from(
    [
        b"0",
        b",",
        b":",
        b"{",
        b"}",
        b"[",
        b"]",
        b"[" * 40,
        b'"budget":2,',
        b"9" * 30,
        b"",
        b"-1",
        b"1e9",
        b"NaN",
        b"true",
        b"null",
        b'"',
        b"\\",
        b"\\ud800",
        b"\xff",
        b"\0",
    ]
)
EDITS = st.lists(
    st.tuples(st.integers(0, 1 << 16), st.integers(0, 12), TOKENS | st.binary(max_size=4)),
    min_size=1,
    max_size=4,
)


@settings(max_examples=300, deadline=None)
@given(edits=EDITS)
def test_mutated_bytes_give_a_manifest_or_a_bundle_error(tiny, edits):
    try:
        manifest = parse_manifest(_mutated(tiny.good_manifest(), edits))
    except BundleError as error:
        assert str(error).isprintable()
        assert len(str(error)) < 4000
    else:
        assert isinstance(manifest, Manifest)
        assert parse_manifest(encode_manifest(manifest)) == manifest


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=4,
)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_mutated_values_give_a_manifest_or_a_bundle_error(tiny, data):
    """Walk to a random place of the tree and put something else there."""
    tree = node = json.loads(tiny.good_manifest())
    while True:
        key = data.draw(st.sampled_from(list(node) if isinstance(node, dict) else range(len(node))))
        if not isinstance(node[key], dict | list) or not node[key] or data.draw(st.booleans()):
            break
        node = node[key]
    node[key] = data.draw(VALUES)
    try:
        parse_manifest(json.dumps(tree).encode())
    except BundleError as error:
        assert str(error).startswith("manifest.json: ")


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=64))
def test_garbage_is_refused(data):
    with pytest.raises(BundleError):
        parse_manifest(data)


def test_strict_decoding_takes_any_type():
    assert decode_strict(b'[{"a": [1]}]', list[dict[str, list[int]]], "x.json", 100) == [{"a": [1]}]


def test_encoding_sorts_keys_at_every_level():
    text = encode_strict({"b": 1, "a": {"d": 1, "c": 2}})
    assert text == b'{\n "a": {\n  "c": 2,\n  "d": 1\n },\n "b": 1\n}\n'


def test_good_processor_files(tiny):
    assert parse_image_plan(encode_strict(tiny.IMAGE)).resize_px == [4, 4]
    plan = parse_prompt_plan(encode_strict(tiny.PROMPT_PLAN))
    assert [segment.slot for segment in plan.segments] == [None, "image", None, "user"]
    assert parse_prompt_plan(encode_strict(plan)) == plan


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resize_shortest_px": 4}, "both set"),
        ({"std": [1, 0, 1]}, "other than 0"),
        ({"rescale": 0}, "other than 0"),
        ({"crop_px": [4, 10**6]}, "crop_px .* exceeds"),
        ({"resize_px": [10**6, 4]}, "resize_px .* exceeds"),
        ({"resize_longest_px": 10**6}, "resize_longest_px .* exceeds"),
        ({"square_rgb": [0, 0, 256]}, r"\$\.square_rgb"),
        ({"tiles": {"grid": [2, 2], "fit": "cover"}}, r"\$\.tiles"),
        ({"tiles": {"grid": [2, 10**4], "fit": "pad"}}, "canvas of tiles .* exceeds"),
        ({"tiles": {"grid": [4000, 5000], "fit": "pad"}}, "more than .* pixels"),
        ({"tiles": {"grid": [2, 2], "fit": "pad"}, "resize_px": None}, "have no size"),
        ({"resample": "magic"}, r"\$\.resample"),
        ({"mean": [1, 2]}, r"\$\.mean"),
        ({"more": 1}, "unknown field `more`"),
    ],
)
def test_bad_image_plans(tiny, changes, message):
    with pytest.raises(BundleError, match=message):
        parse_image_plan(encode_strict(tiny.IMAGE | changes))


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([{"slot": "image"}], "0 of .* have slot 'user'"),
        ([{"slot": "image"}, {"slot": "user"}, {"slot": "image"}], "2 of .* have slot 'image'"),
        ([{"slot": "image"}, {"slot": "user"}, {}], r"segments\[2\] must set exactly one"),
        ([{"slot": "image", "text": "x"}, {"slot": "user"}], r"segments\[0\] must set exactly"),
        ([{"slot": "audio"}], r"segments\[0\]\.slot"),
        ([{"ids": [-1]}], r"segments\[0\]\.ids\[0\]"),
    ],
)
def test_bad_prompt_plans(segments, message):
    with pytest.raises(BundleError, match=message):
        parse_prompt_plan(encode_strict({"segments": segments, "forbidden_ids": []}))


def test_wide_and_deep_bundle_stays_below_the_size_limit(tiny):
    """The limit is against attacks, not against 64 rungs of a decoder of 30 layers."""
    tree = json.loads(tiny.good_manifest())
    prefill = next(stage for stage in tree["stages"] if stage["stage"] == "prefill")
    cache = {"name": "present_value_30", "dtype": "int8", "shape": [1, 16, 131072, 128]}
    tree["stages"] += [prefill | {"outputs": [cache] * 60}] * 64
    assert len(encode_strict(tree)) < limits.MANIFEST_BYTES
