"""From an encoder's model directory to a published bundle."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from edgetok import names
from edgetok.bundle import encoder_golden
from edgetok.bundle.encoders import EncoderManifest, EncoderRung, TextSide
from edgetok.bundle.manifest import FORMAT_VERSION, Flavour, Stage, Vision, Weights
from edgetok.bundle.processor import IMAGE_FILE, TOKENIZER_FILE
from edgetok.bundle.strict import encode_strict
from edgetok.bundle.writer import BundleWriter
from edgetok.calibration.samples import draw, load_samples
from edgetok.errors import UsageError
from edgetok.export.cases import synthetic_pictures
from edgetok.export.encoder.builder import EncoderBuilder
from edgetok.export.encoder.graphs import require_fit, require_movable
from edgetok.export.encoder.parity import EncoderParity, check_encoder
from edgetok.export.encoder.reference import EncoderReference
from edgetok.export.lowering import weight_file
from edgetok.export.options import ExportOptions
from edgetok.export.parity.inputs import check_encoder_inputs
from edgetok.export.parity.ledger import require_parity
from edgetok.export.parity.sessions import GraphRunner
from edgetok.families.checkpoint import Checkpoint
from edgetok.families.encoder_parts import EncoderParts
from edgetok.families.encoders import open_encoder
from edgetok.images.reading import read_file
from edgetok.ladder import parse_budgets
from edgetok.methods import Method, find_method
from edgetok.options import changed, flag_of, shown_of
from edgetok.scratch import Scratch
from edgetok.version import VERSION

GOLDEN_CASES = 2
TEXTS = ("a photo of a cat", "a diagram", "two red circles on a white table")
Say = Callable[[str, float], None]


@dataclass(frozen=True)
class Picture:
    """An image as a file and as Hugging Face's processor sees it, pixels [1, 3, h, w]."""

    data: bytes
    suffix: str
    pixels: Tensor


@dataclass(frozen=True)
class Exported:
    """What `export_encoder` made: its digest, its size, and how close it is to PyTorch."""

    digest: str
    bytes: int
    parity: EncoderParity


def refuse_options(checkpoint: Checkpoint, asked: ExportOptions) -> None:
    """Refuse what only a language model has a use for.

    Raises:
        UsageError: naming the option.
    """
    for found in changed(asked):
        value, useful = getattr(asked, found.name), shown_of(found).encoder
        if useful is True or (useful and value in useful):
            continue
        option = flag_of(found) + (f" {value}" if isinstance(value, str) else "")
        raise UsageError(
            f"{checkpoint.path} is an encoder of type {checkpoint.model_type!r}, which has no "
            f"use for {option}; leave it out"
        )


def export_encoder(
    checkpoint: Checkpoint, out: str | Path, asked: ExportOptions, flavour: Flavour, say: Say
) -> Exported:
    """Freeze an encoder with a method inside its tower into a bundle, checked against PyTorch.

    Budgets that are not asked for are a quarter, a half and all of the patches; the method is
    `tome`, or `expedit` for heads that draw.

    Args:
        flavour: that is added to `ort`.

    Raises:
        EdgetokError: one of its subclasses; nothing is published then.
    """
    weights, samples, seed = asked.weights, asked.samples, asked.seed
    with BundleWriter(out, force=asked.force, sources=[checkpoint.path]) as writer:
        say("load model", 0.0)
        scratch = Scratch(writer.path_of(""))  # on the disk that the bundle needs too
        parts = open_encoder(replace(checkpoint, scratch=scratch))
        chosen = find_method(asked.method or ("expedit" if parts.needs_patches else "tome"), seed)
        inside = require_fit(parts, chosen)
        vision = parts.vision
        chosen = chosen.for_tower(vision.prefix_tokens, len(vision.blocks))
        ladder = _choose_budgets(parts, chosen, asked.budgets)
        inputs = check_encoder_inputs(parts)
        pictures = _read_pictures(parts, samples, asked.parity_images, seed)
        builder = EncoderBuilder(parts, inside, ladder, weights, flavour, scratch)
        graphs = builder.build(lambda what, done: say(what, 0.1 + 0.5 * done))
        writer.write(weight_file.FILE, builder.store.chunks())
        for graph in graphs:
            writer.write(graph.stage.file, graph.data)
        say("check against PyTorch", 0.6)
        flavours: list[Flavour] = ["ort"] if flavour == "ort" else ["ort", "portable"]
        runners = {
            each: GraphRunner([g for g in graphs if g.stage.flavour == each], writer.path_of(""))
            for each in flavours
        }
        reference, texts = EncoderReference(parts, inside), _encode_texts(parts, TEXTS)
        pixels = [picture.pixels for picture in pictures]
        checks = check_encoder(reference, runners, ladder, pixels, texts, weights)
        report = EncoderParity(weights, len(pictures), samples is None, inputs.report, checks)
        require_parity(checks)
        say("write", 0.95)
        writer.write(IMAGE_FILE, encode_strict(parts.image))
        if parts.text is not None:
            writer.write(TOKENIZER_FILE, parts.text.tokenizer.encode())
        _write_golden(writer, parts, runners["ort"], ladder, pictures[:GOLDEN_CASES], texts)
        inputs.write(writer)
        writer.write("reports/parity.json", encode_strict(report))
        stages = [graph.stage for graph in graphs]
        digest = writer.publish(_describe(parts, chosen, ladder, weights, stages))
        total = sum(file.bytes for file in writer.files.values())
    say("done", 1.0)
    return Exported(digest, total, report)


def _choose_budgets(
    parts: EncoderParts, method: Method, budgets: str | int | Iterable[int | str] | None
) -> list[int]:
    vision = parts.vision
    full = vision.full_tokens
    if budgets is None:
        possible = method.budgets(full, vision.grid) if parts.movable else [full]
        nearest = {min(possible, key=lambda b: abs(b - full * share)) for share in (0.25, 0.5)}
        return sorted({*nearest, full})
    found = list(parse_budgets(budgets, full))
    require_movable(parts, found)
    for budget in found:
        method.check_budget(full, vision.grid, budget)
    return found


def _read_pictures(
    parts: EncoderParts, samples: str | Path | None, count: int, seed: int
) -> list[Picture]:
    if samples is None:
        made = []
        for picture in synthetic_pictures(count):
            packed = io.BytesIO()
            picture.save(packed, "PNG")
            made.append(Picture(packed.getvalue(), ".png", parts.process(picture)))
        return made
    loaded = load_samples(samples)
    return [
        _read_picture(parts, sample.image) for sample in draw(loaded, min(count, len(loaded)), seed)
    ]


def _read_picture(parts: EncoderParts, path: Path) -> Picture:
    data, picture = read_file(path)
    return Picture(data, path.suffix.lower(), parts.process(picture))


def _encode_texts(parts: EncoderParts, texts: Sequence[str]) -> list[Tensor]:
    """Ids [1, T] of each text; none if the model has no text side."""
    if parts.text is None:
        return []
    tokenizer = Tokenizer.from_str(parts.text.tokenizer)
    found = [tokenizer.encode(text).ids for text in texts]
    return [torch.tensor([ids]) for ids in found if len(ids) == parts.text.length]


def _write_golden(
    writer: BundleWriter,
    parts: EncoderParts,
    runner: GraphRunner,
    budgets: Sequence[int],
    pictures: Sequence[Picture],
    texts: Sequence[Tensor],
) -> None:
    """What the graphs themselves make of some images and a text."""
    found = []
    for number, picture in enumerate(pictures):
        image, pixels = f"golden/{number}{picture.suffix}", picture.pixels.numpy()
        writer.write(image, picture.data)
        rungs = {
            k: runner.run(names.ENCODE, k, {names.PIXELS: pixels})[parts.output][0] for k in budgets
        }
        found.append(encoder_golden.EncoderCase(f"case{number}", image, pixels[0], rungs))
    described = None
    if texts:
        out = runner.run(names.DESCRIBE, None, {names.TOKEN_IDS: texts[0].numpy()})
        ids, embedding = texts[0][0].numpy(), out[names.TEXT_EMBEDDING][0]
        described = encoder_golden.GoldenText(TEXTS[0], ids, embedding)
    for path, data in encoder_golden.encode_encoder_golden(found, described).items():
        writer.write(path, data)


def _describe(
    parts: EncoderParts,
    method: Method,
    budgets: Sequence[int],
    weights: Weights,
    stages: list[Stage],
) -> EncoderManifest:
    vision, text = parts.vision, parts.text
    (height, width), largest = vision.image_px, stages[len(budgets) - 1]
    side = None
    if text is not None:
        side = TextSide(tokens=text.length, similarity=text.similarity)
    return EncoderManifest(
        format_version=FORMAT_VERSION,
        task=parts.task,
        producer=f"edgetok {VERSION}",
        family=parts.family,
        method=method.name,
        ladder=[EncoderRung(budget=budget) for budget in budgets],
        weights=weights,
        vision=Vision(
            height_px=height,
            width_px=width,
            grid=list(vision.grid),
            full_tokens=vision.full_tokens,
        ),
        output=next(t for t in largest.outputs if t.name == parts.output),
        labels=list(parts.labels),
        scores=parts.scores,
        text=side,
        stages=stages,
        files={},
    )
