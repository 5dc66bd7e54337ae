"""Images of all kinds: equal to Hugging Face where they are sound, refused where they are not."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import zlib
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgetok import limits
from edgetok.bundle.processor import ImagePlan, Tiles
from edgetok.errors import InputError
from edgetok.images.preprocess import center_crop, preprocess
from edgetok.images.reading import open_image

MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
PLAN = ImagePlan(
    resize_shortest_px=24,
    resize_px=None,
    resample="bicubic",
    crop_px=[24, 24],
    rescale=1 / 255,
    mean=MEAN,
    std=STD,
)


def picture(mode: str, width: int = 40, height: int = 30) -> Image.Image:
    rng = np.random.default_rng(0)
    if mode == "I;16":
        return Image.fromarray(rng.integers(0, 65536, (height, width), np.uint16))
    bands = {"RGB": 3, "RGBA": 4, "CMYK": 4, "LA": 2}.get(mode)
    shape = (height, width) if bands is None else (height, width, bands)
    pixels = rng.integers(0, 256, shape, np.uint8)
    if mode in ("1", "P"):
        return Image.fromarray(pixels).convert(mode)
    return Image.frombytes(mode, (width, height), pixels.tobytes())


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    target = io.BytesIO()
    image.save(target, kind, **options)
    return target.getvalue()


def hugging_face(image: Image.Image, plan: ImagePlan) -> np.ndarray:
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    resample = {"bilinear": 2, "bicubic": 3}[plan.resample]
    shortest, exact = plan.resize_shortest_px, plan.resize_px
    size = {"shortest_edge": shortest} if exact is None else {"height": exact[0], "width": exact[1]}
    crop = plan.crop_px or [1, 1]
    processor = CLIPImageProcessorPil(
        do_resize=shortest is not None or exact is not None,
        size=size if shortest or exact else {"shortest_edge": 1},
        resample=resample,
        do_center_crop=plan.crop_px is not None,
        crop_size={"height": crop[0], "width": crop[1]},
        do_convert_rgb=True,
        rescale_factor=plan.rescale,
        image_mean=plan.mean,
        image_std=plan.std,
    )
    return processor(image, return_tensors="np")["pixel_values"]


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "1", "CMYK"])
def test_equals_hugging_face_in_every_mode(mode: str) -> None:
    image = picture(mode)
    np.testing.assert_array_equal(preprocess(image, PLAN), hugging_face(image, PLAN))


@pytest.mark.parametrize(
    ("width", "height"), [(24, 24), (25, 24), (24, 31), (7, 100), (333, 251), (64, 65), (1, 1)]
)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"resample": "bilinear", "crop_px": [20, 17]},
        {"resize_shortest_px": None, "resize_px": [24, 30], "crop_px": None},
        {"resize_shortest_px": None, "crop_px": [33, 28]},
        {"resize_shortest_px": 20, "crop_px": [27, 24]},
        {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    ],
)
def test_equals_hugging_face_at_every_size(width: int, height: int, changes: dict) -> None:

    plan = msgspec.structs.replace(PLAN, **changes)
    image = picture("RGB", width, height)
    np.testing.assert_array_equal(preprocess(image, plan), hugging_face(image, plan))


def test_transparent_palette_entries_become_white() -> None:
    image = Image.new("P", (24, 24), 1)
    image.putpalette([0, 0, 0, 200, 10, 10])
    data = encoded(image, transparency=1)
    assert np.asarray(open_image(data)).min() == 255
    opened = Image.open(io.BytesIO(data))
    np.testing.assert_array_equal(preprocess(data, PLAN), hugging_face(opened, PLAN))


def test_all_ways_to_give_an_image_agree(tmp_path: Path) -> None:
    image = picture("RGB")
    data = encoded(image)
    (tmp_path / "scene.png").write_bytes(data)
    wanted = preprocess(image, PLAN)
    ways = [tmp_path / "scene.png", str(tmp_path / "scene.png"), data, np.asarray(image)]
    for way in ways:
        np.testing.assert_array_equal(preprocess(way, PLAN), wanted)


@pytest.mark.parametrize("kind", limits.IMAGE_FORMATS)
def test_every_accepted_format_is_read(kind: str) -> None:
    opened = open_image(encoded(picture("RGB"), kind))
    assert (opened.mode, opened.size) == ("RGB", (40, 30))


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "BMP", "PDF", "ICO"])
def test_other_formats_are_refused(kind: str) -> None:
    with pytest.raises(InputError, match="accepted are JPEG, PNG, WEBP"):
        open_image(encoded(picture("RGB"), kind))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = picture("RGB")
    opened = open_image(encoded(image, "PNG", exif=exif))
    turns = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a),
    }
    np.testing.assert_array_equal(np.asarray(opened), turns[orientation](np.asarray(image)))


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_grey_of_more_than_8_bits_is_refused(mode: str) -> None:
    """Hugging Face clips it to white; nobody means that."""
    image = picture("I;16") if mode == "I;16" else picture("L").convert(mode)
    with pytest.raises(
        InputError,
        match=r"^the image has grey levels of more than 8 bits \(mode .*save it with 8 bits$",
    ):
        open_image(encoded(image) if mode == "I;16" else image)


@pytest.mark.parametrize("kind", ["bytearray", "memoryview", "tensor", "dict", "number"])
def test_other_types_cannot_be_read(kind: str) -> None:
    import torch

    data = encoded(picture("RGB"))
    given = {
        "bytearray": bytearray(data),
        "memoryview": memoryview(data),
        "tensor": torch.zeros(40, 61, 3),
        "dict": {"image": data},
        "number": 3,
    }[kind]
    with pytest.raises(InputError, match=r"an image of type \w+ cannot be read; give a path"):
        open_image(given)  # type: ignore[arg-type]


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (9, 8), color) for color in ("red", "blue")]
    for kind in ("PNG", "WEBP"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert open_image(data).getpixel((4, 4)) == (255, 0, 0)


@pytest.mark.parametrize("kind", limits.IMAGE_FORMATS)
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_truncated_file_is_refused(kind: str, share: float) -> None:
    data = encoded(picture("RGB", 200, 150), kind)
    with pytest.raises(InputError, match=r"damaged|no image that can be read"):
        open_image(data[: int(share * len(data))])


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        checksum = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))


@pytest.mark.parametrize(
    ("width", "height", "message"),
    [
        (20_000, 10_000, r"200000000 pixels.*64000000"),
        (10_000, 10_000, r"10000x10000 = 100000000 pixels; at most 64000000"),
        (8_000, 8_001, r"64008000 pixels; at most 64000000"),
        (1, 1_000_000, r"1x1000000 pixels; a side may have at most 32768"),
        (1_000_000, 1, r"1000000x1 pixels; a side may have at most 32768"),
        (0, 5, "no image that can be read|no pixels"),
    ],
)
def test_huge_images_are_refused_by_their_header(
    width: int, height: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image.Image, "load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(InputError, match=message):
        open_image(png_header(width, height))


def test_a_thin_image_does_not_explode_when_resized() -> None:
    with pytest.raises(InputError, match="the resized image is 24x480000 pixels; a side"):
        preprocess(Image.new("RGB", (1, 20_000)), PLAN)


@pytest.mark.parametrize("changes", [{"square_rgb": [0, 0, 0]}, {"resize_longest_px": 32_000}])
def test_other_resizes_do_not_explode_either(changes: dict[str, object]) -> None:
    plan = msgspec.structs.replace(PLAN, **changes)
    with pytest.raises(InputError, match="at most"):
        preprocess(Image.new("RGB", (20_000, 1) if "square_rgb" in changes else (800, 400)), plan)


@pytest.mark.parametrize("fit", ["stretch", "pad"])
def test_tiles_are_the_pieces_of_the_canvas(fit: str) -> None:
    """A picture of six colours, one for each tile; padded, it is black above and below."""
    colours = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40 + 10
    shown = colours.repeat(8, 0).repeat(8, 1)[..., None].repeat(3, 2)
    if fit == "pad":
        shown = shown[4:12]  # half as high as the canvas
    plan = ImagePlan(
        resize_shortest_px=None,
        resize_px=[8, 8],
        resample="nearest",
        crop_px=None,
        rescale=1.0,
        mean=[0.0] * 3,
        std=[1.0] * 3,
        tiles=Tiles(grid=[2, 3], fit=fit),
    )
    thumbnail, *tiles = preprocess(shown, plan)
    assert len(tiles) == 6 and set(np.unique(thumbnail)) == set(colours.flatten())
    for number, tile in enumerate(tiles):
        row, colour = divmod(number, 3)[0], colours.flatten()[number]
        rows = slice(0, 8) if fit == "stretch" else slice(4, 8) if row == 0 else slice(0, 4)
        assert (tile[:, rows] == colour).all()
        assert (np.delete(tile, np.arange(8)[rows], axis=1) == 0).all()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4, 4), np.uint8), r"uint8 \[4, 4, 4\]"),
        (np.zeros((4, 4), np.uint8), r"uint8 \[4, 4\]"),
        (np.zeros((4, 4, 3), np.float32), r"float32 \[4, 4, 3\]"),
        (np.zeros((0, 4, 3), np.uint8), "4x0 pixels"),
        (np.zeros((1, 40_000, 3), np.uint8), "at most 32768"),
    ],
)
def test_arrays_that_are_no_images_are_refused(array: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_image(array)


def test_an_array_may_be_a_view() -> None:
    pixels = np.asarray(picture("RGB"))
    flipped = np.asarray(open_image(pixels[:, ::-1]))
    np.testing.assert_array_equal(flipped, pixels[:, ::-1])


def test_unreadable_paths_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "empty").touch()
    for path, message in [
        (tmp_path / "none.png", "No such file"),
        (tmp_path, "Is a directory"),
        (tmp_path / "fifo", "0 bytes|cannot be read"),
        (tmp_path / "empty", "0 bytes"),
        ("a\0b", "null"),
    ]:
        with pytest.raises(InputError, match=message):
            open_image(path)


def test_a_large_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate(limits.IMAGE_FILE_BYTES + 1)
    with pytest.raises(InputError, match=f"{limits.IMAGE_FILE_BYTES + 1} bytes"):
        open_image(path)


def test_something_else_is_refused() -> None:
    with pytest.raises(InputError, match="an image of type int"):
        open_image(7)  # type: ignore[arg-type]


@pytest.mark.parametrize(("have", "wanted"), [(5, 4), (4, 5), (6, 3), (3, 6), (5, 5), (4, 7)])
def test_center_crop_keeps_the_middle(have: int, wanted: int) -> None:
    pixels = np.arange(1, have + 1, dtype=np.uint8)[:, None, None].repeat(3, 2)
    cropped = center_crop(pixels, [wanted, 1])[:, 0, 0]
    assert cropped.shape == (wanted,)
    inside = cropped[cropped > 0]
    assert len(inside) == min(have, wanted)
    assert (np.diff(inside.astype(int)) == 1).all()


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_files_give_an_image_or_an_input_error(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(limits.IMAGE_FORMATS))
    exif = Image.Exif()
    exif[0x0112] = 6
    file = bytearray(encoded(picture("RGB", 16, 12), kind, exif=exif))
    for _ in range(data.draw(st.integers(1, 6))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(InputError):
        assert open_image(bytes(file)).mode == "RGB"
