"""Golden cases of encoders: images and a text, with what the exporter's graphs made of them.

Files are those of `golden`: `golden/cases.json` lists the cases, `golden/tensors.npz` their arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated

import msgspec

from edgetok import limits
from edgetok.bundle.encoders import EncoderManifest
from edgetok.bundle.golden import (
    CASES_FILE,
    TENSORS_FILE,
    Array,
    Float32,
    Int64,
    decode_npz,
    encode_npz,
    take_array,
)
from edgetok.bundle.manifest import Name, Path
from edgetok.bundle.reader import EncoderBundle
from edgetok.bundle.strict import Struct, decode_strict, encode_strict, shorten
from edgetok.errors import BundleError


class _Line(Struct, frozen=True):
    image: Path
    tensors: Name


class _Cases(Struct, frozen=True):
    """`golden/cases.json`; `text` is the one that `text/ids` and `text/embedding` are of."""

    pictures: list[_Line]
    text: Annotated[str, msgspec.Meta(max_length=8192)] | None


@dataclass(frozen=True, slots=True, eq=False)
class EncoderCase:
    """An image, its pixels [3, h, w], and the output of each rung without its first dimension."""

    name: str
    image: str
    pixels: Float32
    rungs: Mapping[int, Float32]


@dataclass(frozen=True, slots=True, eq=False)
class GoldenText:
    """A text, its ids [T] and its embedding [E]."""

    text: str
    ids: Int64
    embedding: Float32


def encode_encoder_golden(
    cases: Iterable[EncoderCase], text: GoldenText | None
) -> dict[str, bytes]:
    """The golden files of a bundle, to be written beside the images that the cases name."""
    cases, arrays = list(cases), dict[str, Array]()
    for case in cases:
        arrays[f"{case.name}/pixels"] = case.pixels.astype("<f4")
        for budget, made in case.rungs.items():
            arrays[f"{case.name}/{budget}/output"] = made.astype("<f4")
    if text is not None:
        arrays["text/ids"] = text.ids.astype("<i8")
        arrays["text/embedding"] = text.embedding.astype("<f4")
    lines = [_Line(image=case.image, tensors=case.name) for case in cases]
    listed = _Cases(pictures=lines, text=None if text is None else text.text)
    return {CASES_FILE: encode_strict(listed), TENSORS_FILE: encode_npz(arrays)}


def load_encoder_golden(bundle: EncoderBundle) -> tuple[tuple[EncoderCase, ...], GoldenText | None]:
    """The golden cases of a bundle, complete for every rung, and its golden text.

    Raises:
        BundleError: if they are missing or malformed, or do not fit the manifest.
    """
    manifest, data = bundle.manifest, bundle.read(CASES_FILE)
    listed = decode_strict(data, _Cases, CASES_FILE, limits.PROCESSOR_BYTES)
    if not 1 <= len(listed.pictures) <= limits.GOLDEN_CASES:
        raise BundleError(
            f"{CASES_FILE}: {len(listed.pictures)} cases; 1 to {limits.GOLDEN_CASES} are fit"
        )
    if (listed.text is None) != (manifest.text is None):
        raise BundleError(f"{CASES_FILE}: a text goes with bundles that compare texts, only")
    for line in listed.pictures:
        if line.image not in manifest.files:
            raise BundleError(f"{CASES_FILE}: image `{shorten(line.image)}` is not in the bundle")
    arrays = decode_npz(bundle.read(TENSORS_FILE))
    cases = tuple(_take_case(line, arrays, manifest) for line in listed.pictures)
    text = None if listed.text is None else _take_text(listed.text, arrays, manifest)
    if arrays:
        raise BundleError(f"{TENSORS_FILE}: `{shorten(min(arrays))}` belongs to no case and rung")
    return cases, text


def _take_case(line: _Line, arrays: dict[str, Array], manifest: EncoderManifest) -> EncoderCase:
    name, vision, made = line.tensors, manifest.vision, tuple(manifest.output.shape[1:])
    pixels = take_array(arrays, f"{name}/pixels", "<f4", (3, vision.height_px, vision.width_px))
    rungs = {
        rung.budget: take_array(arrays, f"{name}/{rung.budget}/output", "<f4", made)
        for rung in manifest.ladder
    }
    return EncoderCase(name, line.image, pixels, rungs)


def _take_text(text: str, arrays: dict[str, Array], manifest: EncoderManifest) -> GoldenText:
    assert manifest.text is not None  # noqa: S101  # as the caller has seen
    ids = take_array(arrays, "text/ids", "<i8", (manifest.text.tokens,))
    embedding = take_array(arrays, "text/embedding", "<f4", tuple(manifest.output.shape[1:]))
    return GoldenText(text, ids, embedding)
