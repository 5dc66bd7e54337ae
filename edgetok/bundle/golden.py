"""Golden cases: a few inputs with the outputs that the exporter saw, to verify on the target.

`golden/cases.json` lists the cases, `golden/tensors.npz` holds their arrays. The archive is stored
uncompressed with fixed dates, so that equal arrays give equal bytes everywhere and a small file
cannot unpack into a large one.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from edgetok import limits
from edgetok.bundle.manifest import Manifest, Name, Path
from edgetok.bundle.reader import Bundle
from edgetok.bundle.strict import Struct, decode_strict, encode_strict, shorten
from edgetok.errors import BundleError

CASES_FILE = "golden/cases.json"
TENSORS_FILE = "golden/tensors.npz"
IMAGE_PLACEHOLDER = -1  # in `text_ids`, where the visual tokens go

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]

_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can say


class Case(Struct, frozen=True):
    """One line of `golden/cases.json`; `tensors` is the prefix of its arrays.

    `more` are the images of a prompt after the first one.
    """

    image: Path
    prompt: Annotated[str, msgspec.Meta(max_length=8192)]
    tensors: Name
    more: Annotated[list[Path], msgspec.Meta(max_length=limits.PICTURES)] = msgspec.field(
        default_factory=list
    )


@dataclass(frozen=True, slots=True, eq=False)
class GoldenRung:
    """What one rung made of a case.

    Attributes:
        kept: [K], the source index of each visual token.
        logits: [W], of the first answer token.
        answer_ids: the greedy answer.
    """

    kept: Int64
    logits: Float32
    answer_ids: Int64


@dataclass(frozen=True, slots=True, eq=False)
class GoldenCase:
    """An image and a prompt, as files, as tensors, and what each rung answered.

    Attributes:
        name: prefix of the arrays in the archive.
        image: path of the image inside the bundle.
        pixels: [3 P, height, width], normalised, one image of the tower after another.
        text_ids: prompt tokens, with `IMAGE_PLACEHOLDER` for the image.
        rungs: by budget.
        more: paths of the images after the first one.
    """

    name: str
    image: str
    prompt: str
    pixels: Float32
    text_ids: Int64
    rungs: Mapping[int, GoldenRung]
    more: tuple[str, ...] = ()

    @property
    def images(self) -> tuple[str, ...]:
        """Paths of all images of the prompt."""
        return (self.image, *self.more)


def encode_golden(cases: Iterable[GoldenCase]) -> dict[str, bytes]:
    """The golden files of a bundle, to be written beside the images that the cases name."""
    cases = list(cases)
    lines = [
        Case(image=case.image, prompt=case.prompt, tensors=case.name, more=list(case.more))
        for case in cases
    ]
    arrays: dict[str, Array] = {}
    for case in cases:
        arrays[f"{case.name}/pixels"] = case.pixels.astype("<f4")
        arrays[f"{case.name}/text_ids"] = case.text_ids.astype("<i8")
        for budget, rung in case.rungs.items():
            arrays[f"{case.name}/{budget}/kept"] = rung.kept.astype("<i8")
            arrays[f"{case.name}/{budget}/logits"] = rung.logits.astype("<f4")
            arrays[f"{case.name}/{budget}/answer_ids"] = rung.answer_ids.astype("<i8")
    return {CASES_FILE: encode_strict(lines), TENSORS_FILE: encode_npz(arrays)}


def load_golden(bundle: Bundle) -> tuple[GoldenCase, ...]:
    """The golden cases of a bundle, complete for every rung.

    Raises:
        BundleError: if they are missing or malformed, or do not fit the manifest.
    """
    data = bundle.read(CASES_FILE)
    lines = decode_strict(data, list[Case], CASES_FILE, limits.PROCESSOR_BYTES)
    if not 1 <= len(lines) <= limits.GOLDEN_CASES:
        raise BundleError(f"{CASES_FILE}: {len(lines)} cases; 1 to {limits.GOLDEN_CASES} are fit")
    if len({line.tensors for line in lines}) != len(lines):
        raise BundleError(f"{CASES_FILE}: two cases share the same tensors")
    for line in lines:
        for image in (line.image, *line.more):
            if image not in bundle.manifest.files:
                raise BundleError(f"{CASES_FILE}: image `{shorten(image)}` is not in the bundle")
    arrays = decode_npz(bundle.read(TENSORS_FILE))
    cases = tuple(_case(line, arrays, bundle.manifest) for line in lines)
    if arrays:
        raise BundleError(f"{TENSORS_FILE}: `{shorten(min(arrays))}` belongs to no case and rung")
    return cases


def _case(line: Case, arrays: dict[str, Array], manifest: Manifest) -> GoldenCase:
    """Take the arrays of one case out of `arrays`."""
    name, vision, width = line.tensors, manifest.vision, manifest.text.vocabulary
    if 1 + len(line.more) != vision.pictures:
        raise BundleError(
            f"{CASES_FILE}: case `{name}` has {1 + len(line.more)} pictures, not {vision.pictures}"
        )
    shape = (3 * vision.parts * vision.pictures, vision.height_px, vision.width_px)
    pixels = take_array(arrays, f"{name}/pixels", "<f4", shape)
    text_ids = take_array(arrays, f"{name}/text_ids", "<i8", (None,))
    rungs = {}
    for budget in (rung.budget for rung in manifest.ladder):
        rungs[budget] = GoldenRung(
            kept=take_array(arrays, f"{name}/{budget}/kept", "<i8", (budget,)),
            logits=take_array(arrays, f"{name}/{budget}/logits", "<f4", (width,)),
            answer_ids=take_array(arrays, f"{name}/{budget}/answer_ids", "<i8", (None,)),
        )
    return GoldenCase(name, line.image, line.prompt, pixels, text_ids, rungs, tuple(line.more))


def take_array(
    arrays: dict[str, Array], key: str, dtype: str, shape: tuple[int | None, ...]
) -> Array:
    """Take an array of this type and shape out of `arrays`; raises BundleError if there is none."""
    if key not in arrays:
        raise BundleError(f"{TENSORS_FILE}: `{key}` is missing")
    array = arrays.pop(key)
    fits = len(array.shape) == len(shape) and all(
        wanted in (None, actual) for wanted, actual in zip(shape, array.shape, strict=True)
    )
    if array.dtype != np.dtype(dtype) or not fits:
        raise BundleError(
            f"{TENSORS_FILE}: `{key}` is {array.dtype} {array.shape}, not {dtype} {shape}"
        )
    return array


def encode_npz(arrays: Mapping[str, Array]) -> bytes:
    """An archive of arrays: equal bytes for equal arrays."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for key in sorted(arrays):
            member = io.BytesIO()
            np.lib.format.write_array(
                member, np.ascontiguousarray(arrays[key]), version=(1, 0), allow_pickle=False
            )
            entry = zipfile.ZipInfo(f"{key}.npy", _DATE)
            entry.create_system = 3  # Unix, on whatever system this runs
            archive.writestr(entry, member.getvalue())
    return packed.getvalue()


def decode_npz(data: bytes) -> dict[str, Array]:
    """The arrays of an archive; raises BundleError for anything malformed or too large."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            _require_stored(entries)
            return {e.filename.removesuffix(".npy"): _decode_npy(archive.read(e)) for e in entries}
    except (zipfile.BadZipFile, ValueError, NotImplementedError, RuntimeError, EOFError) as error:
        raise BundleError(f"{TENSORS_FILE}: {shorten(str(error), 200)}") from error


def _require_stored(entries: list[zipfile.ZipInfo]) -> None:
    """Bound what reading the archive takes, before anything of it is read."""
    total_bytes = sum(entry.file_size for entry in entries)
    if total_bytes > limits.GOLDEN_BYTES:
        raise BundleError(
            f"{TENSORS_FILE}: unpacks to {total_bytes} bytes, more than {limits.GOLDEN_BYTES}"
        )
    names = {entry.filename for entry in entries}
    if len(names) != len(entries):
        raise BundleError(f"{TENSORS_FILE}: two entries have the same name")
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED:
            raise BundleError(f"{TENSORS_FILE}: `{shorten(entry.filename)}` is compressed")


def _decode_npy(data: bytes) -> Array:
    """An array from the bytes of a `.npy`; numpy's own reader allocates what the header claims.

    Raises:
        ValueError: if the header is malformed, the type no plain number, or the size wrong.
    """
    stream = io.BytesIO(data)
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("array format is not 1.0")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
    body = data[stream.tell() :]
    if fortran_order or dtype.hasobject or dtype.kind not in "fiub" or min(shape, default=0) < 0:
        raise ValueError(f"array of type {dtype} and shape {shape} is not one of the format's")
    if math.prod(shape) * dtype.itemsize != len(body):
        raise ValueError(f"array of shape {shape} and type {dtype} does not have {len(body)} bytes")
    return np.frombuffer(body, dtype).reshape(shape)
