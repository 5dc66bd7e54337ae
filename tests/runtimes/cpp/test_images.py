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
from edgetok.errors import InputError
from edgetok.images.preprocess import preprocess

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
    turned = _file(picture, "JPEG", exif=_exif(6))
    yield "JPEG turned by a LONG", _exif_typed(turned, 4, 1)
    yield "JPEG with two orientations", _exif_typed(turned, 3, 2)
    yield "JPEG with orientations beyond its end", _exif_typed(turned, 3, 900)
    yield "JPEG turned by a BYTE", _exif_typed(turned, 1, 1)
    yield "PNG", _file(picture, "PNG")
    yield "PNG turned", _file(picture, "PNG", exif=_exif(6))
    yield "PNG with alpha", _file(_picture(37, 53, 4), "PNG")
    yield "PNG, grey", _file(picture, "PNG", "L")
    yield "PNG, grey with alpha", _file(_picture(37, 53, 4), "PNG", "LA")
    yield "PNG of one bit", _file(picture, "PNG", "1")
    yield "PNG with a palette", _file(picture, "PNG", "P")
    yield "PNG with a transparent colour", _file(picture, "PNG", "P", transparency=3)
    inks = Image.fromarray(_picture(37, 53, 4), "CMYK")
    cmyk = _saved(inks, "JPEG", quality=92)
    yield "JPEG in CMYK", cmyk
    yield "JPEG in YCCK", _as_ycck(cmyk)
    yield "JPEG in YCCK, progressive", _as_ycck(_saved(inks, "JPEG", progressive=True, quality=40))
    yield "JPEG in CMYK that does not name Adobe", _without_adobe(cmyk)
    yield "JPEG in CMYK, turned", _saved(inks, "JPEG", exif=_exif(5))
    yield "JPEG in CMYK of every ink and black", _saved(_all_inks(), "JPEG", quality=100)


def _saved(image: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def _exif_typed(data: bytes, kind: int, count: int) -> bytes:
    """Its orientation as another type, and so many of it."""
    at = data.index(b"II*\0" if b"II*\0" in data else b"MM\0*")
    order = "little" if data[at : at + 1] == b"I" else "big"
    tag = data.index((274).to_bytes(2, order) + (3).to_bytes(2, order), at)
    value = (6).to_bytes(4 if kind == 4 else 2, order).ljust(4, b"\0")
    entry = kind.to_bytes(2, order) + count.to_bytes(4, order) + value
    return data[: tag + 2] + entry + data[tag + 12 :]


def _all_inks() -> Image.Image:
    """Squares of 8 pixels, which a JPEG keeps: 16 levels of ink by 16 of black."""
    ink, black = np.meshgrid(np.arange(0, 256, 17), np.arange(0, 256, 17))
    squares = np.stack([ink, 255 - ink, ink // 2, black], -1).astype(np.uint8)
    return Image.fromarray(squares.repeat(8, 0).repeat(8, 1), "CMYK")


def _as_ycck(cmyk: bytes) -> bytes:
    """The same numbers, of which the Adobe marker says that they are another space's."""
    at = cmyk.index(b"Adobe") + 11
    assert cmyk[at] == 0
    return cmyk[:at] + b"\x02" + cmyk[at + 1 :]


def _without_adobe(cmyk: bytes) -> bytes:
    at = cmyk.index(b"\xff\xee\0\x0eAdobe")
    return cmyk[:at] + cmyk[at + 16 :]


def _webps():
    picture, see_through = _picture(37, 53), _picture(38, 54, 4)
    yield "plain", _file(picture, "WEBP", quality=80)
    yield "of low quality", _file(picture, "WEBP", quality=5)
    yield "lossless", _file(picture, "WEBP", lossless=True)
    yield "grey", _file(picture, "WEBP", "L")
    yield "with alpha", _file(see_through, "WEBP", quality=70)
    yield "lossless with alpha", _file(see_through, "WEBP", lossless=True, exact=True)
    yield "one pixel", _file(picture[:1, :1], "WEBP")
    for orientation in range(1, 9):
        exif = _exif(orientation)
        yield f"turned by {orientation}", _file(picture, "WEBP", exif=exif)
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="8"/></x:xmpmeta>'
    yield "turned by XMP", _file(picture, "WEBP", xmp=xmp)
    xmp = b"<a>tiff:Orientation x</a><tiff:Orientation>3</tiff:Orientation>"
    yield "turned by an element of XMP", _file(picture, "WEBP", xmp=xmp)
    yield "EXIF before XMP", _file(picture, "WEBP", xmp=xmp, exif=_exif(6))
    yield "EXIF without orientation before XMP", _file(picture, "WEBP", xmp=xmp, exif=_artist())
    moved = Image.fromarray(np.roll(see_through, 5, 0))
    first = Image.fromarray(see_through)
    yield "animated", _saved(first, "WEBP", save_all=True, append_images=[moved], duration=40)
    opaque = [Image.fromarray(np.roll(picture, shift, 1)) for shift in (0, 9)]
    yield (
        "animated, opaque",
        _saved(opaque[0], "WEBP", save_all=True, append_images=opaque[1:], lossless=True),
    )
    yield "with a profile", _file(picture, "WEBP", icc_profile=b"x" * 300)
    small = _saved(first, "WEBP", save_all=True, append_images=[moved], lossless=True)
    yield "first frame smaller than its canvas", _wider_canvas(small)


def _artist() -> bytes:
    exif = Image.Exif()
    exif[315] = "somebody"
    return exif.tobytes()


def _wider_canvas(webp: bytes) -> bytes:
    """Nine columns and rows more, which no frame covers."""
    assert webp[12:16] == b"VP8X"
    sides = [int.from_bytes(webp[at : at + 3], "little") + 9 for at in (24, 27)]
    return webp[:24] + b"".join(side.to_bytes(3, "little") for side in sides) + webp[30:]


FILES = dict(_files())
WEBPS = dict(_webps())


@pytest.mark.parametrize("name", FILES)
def test_files_are_decoded_as_pillow_does(plain, name):
    plan, model = plain
    want = preprocess(FILES[name], plan).ravel()
    np.testing.assert_array_equal(model.image_of(FILES[name]).pixels, want)


@pytest.fixture(scope="module")
def webp(plain, capi):
    """The plain model and its plan, of a library that was built with libwebp."""
    try:
        plain[1].image_of(WEBPS["plain"])
    except capi.Failure as failure:
        if "built without" in str(failure):
            pytest.skip("this library was built without libwebp")
    return plain


@pytest.mark.parametrize("name", WEBPS)
def test_webps_are_decoded_as_pillow_does(webp, name):
    plan, model = webp
    want = preprocess(WEBPS[name], plan).ravel()
    np.testing.assert_array_equal(model.image_of(WEBPS[name]).pixels, want)


def _of_16384_a_side(webp: bytes) -> bytes:
    """Lossless, with the largest sides that its header can tell."""
    assert webp[12:16] == b"VP8L"
    return webp[:21] + b"\xff\xff\xff" + bytes([webp[24] | 0x0F]) + webp[25:]


HOSTILE_WEBPS = {
    "half": (WEBPS["plain"][: len(WEBPS["plain"]) // 2], "is damaged"),
    "header": (WEBPS["plain"][:30], "is damaged"),
    "another kind of RIFF": (WEBPS["plain"][:12] + b"WAVE" + WEBPS["plain"][16:], "no file that"),
    "a bomb of 268 million pixels": (_of_16384_a_side(WEBPS["lossless"]), "16384x16384"),
    "a canvas of 2^48 pixels": (
        WEBPS["animated"][:24] + b"\xff" * 6 + WEBPS["animated"][30:],
        "is damaged",
    ),
    "EXIF that is no TIFF": (_file(_picture(8, 8), "WEBP", exif=b"garbage garbage"), "no TIFF"),
}


@pytest.mark.parametrize("name", HOSTILE_WEBPS)
def test_hostile_webp_is_refused_by_both(webp, capi, name):
    data, message = HOSTILE_WEBPS[name]
    with pytest.raises(InputError):
        preprocess(data, webp[0])
    with pytest.raises(capi.Failure, match=message) as caught:
        webp[1].image_of(data)
    assert caught.value.status == 5


def _decoded(read) -> np.ndarray | None:
    """Pixels; None where the file was refused as one that cannot be read."""
    try:
        return read().ravel()
    except InputError:
        return None
    except Exception as failure:
        assert getattr(failure, "status", 0) == 5, failure
        return None


@pytest.mark.parametrize("seed", range(60))
def test_flipped_bytes_of_webps_end_alike_in_both(webp, seed):
    """Pixels of one are pixels of the other, or neither reads the file."""
    random, (plan, model) = np.random.default_rng(seed), webp
    names = ("plain", "lossless", "with alpha", "animated", "turned by XMP")
    data = bytearray(WEBPS[names[seed % 5]])
    for at in random.integers(0, len(data), 1 + seed % 3):
        data[at] = random.integers(0, 256)
    mine = _decoded(lambda: preprocess(bytes(data), plan))
    theirs = _decoded(lambda: model.image_of(bytes(data)).pixels)
    assert (mine is None) == (theirs is None)
    if mine is not None:
        np.testing.assert_array_equal(theirs, mine)


DAMAGED = {
    "empty": (b"", "0 bytes"),
    "text": (b"not an image", "reads JPEG, PNG and WEBP"),
    "half a JPEG": (FILES["JPEG"][: len(FILES["JPEG"]) // 2], "ends too early"),
    "half a PNG": (FILES["PNG"][: len(FILES["PNG"]) // 2], "is damaged"),
    "JPEG without an end": (FILES["JPEG"][:-2], "ends too early"),
    "JPEG without its second marker": (b"\xff\xd8\0" + FILES["JPEG"][3:], "no file that"),
    "start of a JPEG": (FILES["JPEG"][:40], "is damaged"),
    "a million pixels a side": (
        FILES["PNG"][:16] + b"\0\x0f\x42\x40" * 2 + FILES["PNG"][24:],
        "is damaged|pixels",
    ),
    "half a JPEG in CMYK": (
        FILES["JPEG in CMYK"][: len(FILES["JPEG in CMYK"]) // 2],
        "ends too early",
    ),
    "JPEG of five inks": (
        FILES["JPEG in CMYK"].replace(b"\0\x14\x08\0\x25\0\x35\x04", b"\0\x17\x08\0\x25\0\x35\x05"),
        "is damaged",
    ),
    "PNG of 16 bits": (_file(np.full((9, 8), 60_000, np.uint16), "PNG"), "more than 8 bits"),
    "GIF": (_file(_picture(8, 8), "GIF"), "reads JPEG, PNG and WEBP"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_file(plain, capi, name):
    data, message = DAMAGED[name]
    with pytest.raises(InputError):
        preprocess(data, plain[0])
    with pytest.raises(capi.Failure, match=message) as caught:
        plain[1].image_of(data)
    assert caught.value.status == 5


@pytest.mark.parametrize("seed", range(40))
def test_flipped_bytes_give_pixels_or_a_refusal(plain, capi, seed):
    random = np.random.default_rng(seed)
    data = bytearray(FILES[("JPEG", "PNG", "PNG with a palette", "JPEG in CMYK")[seed % 4]])
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
