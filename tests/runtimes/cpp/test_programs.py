"""What threads, locales and long runs do to the library: programs of runtimes/cpp/tests.

`make cpp-checks` runs them under sanitizers too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

import edgetok
from edgetok.bundle.manifest import digest_content
from edgetok.control import BenchTable, Row

IMAGES = 1000
GROWTH_KIB = 1024  # between image 200 and image 1,000: room for what a heap has not joined yet


def _run(*words: object, **options) -> str:
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout


def _write_pictures(folder: Path) -> Path:
    """JPEG, PNG and WEBP files of all kinds and many sizes."""
    folder.mkdir()
    random = np.random.default_rng(5)
    kinds = ["RGB", "L", "RGBA", "P", "1"]
    for number in range(40):
        height, width = random.integers(16, 200, 2)
        noise = random.integers(0, 256, (height, width, 3), np.uint8)
        picture = Image.fromarray(noise)
        if number % 8 == 7:
            picture.save(folder / f"{number}.webp")
        elif number % 2:
            picture.convert(kinds[number // 2 % 2]).save(folder / f"{number}.jpg", quality=80)
        else:
            picture.convert(kinds[number // 2 % 5]).save(folder / f"{number}.png")
    return folder


class Asked:
    """A bundle, a folder of pictures, the ids of a prompt as words, and Python's answer."""

    def __init__(self, bundle: Path, pictures: Path) -> None:
        self.bundle, self.pictures = bundle, pictures
        self.python = edgetok.load(bundle, threads=1)
        prompt = self.python.processor.encode("Hi")
        self.words = [" ".join(map(str, side)) for side in (prompt.before, prompt.after)]


@pytest.fixture(scope="module")
def asked(tiny_vlm, tmp_path_factory) -> Asked:
    folder = tmp_path_factory.mktemp("asked")
    bundle = tiny_vlm.write(folder / "tiny.bundle", tiny_vlm.Recipe(stop_ids=()))
    return Asked(bundle, _write_pictures(folder / "pictures"))


def test_threads_do_what_the_header_allows(build, asked):
    said = _run(build / "tests" / "threads", asked.bundle, asked.pictures, *asked.words, 5)
    first = sorted(asked.pictures.iterdir())[0]
    answer = asked.python.generate(Image.open(first), "Hi")
    assert said.splitlines()[0] == "tokens " + " ".join(map(str, answer.token_ids))
    assert f"kept {' '.join(map(str, answer.kept))}" in said


def test_threads_share_an_encoder(build, asked, tiny_encoder, tmp_path):
    bundle = tiny_encoder.write(tmp_path / "classify", "classify", ("ort",))
    said = _run(build / "tests" / "encoders", bundle, asked.pictures, 20)
    with Image.open(sorted(asked.pictures.iterdir())[0]) as picture:
        classes = edgetok.load_encoder(bundle, threads=1).classify(picture)
    budget = max(tiny_encoder.BUDGETS)
    assert said.strip() == f"budget {budget} " + " ".join(score.label for score in classes)


def _make_locale(folder: Path, name: str) -> dict[str, str]:
    made = shutil.which("localedef") and subprocess.run(
        ["localedef", "-i", name, "-f", "UTF-8", folder / f"{name}.UTF-8"],
        capture_output=True,
        check=False,
    )
    if not (folder / f"{name}.UTF-8").is_dir():
        pytest.skip(f"no locale {name} can be made here: {made}")
    return os.environ | {"LOCPATH": str(folder)}


# A comma, and a sign of two bytes; to make a locale takes a second or two.
@pytest.mark.parametrize("name", ["de_DE", pytest.param("ps_AF", marks=pytest.mark.slow)])
def test_locale_changes_nothing(build, asked, tmp_path, name):
    environment = _make_locale(tmp_path, name)
    digest = digest_content(asked.python.manifest)
    rows = tuple(Row(b, 0.1, ms, 1.0, 90.5 + b) for b, ms in ((4, 0.375), (8, 0.5), (16, 1.25)))
    table = tmp_path / "table.json"
    table.write_bytes(msgspec.json.encode(BenchTable(digest, "cpu", rows)))
    picture = sorted(asked.pictures.iterdir())[0]
    program = build / "tests" / "locale"
    words = [asked.bundle, picture, *asked.words, table, f"{name}.UTF-8"]
    said = _run(program, *words, env=environment).splitlines()
    assert said[0] == f"digest {digest}"
    assert "0.5" in said[-3]  # the reason of the limit's rung names its time
    assert "-0.5" in said[-1]


def _write_bad(bundle: Path, folder: Path) -> list[Path]:
    """Bundles that are refused at different points."""
    cut, damaged, short = (folder / f"{name}.bundle" for name in ("cut", "damaged", "short"))
    for copy in (cut, damaged, short):
        shutil.copytree(bundle, copy)
    manifest = cut / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:-100])
    weights = damaged / "weights" / "model.bin"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    (short / "processor" / "image.json").unlink()
    return [cut, damaged, short, folder / "none.bundle"]


def _read_curve(said: str) -> dict[int, int]:
    lines = [line.split(",") for line in said.splitlines() if line[:1].isdigit()]
    return {int(images): int(kib) for images, kib in lines}


def _soak(build: Path, asked: Asked, folder: Path, images: int) -> dict[int, int]:
    bad = _write_bad(asked.bundle, folder)
    program = build / "tests" / "soak"
    said = _run(program, asked.bundle, asked.pictures, *asked.words, images, *bad)
    print("\n" + said)
    assert "callback 0" not in said
    assert "thread 0" not in said
    return _read_curve(said)


def test_short_soak(build, asked, tmp_path):
    assert len(_soak(build, asked, tmp_path, 60)) == 20


@pytest.mark.slow
def test_memory_is_constant_over_a_thousand_images(build, asked, tmp_path):
    curve = _soak(build, asked, tmp_path, IMAGES)
    assert abs(curve[IMAGES] - curve[IMAGES // 5]) < GROWTH_KIB, curve
