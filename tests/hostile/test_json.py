"""Manifests that are malformed as text, each named for what is wrong."""

import json
import time

import pytest

from edgetok import limits
from edgetok.bundle.parse import parse_manifest
from edgetok.errors import BundleError

# Name -> (bytes, or a replacement in the good manifest's text; what the message says).
MALFORMED = {
    "empty": (b"", "not valid JSON"),
    "garbage": (b"\x89PNG\r\n\x1a\n", "not UTF-8 at byte 0"),
    "binary zeros": (bytes(100), "not valid JSON"),
    "array": (b"[]", "Expected `object`"),
    "null": (b"null", "Expected `object`"),
    "two values": (b"{} {}", "not valid JSON"),
    "byte order mark": (b"\xef\xbb\xbf{}", "not valid JSON"),
    "UTF-16": ("{}".encode("utf-16"), "not UTF-8"),
    "2 MiB": (b" " * (2 << 20), "2097152 bytes, more than the limit of 1048576"),
    "200k nested arrays": (b"[" * 200_000, "nested more than 16 levels deep at byte 16"),
    "200k nested objects": (b'{"a":' * 200_000, "nested more than 16"),
    "a million escaped quotes": (b'["' + b'\\"' * 500_000, "not valid JSON"),
    "a million digits": (b'{"format_version": ' + b"9" * 1_000_000 + b"}", "out of range"),
    "missing version": (b"{}", "missing required field `format_version`"),
    "version as text": (('"format_version": 1', '"format_version": "1"'), r"\$\.format_version"),
    "version 0": (('"format_version": 1', '"format_version": 0'), r"\$\.format_version"),
    "version true": (('"format_version": 1', '"format_version": true'), r"\$\.format_version"),
    "version 1.0": (('"format_version": 1', '"format_version": 1.0'), r"\$\.format_version"),
    "duplicate key": (('"seed": 7', '"seed": 7, "seed": 8'), r"duplicate key at `\$\.seed`"),
    "duplicate key below": (
        ('"kv_heads": 1', '"kv_heads": 1, "kv_heads": 900'),
        r"duplicate key at `\$\.kv\.kv_heads`",
    ),
    "duplicate key in a list": (
        ('"budget": 4', '"budget": 2, "budget": 4'),
        r"duplicate key at `\$\.ladder\[1\]\.budget`",
    ),
    "duplicate key by escape": (('"seed": 7', '"seed": 7, "s\\u0065ed": 8'), "duplicate key"),
    "NaN": (('"seed": 7', '"seed": NaN'), "NaN is no JSON number"),
    "Infinity": (('"seed": 7', '"seed": Infinity'), "Infinity is no JSON number"),
    "-Infinity": (('"seed": 7', '"seed": -Infinity'), "-Infinity is no JSON number"),
    "1e999": (('"seed": 7', '"seed": 1e999'), r"\$\.seed"),
    "lone surrogate": (('"producer": "', '"producer": "\\ud800'), "manifest.json"),
    "unknown field": (('"seed": 7', '"seed": 7, "plugin": "x.so"'), "unknown field `plugin`"),
    "unknown field below": (('"kv_heads": 1', '"kv_heads": 1, "x": 1'), r"`x` - at `\$\.kv`"),
    "bool for int": (('"seed": 7', '"seed": true'), r"got `bool` - at `\$\.seed`"),
    "float for int": (('"seed": 7', '"seed": 7.0'), r"got `float` - at `\$\.seed`"),
    "text for int": (('"seed": 7', '"seed": "7"'), r"got `str` - at `\$\.seed`"),
    "negative seed": (('"seed": 7', '"seed": -7'), r"\$\.seed"),
    "zero budget": (('"budget": 2', '"budget": 0'), r"\$\.ladder\[0\]\.budget"),
    "negative budget": (('"budget": 2', '"budget": -2'), r"\$\.ladder\[0\]\.budget"),
    "huge budget": (('"budget": 4', '"budget": 4000000'), "exceeds the 4 full tokens"),
    "2^63 budget": (('"budget": 4', '"budget": 9223372036854775808'), r"\$\.ladder\[1\]\.budget"),
    "unknown dtype": (('"dtype": "int64"', '"dtype": "string"'), r"dtype"),
    "unknown stage": (('"stage": "embed"', '"stage": "shell"'), r"\.stage`"),
    "short hash": (('"sha256": "', '"sha256": "0'), "sha256"),
    "method with a path": (('"method": "random"', '"method": "../random"'), r"\$\.method"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_manifest(tiny, name):
    content, message = MALFORMED[name]
    if isinstance(content, tuple):
        good = tiny.good_manifest().decode()
        assert content[0] in good
        content = good.replace(*content, 1).encode()
    start = time.monotonic()
    with pytest.raises(BundleError, match=message) as caught:
        parse_manifest(content)
    assert time.monotonic() - start < 1
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


def test_newer_manifest_says_who_wrote_it_and_what_to_do(tiny):
    tree = json.loads(tiny.good_manifest()) | {
        "format_version": 2,
        "producer": "edgetok 9.0",
        "new": 1,
    }
    with pytest.raises(
        BundleError,
        match=r"written by edgetok 9\.0 in format 2; this edgetok reads up to 1; upgrade edgetok",
    ):
        parse_manifest(json.dumps(tree).encode())


def test_message_of_a_newer_manifest_is_bounded():
    hostile = {"format_version": 10**9, "producer": "\x1b[31m" + "x" * 100_000}
    with pytest.raises(BundleError) as caught:
        parse_manifest(json.dumps(hostile).encode())
    assert len(str(caught.value)) < 300
    assert "\x1b" not in str(caught.value)


def test_nesting_at_the_limit_is_no_problem_of_depth():
    with pytest.raises(BundleError, match="Expected `object`"):
        parse_manifest(b"[" * limits.MANIFEST_DEPTH + b"]" * limits.MANIFEST_DEPTH)


def test_brackets_inside_text_are_not_nesting(tiny):
    data = tiny.good_manifest().replace(b'"edgetok 0.1.0"', b'"' + b"[" * 100 + b'\\""')
    assert parse_manifest(data).producer == "[" * 100 + '"'
