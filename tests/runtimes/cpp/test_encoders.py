"""Bundles without a language model give what Python's encoder gives, rung by rung."""

from __future__ import annotations

import ctypes
import importlib.util
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgetok
from edgetok.bundle.processor import IMAGE_FILE, parse_image_plan
from edgetok.bundle.strict import encode_strict

TASKS = ("classify", "embed", "similarity", "depth", "segment")
FAMILIES = Path(__file__).parents[2] / "families" / "tiny_encoders.py"


def picture(height: int = 33, width: int = 47, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def bundles(tiny_encoder, tmp_path_factory) -> dict[str, Path]:
    """A bundle of each task, in both flavours."""
    folder = tmp_path_factory.mktemp("encoders")
    flavours = ("ort", "portable")
    return {task: tiny_encoder.write(folder / task, task, flavours) for task in TASKS}


@pytest.fixture(scope="module")
def both(library, capi, bundles):
    """By task: Python's encoder and the library's over the same bundle."""
    made = {}
    for task, path in bundles.items():
        bundle = capi.Bundle(library, path)
        bundle.check()
        made[task] = edgetok.load_encoder(path, threads=1), capi.Encoder(bundle)
    return made


def _require_same(mine, theirs, seen: np.ndarray, budget: int | None = None) -> None:
    """All that the library made of a picture is what Python made of it, bit for bit."""
    want = mine.encode(seen, budget=budget)
    image = theirs.image(seen)
    np.testing.assert_array_equal(image.pixels, mine.pixels(seen).ravel())
    made = theirs.encode(image, budget or 0)
    assert [*made.tensors] == [mine.manifest.output.name, "sizes"]
    output, sizes = made.tensors.values()
    np.testing.assert_array_equal(output, want.output)
    np.testing.assert_array_equal(sizes, want.sizes)
    assert (made.kept, made.budget) == (want.kept.tolist(), want.budget)


@pytest.mark.parametrize("task", TASKS)
def test_every_rung_makes_what_python_makes(both, task):
    mine, theirs = both[task]
    for budget in (None, *mine.budgets):
        for seed, size in enumerate([(8, 8), (33, 47), (100, 9)]):
            _require_same(mine, theirs, picture(*size, seed=seed), budget)
    outputs = [mine.encode(picture(), budget=budget).output for budget in mine.budgets]
    assert not np.array_equal(*outputs)  # else a wrong rung would not be seen


def test_portable_graphs_and_single_rungs(library, capi, bundles):
    bundle = capi.Bundle(library, bundles["depth"])
    mine = edgetok.load_encoder(bundles["depth"], threads=1, flavour="portable", budgets=[2])
    theirs = capi.Encoder(bundle, flavour="portable", budgets=[2])
    _require_same(mine, theirs, picture())
    assert theirs.encode(theirs.image(picture())).budget == 2
    with pytest.raises(capi.Failure, match=r"4 patches is not loaded; loaded are \[2\]") as caught:
        theirs.encode(theirs.image(picture()), 4)
    assert caught.value.status == 2


def test_packed_weights_are_those_of_the_file(library, capi, bundles):
    """Optimizers that turn weights would be answered with what was lent, unturned."""
    mine = edgetok.load_encoder(bundles["embed"], threads=1)
    bundle = capi.Bundle(library, bundles["embed"])
    theirs = capi.Encoder(bundle, packed=True)
    for budget in mine.budgets:
        made = theirs.encode(theirs.image(picture()), budget).tensors["embedding"]
        np.testing.assert_allclose(made, mine.encode(picture(), budget=budget).output, atol=1e-6)


def test_classes_are_ranked_as_in_python(both):
    mine, theirs = both["classify"]
    for seed in range(5):
        want = mine.classify(picture(seed=seed))
        found = theirs.encode(theirs.image(picture(seed=seed))).rank_classes()
        assert [each["label"].decode() for each in found] == [each.label for each in want]
        for one, other in zip(found, want, strict=True):
            assert mine.manifest.labels[one["index"]] == other.label
            assert one["logit"] == other.logit
            assert one["probability"] == pytest.approx(other.probability, rel=1e-12)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_texts_are_ranked_as_in_python(library, capi, tiny_encoder, tmp_path, kind):
    path = tiny_encoder.write(tmp_path / "b", "similarity", kind=kind)
    mine, theirs = edgetok.load_encoder(path, threads=1), capi.Encoder(capi.Bundle(library, path))
    texts = ["a cat", "a photo of a dog", "", "red"]
    described = []
    for text in texts:
        made = theirs.encode_text(mine.read_text(text).tolist())
        np.testing.assert_array_equal(made.tensors["text_embedding"], mine.describe(text))
        assert (made.kept, made.budget, [*made.tensors]) == ([], 0, ["text_embedding"])
        described.append(made)
    found = theirs.encode(theirs.image(picture()), 2).rank_texts(described)
    want = mine.compare(picture(), texts, budget=2)
    assert [texts[each["index"]] for each in found] == [each.label for each in want]
    for one, other in zip(found, want, strict=True):
        assert one["label"] is None
        assert one["logit"] == pytest.approx(other.logit, rel=1e-5)  # its cosines are float32
        assert one["probability"] == pytest.approx(other.probability, rel=1e-5)


def test_the_bundle_tells_what_it_is_for(library, capi, bundles):
    info = capi.Bundle(library, bundles["segment"]).encoder()
    assert (info["task"], info["output"], info["shape"]) == (b"segment", b"scores", [3, 2, 4])
    assert info["labels"] == ["cat", "dog", "rote Blüte"]
    assert (info["text_tokens"], info["similarity"]) == (0, None)
    info = capi.Bundle(library, bundles["similarity"]).encoder()
    assert (info["text_tokens"], info["similarity"], info["labels"]) == (5, b"softmax", [])
    assert (info["scale"], info["bias"]) == (12.5, -1.0)
    rungs = capi.Bundle(library, bundles["embed"]).rungs()
    assert rungs == [{"budget": n, "prompt_tokens": 0, "new_tokens": 0} for n in (2, 4)]


def test_the_tool_knows_encoders(build, bundles):
    done = subprocess.run(
        [build / "edgetok-cpp", "inspect", bundles["depth"]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "vit, method tome, weights fp32, task depth"
    assert lines[2:] == ["rung 2", "rung 4"]


def test_memory_and_times_are_accounted_for(both, bundles):
    _, theirs = both["classify"]
    memory = theirs.memory
    weights = (bundles["classify"] / "weights" / "model.bin").stat().st_size
    assert (memory["weights_bytes"], memory["cache_bytes"]) == (weights, 0)
    assert memory["buffers_bytes"] == 4 * (3 * 8 * 8 + 3 + 4) + 8 * 4  # one set for both rungs
    assert memory["resident_bytes"] > weights
    timings = theirs.encode(theirs.image(picture(600, 800))).timings
    assert timings["preprocess_ms"] > 0 and timings["encode_ms"] > 0


def test_wrong_use_is_refused_in_a_sentence(library, capi, both, bundles, tiny, tmp_path):
    tiny.write(tmp_path / "answers")
    answers = capi.Bundle(library, tmp_path / "answers")
    embed, similarity = (both[task][1] for task in ("embed", "similarity"))
    image, ids = similarity.image(picture()), [1, 2, 3, 4, 5]
    bundle = capi.Bundle(library, bundles["embed"])
    seen, text = similarity.encode(image), similarity.encode_text(ids)
    tries = [
        (lambda: capi.Encoder(answers), 2, "answers questions.*edgetok_model_load"),
        (answers.encoder, 2, "answers questions"),
        (lambda: capi.Model(bundle), 2, "its task is embed: load"),
        (lambda: capi.Encoder(bundle, budgets=[3]), 2, "no rung of 3"),
        (lambda: capi.Encoder(bundle, flavour="x"), 2, "choose ort"),
        (lambda: capi.Encoder(bundle, threads=-1), 2, "outside 1"),
        (lambda: embed.encode(image), 2, "prepared for another bundle"),
        (lambda: similarity.encode(image, 3), 2, r"3 patches is not loaded; loaded are \[2, 4\]"),
        (lambda: similarity.encode(image, -1), 2, "-1 patches is not loaded"),
        (lambda: embed.encode_text(ids), 2, "task is embed, which takes no texts"),
        (lambda: similarity.encode_text(ids[:4]), 5, "has 4 tokens; this model reads 5"),
        (lambda: similarity.encode_text(ids * 9000), 5, "has 45000 tokens; at most"),
        (lambda: similarity.encode_text([*ids[:4], -1]), 5, "token id -1 is negative"),
        (lambda: similarity.encode_text([*ids[:4], 11]), 5, "the largest of which is 11"),
        (seen.rank_classes, 2, "task is similarity, not classify"),
        (lambda: seen.rank_texts([]), 2, "nothing to compare"),
        (lambda: seen.rank_texts([text, seen]), 2, r"texts\[1\] is the output of a picture"),
        (lambda: text.rank_texts([text]), 2, "the output is of a text"),
        (lambda: embed.image_of(b"no picture"), 5, "no file that can be read"),
    ]
    for number, (use, status, message) in enumerate(tries):
        with pytest.raises(capi.Failure, match=message) as caught:
            use()
        assert caught.value.status == status, number


def test_null_is_an_answer_to_nothing(library):
    raw = library.raw
    for name in ("encoder_load", "encode_text", "encode", "rank_texts", "output_tensor"):
        assert getattr(raw, f"edgetok_{name}")(None, None, None, None) == 2, name
    for name in ("encoder", "output", "ranking"):
        assert getattr(raw, f"edgetok_{name}_free")(None) is not NotImplemented
    assert raw.edgetok_output_tensor_count(None) == raw.edgetok_ranking_count(None) == 0
    assert raw.edgetok_bundle_label(None, 0) is None


def test_a_plan_that_does_not_fit_the_graphs(library, capi, tiny_encoder, tmp_path):
    """As many pixels, but turned: Python refuses it, too."""
    path = tiny_encoder.write(tmp_path / "b", "embed")
    for change in ({"resize_px": [16, 4]}, {"tiles": {"grid": [1, 1], "fit": "pad"}}):
        plan = tiny_encoder.IMAGE | {"resize_shortest_px": None, "crop_px": None} | change
        plan |= {"resize_px": plan["resize_px"] or [8, 8]}
        (path / IMAGE_FILE).write_bytes(encode_strict(plan))
        parse_image_plan(encode_strict(plan))
        tiny_encoder.seal(path)
        with pytest.raises(edgetok.EdgetokError, match="this bundle reads"):
            edgetok.load_encoder(path).encode(picture())
        encoder = capi.Encoder(capi.Bundle(library, path))
        with pytest.raises(capi.Failure, match="this bundle reads 8x8") as caught:
            encoder.image(picture())
        assert caught.value.status == 5


def test_weights_that_changed_meanwhile_are_noticed(library, capi, tiny_encoder, tmp_path):
    path = tiny_encoder.write(tmp_path / "b", "embed")
    bundle = capi.Bundle(library, path)
    weights = path / tiny_encoder.WEIGHTS
    data = bytearray(weights.read_bytes())
    data[0] ^= 1
    weights.unlink()
    weights.write_bytes(data)
    with pytest.raises(capi.Failure, match="was changed after the bundle was opened") as caught:
        capi.Encoder(bundle)
    assert caught.value.status == 3


def test_threads_get_an_answer_or_a_refusal(both, capi):
    """Never another picture's output."""
    mine, theirs = both["embed"]
    wants = [mine.encode(picture(seed=seed)).output for seed in range(4)]
    images = [theirs.image(picture(seed=seed)) for seed in range(4)]
    done, odd = [0] * 4, []

    def work(number: int) -> None:
        while done[number] < 20 and not odd:
            try:
                made = theirs.encode(images[number]).tensors["embedding"]
            except capi.Failure as failure:
                odd.extend([failure] if failure.status != 2 else [])
            else:
                odd.extend([number] if not np.array_equal(made, wants[number]) else [])
                done[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (done, odd) == ([20] * 4, [])


def test_handles_may_be_freed_in_any_order(library, capi, bundles):
    bundle = capi.Bundle(library, bundles["classify"])
    encoder = capi.Encoder(bundle)
    output = encoder.encode(encoder.image(picture()))
    want = output.rank_classes()
    del bundle, encoder
    assert output.rank_classes() == want
    raw, made = library.raw, ctypes.c_void_p()
    library.require(raw.edgetok_rank_classes(output.value, ctypes.byref(made)))
    del output
    score = capi.Score()
    library.require(raw.edgetok_ranking_score(made, ctypes.c_size_t(0), ctypes.byref(score)))
    assert score.label == want[0]["label"]
    raw.edgetok_ranking_free(made)


def test_example_prints_the_nearest_pairs(build, both, bundles, tmp_path):
    mine, _ = both["embed"]
    seen = {f"{n}.png": picture(20, 20, seed=n) for n in range(4)}
    seen["again.png"] = seen["2.png"]
    for name, pixels in seen.items():
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    words = [build / "examples" / "03_embed", bundles["embed"], tmp_path]
    done = subprocess.run([*words, "3", "2"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "notes.txt" in done.stderr and "empty.png" in done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["1.000000", "2.png", "again.png"]

    rows = {name: mine.encode(pixels, budget=2).output for name, pixels in seen.items()}
    rows = {name: row / np.linalg.norm(row) for name, row in rows.items()}
    names = sorted(rows)
    pairs = [(a, b) for n, a in enumerate(names) for b in names[n + 1 :]]
    want = sorted((float(rows[a] @ rows[b]) for a, b in pairs), reverse=True)
    assert len(lines) == 3
    np.testing.assert_allclose([float(line[0]) for line in lines], want[:3], atol=2e-6)
    for shown, first, second in lines:
        assert float(shown) == pytest.approx(rows[first] @ rows[second], abs=2e-6)

    done = subprocess.run(
        [words[0], bundles["depth"], tmp_path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 5 and "task is depth" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "weights"),
    [
        *(("vit", "int4"), ("deit distilled", "fp32"), ("dinov2 embedding", "int8")),
        *(("dinov3", "fp32"), ("clip", "int4"), ("siglip", "fp32"), ("dpt", "fp32")),
        ("eomt", "fp32"),
    ],
)
def test_exported_families_at_every_rung(library, capi, tmp_path, name, weights):
    """What `edgetok export` writes for real layer types, in both flavours."""
    spec = importlib.util.spec_from_file_location("tiny_encoders", FAMILIES)
    families = importlib.util.module_from_spec(spec)
    sys.modules["tiny_encoders"] = families
    spec.loader.exec_module(families)
    model, out = tmp_path / "model", tmp_path / "out.bundle"
    families.write_tiny_encoder(model, name)
    smallest = next(iter(families.KINDS[name].methods.values()), "full").split(",")[0]
    budgets = "full" if smallest == "full" else f"{smallest},full"
    edgetok.export(
        model, out, budgets=budgets, weights=weights, flavour="portable", parity_images=1
    )
    bundle = capi.Bundle(library, out)
    bundle.check()
    for flavour in ("ort", "portable"):
        mine = edgetok.load_encoder(out, threads=1, flavour=flavour)
        theirs = capi.Encoder(bundle, flavour=flavour)
        for budget in mine.budgets:
            for seed, size in enumerate([(60, 41), (33, 90), (64, 64)]):
                _require_same(mine, theirs, picture(*size, seed=seed), budget)
        if mine.task == "similarity":
            for text in ("a photo of a cat", "two red circles", ""):
                ids = mine.read_text(text).tolist()
                made = theirs.encode_text(ids).tensors["text_embedding"]
                np.testing.assert_array_equal(made, mine.describe(text))
