"""Pictures become the same pixels in both libraries, bit for bit."""

from __future__ import annotations

import ctypes
import io

import msgspec
import numpy as np
import pytest
from PIL import Image

from edgetok.bundle.processor import IMAGE_FILE, ImagePlan, Tiles
from edgetok.bundle.strict import encode_strict
from edgetok.runtimes.preprocess import preprocess

BASE = ImagePlan(
    resize_shortest_px=None,
    resize_px=[20, 28],
    resample="bicubic",
    crop_px=None,
    rescale=1 / 255,
    mean=[0.48145466, 0.4578275, 0.40821073],
    std=[0.26862954, 0.26130258, 0.27577711],
)
PLANS = {
    "bicubic": {},
    "bilinear": {"resample": "bilinear"},
    "lanczos": {"resample": "lanczos"},
    "nearest": {"resample": "nearest"},
    "shortest side, then crop": {
        "resize_px": None,
        "resize_shortest_px": 17,
        "crop_px": [15, 16],
    },
    "crop wider than the picture": {"resize_px": None, "crop_px": [70, 91]},
    "square first": {"square_rgb": [122, 116, 104]},
    "tiles that stretch": {
        "resize_longest_px": 60,
        "tiles": Tiles(grid=[2, 3], fit="stretch"),
        "resample": "lanczos",
    },
    "tiles that pad": {"tiles": Tiles(grid=[2, 2], fit="pad")},
}
SIZES = [(10, 12), (61, 47), (200, 33), (1, 1), (20, 28)]


def _model(library, capi, tiny, tiny_vlm, folder, plan):
    """The tiny model with another image plan; what its tower reads does not matter here."""
    tiny_vlm.write(folder, tiny_vlm.Recipe(budgets=(4,)))
    (folder / IMAGE_FILE).write_bytes(encode_strict(plan))
    tiny.seal(folder)
    return capi.Model(capi.Bundle(library, folder))


@pytest.fixture(scope="module", params=PLANS)
def planned(request, library, capi, tiny, tiny_vlm, tmp_path_factory):
    """A plan, and a model whose images are prepared by it."""
    plan = msgspec.structs.replace(BASE, **PLANS[request.param])
    folder = tmp_path_factory.mktemp("planned") / "tiny.bundle"
    return plan, _model(library, capi, tiny, tiny_vlm, folder, plan)


@pytest.fixture(scope="module")
def plain(library, capi, tiny, tiny_vlm, tmp_path_factory):
    """A model that changes no pixel: what it reads are bytes as they are."""
    same = {"resize_px": None, "mean": [0.0] * 3, "std": [1.0] * 3, "rescale": 1.0}
    plan = msgspec.structs.replace(BASE, **same)
    folder = tmp_path_factory.mktemp("plain") / "tiny.bundle"
    return plan, _model(library, capi, tiny, tiny_vlm, folder, plan)


def _picture(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """Noise on a slope, so that there are edges and flat places."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, channels))
    slope = np.linspace(0, 255, width)[None, :, None]
    return np.where(noise % 3 == 0, noise, slope).astype(np.uint8)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_plan_gives_the_same_pixels(planned, size):
    plan, model = planned
    picture = _picture(*size)
    np.testing.assert_array_equal(model.image(picture).pixels, preprocess(picture, plan).ravel())


def test_large_picture(planned):
    plan, model = planned
    picture = _picture(768, 1024)
    np.testing.assert_array_equal(model.image(picture).pixels, preprocess(picture, plan).ravel())


def test_channel_orders(plain):
    plan, model = plain
    rgba = _picture(64, 64, 4)
    want = preprocess(Image.fromarray(rgba), plan).ravel()
    np.testing.assert_array_equal(model.image(rgba, "rgba").pixels, want)
    bgr = rgba[..., 2::-1]
    want = preprocess(np.ascontiguousarray(rgba[..., :3]), plan).ravel()
    np.testing.assert_array_equal(model.image(bgr, "bgr").pixels, want)


def test_every_alpha_over_white_is_as_in_pillow(plain):
    plan, model = plain
    values, alphas = np.meshgrid(np.arange(256), np.arange(256))
    rgba = np.stack([values, values, values, alphas], -1).astype(np.uint8)
    want = preprocess(Image.fromarray(rgba), plan).ravel()
    np.testing.assert_array_equal(model.image(rgba, "rgba").pixels, want)


def test_nv12(plain):
    _, model = plain
    height, width = size = (6, 8)
    random = np.random.default_rng(3)
    luma = random.integers(0, 256, size, np.uint8)
    chroma = random.integers(0, 256, (height // 2, width // 2, 2), np.uint8)
    planes = np.concatenate([luma.ravel(), chroma.ravel()])
    found = model.image(planes, "nv12", size).pixels.reshape(3, height, width)
    u, v = (np.repeat(np.repeat(chroma[..., i], 2, 0), 2, 1) for i in (0, 1))
    y, u, v = 1.164383 * (luma - 16.0), u - 128.0, v - 128.0
    exact = [y + 1.596027 * v, y - 0.391762 * u - 0.812968 * v, y + 2.017232 * u]
    np.testing.assert_allclose(found, np.clip(exact, 0, 255), atol=1.5)


def _file(picture: np.ndarray, kind: str, mode: str | None = None, **options) -> bytes:
    image = Image.fromarray(picture)
    out = io.BytesIO()
    (image.convert(mode) if mode else image).save(out, kind, **options)
    return out.getvalue()


def _exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[274] = orientation
    return exif.tobytes()


def _files():
    picture = _picture(37, 53)
    yield "JPEG", _file(picture, "JPEG", quality=90)
    yield "JPEG 4:2:0 of low quality", _file(picture, "JPEG", quality=30, subsampling=2)
    yield "JPEG 4:4:4", _file(picture, "JPEG", quality=95, subsampling=0)
    yield "JPEG, progressive", _file(picture, "JPEG", progressive=True)
    yield "JPEG, grey", _file(picture, "JPEG", "L")
    for orientation in range(1, 9):
        exif = _exif(orientation)
        yield f"JPEG turned by {orientation}", _file(picture, "JPEG", exif=exif)
    yield "PNG", _file(picture, "PNG")
    yield "PNG turned", _file(picture, "PNG", exif=_exif(6))
    yield "PNG with alpha", _file(_picture(37, 53, 4), "PNG")
    yield "PNG, grey", _file(picture, "PNG", "L")
    yield "PNG, grey with alpha", _file(_picture(37, 53, 4), "PNG", "LA")
    yield "PNG of one bit", _file(picture, "PNG", "1")
    yield "PNG with a palette", _file(picture, "PNG", "P")
    yield "PNG with a transparent colour", _file(picture, "PNG", "P", transparency=3)


FILES = dict(_files())


@pytest.mark.parametrize("name", FILES)
def test_files_are_decoded_as_pillow_does(plain, name):
    plan, model = plain
    want = preprocess(FILES[name], plan).ravel()
    np.testing.assert_array_equal(model.image_of(FILES[name]).pixels, want)


DAMAGED = {
    "empty": (b"", "0 bytes"),
    "text": (b"not an image", "reads JPEG and PNG"),
    "half a JPEG": (FILES["JPEG"][: len(FILES["JPEG"]) // 2], "ends too early"),
    "half a PNG": (FILES["PNG"][: len(FILES["PNG"]) // 2], "is damaged"),
    "start of a JPEG": (FILES["JPEG"][:40], "is damaged"),
    "a million pixels a side": (
        FILES["PNG"][:16] + b"\0\x0f\x42\x40" * 2 + FILES["PNG"][24:],
        "is damaged|pixels",
    ),
    "JPEG in CMYK": (_file(_picture(8, 8, 4), "JPEG", "CMYK"), "CMYK"),
    "PNG of 16 bits": (_file(np.full((9, 8), 60_000, np.uint16), "PNG"), "more than 8 bits"),
    "WEBP": (_file(_picture(8, 8), "WEBP"), "reads JPEG and PNG"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_file(plain, capi, name):
    data, message = DAMAGED[name]
    with pytest.raises(capi.Failure, match=message) as caught:
        plain[1].image_of(data)
    assert caught.value.status == 5


@pytest.mark.parametrize("seed", range(40))
def test_flipped_bytes_give_pixels_or_a_refusal(plain, capi, seed):
    random = np.random.default_rng(seed)
    data = bytearray(FILES[("JPEG", "PNG", "PNG with a palette")[seed % 3]])
    for at in random.integers(0, len(data), 4):
        data[at] = random.integers(0, 256)
    try:
        assert np.isfinite(plain[1].image_of(bytes(data)).pixels).all()
    except capi.Failure as failure:
        assert failure.status == 5


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 0}, "no pixels"),
        ({"height": -1}, "no pixels"),
        ({"width": 40_000}, "a side may have at most"),
        ({"width": 30_000, "height": 30_000}, "at most 64000000 are decoded"),
        ({"stride": 5}, "a stride of 5 bytes is less than a row of 12"),
        ({"data": None}, "NULL"),
        ({"format": 9}, "format 9 is unknown"),
        ({"struct_size": 0}, "struct_size is 0"),
    ],
)
def test_pixels_that_cannot_be(plain, library, capi, fields, message):
    data = np.zeros(48, np.uint8)
    given = {"width": 4, "height": 4, "data": data.ctypes.data_as(ctypes.c_void_p)} | fields
    pixels, made = capi.Pixels(), ctypes.c_void_p()
    for name, value in given.items():
        setattr(pixels, name, value)
    model = plain[1]
    status = library.raw.edgetok_image_from_pixels(
        model.value, ctypes.byref(pixels), ctypes.byref(made)
    )
    assert status in (2, 5)
    assert made.value is None
    with pytest.raises(capi.Failure, match=message):
        library.require(status)


def test_rows_with_a_gap_between_them(plain, library, capi):
    wide = _picture(6, 10)
    picture = wide[:, :7]
    pixels = capi.Pixels(width=7, height=6, data=wide.ctypes.data_as(ctypes.c_void_p), stride=30)
    made = ctypes.c_void_p()
    plan, model = plain
    library.require(
        library.raw.edgetok_image_from_pixels(model.value, ctypes.byref(pixels), ctypes.byref(made))
    )
    found = capi.Image(library, "image", made).pixels
    want = preprocess(np.ascontiguousarray(picture), plan).ravel()
    np.testing.assert_array_equal(found, want)
