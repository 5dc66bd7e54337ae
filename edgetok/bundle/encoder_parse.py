"""The only way into the manifest of an encoder: strict JSON, of this format, that agrees."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

from edgetok import limits, names
from edgetok.bundle.contradictions import file_problems, serving_problems, tensor_problems
from edgetok.bundle.encoders import LABELLED, EncoderManifest
from edgetok.bundle.manifest import MANIFEST_FILE, Stage, Tensor
from edgetok.bundle.parse import ANSWER, decode_manifest, read_task, require_agreement
from edgetok.bundle.processor import IMAGE_FILE, TOKENIZER_FILE
from edgetok.bundle.strict import require_plain_json
from edgetok.errors import UsageError

_STAGES = (names.ENCODE, names.DESCRIBE)
# Of each task, what its output is called and how many dimensions it has.
OUTPUTS = {
    "classify": (names.LOGITS, 2),
    "embed": (names.EMBEDDING, 2),
    "similarity": (names.EMBEDDING, 2),
    "depth": (names.DEPTH, 3),
    "segment": (names.SCORES, 4),
}


def parse_encoder_manifest(data: bytes) -> EncoderManifest:
    """Decode and check the `manifest.json` of an encoder.

    Raises:
        BundleError: naming the JSON path of what is malformed, or all contradictions at once.
        UsageError: if the bundle answers questions.
    """
    require_plain_json(data, MANIFEST_FILE, limits.MANIFEST_BYTES)
    if read_task(data) == ANSWER:
        raise UsageError(
            "this bundle answers questions about pictures; open it with edgetok.load, or ask it "
            "with `edgetok run BUNDLE --image FILE --prompt TEXT`"
        )
    manifest = decode_manifest(data, EncoderManifest)
    require_agreement(find_encoder_contradictions(manifest))
    return manifest


def find_encoder_contradictions(manifest: EncoderManifest) -> Iterator[str]:
    """Everything in a well-formed manifest that contradicts itself, each in a sentence."""
    yield from _ladder_problems(manifest)
    yield from _output_problems(manifest)
    yield from _text_problems(manifest)
    needed = [IMAGE_FILE] if manifest.text is None else [IMAGE_FILE, TOKENIZER_FILE]
    yield from file_problems(manifest.files, manifest.stages, needed)
    for index, stage in enumerate(manifest.stages):
        if stage.stage not in _STAGES or stage.layer is not None:
            yield f"$.stages[{index}] is {stage.stage}, which no encoder has"
        yield from tensor_problems(stage)
        yield from _graph_problems(manifest, stage)
    budgets = {rung.budget for rung in manifest.ladder}
    for flavour in sorted({"ort", *(stage.flavour for stage in manifest.stages)}):
        yield from serving_problems(manifest.stages, budgets, flavour, names.ENCODE)
        wanted = 0 if manifest.text is None else 1
        found = [s for s in manifest.stages if (s.stage, s.flavour) == (names.DESCRIBE, flavour)]
        if len(found) != wanted or any(stage.budget is not None for stage in found):
            yield f"$.stages: {len(found)} {flavour} graphs of describe, not {wanted} for all rungs"


def _ladder_problems(manifest: EncoderManifest) -> Iterator[str]:
    vision, budgets = manifest.vision, [rung.budget for rung in manifest.ladder]
    if any(low >= high for low, high in pairwise(budgets)):
        yield f"$.ladder: budgets {budgets} are not ascending and unique"
    if budgets[-1] > vision.full_tokens:
        yield f"$.ladder: budget {budgets[-1]} exceeds the {vision.full_tokens} full tokens"
    if math.prod(vision.grid) != vision.full_tokens or vision.parts != 1 or vision.separators:
        yield f"$.vision.grid {vision.grid} is not full_tokens {vision.full_tokens} of one part"
    if max(vision.height_px, vision.width_px) > limits.IMAGE_SIDE_PIXELS:
        yield f"$.vision: an image side exceeds {limits.IMAGE_SIDE_PIXELS} pixels"


def _output_problems(manifest: EncoderManifest) -> Iterator[str]:
    output, (name, rank) = manifest.output, OUTPUTS[manifest.task]
    if (output.name, output.dtype, len(output.shape)) != (name, "float32", rank):
        yield f"$.output {output.name} {output.dtype}{output.shape} does not go with the task"
    elif output.shape[0] != 1 or 0 in output.shape:
        yield f"$.output {output.shape} is not of one picture"
    elif manifest.task in LABELLED and len(manifest.labels) != output.shape[1]:
        yield f"$.labels has {len(manifest.labels)} names for {output.shape[1]} classes"
    if manifest.task not in LABELLED and manifest.labels:
        yield f"$.labels has {len(manifest.labels)} names, and {manifest.task} has no classes"


def _text_problems(manifest: EncoderManifest) -> Iterator[str]:
    text = manifest.text
    if (text is not None) != (manifest.task == "similarity"):
        yield f"$.text does not go with the task {manifest.task}"
    if text is not None and not all(
        map(math.isfinite, (text.similarity.scale, text.similarity.bias))
    ):
        yield "$.text.similarity: scale and bias must be finite"


def _graph_problems(manifest: EncoderManifest, stage: Stage) -> Iterator[str]:
    """What a runtime feeds and reads by name is there, in this shape."""
    vision = manifest.vision
    pixels = Tensor(
        name=names.PIXELS, dtype="float32", shape=[1, 3, vision.height_px, vision.width_px]
    )
    if stage.stage == names.ENCODE:
        rows = [] if stage.budget is None else [stage.budget]
        made = [
            manifest.output,
            Tensor(name=names.KEPT, dtype="int64", shape=rows),
            Tensor(name=names.SIZES, dtype="float32", shape=rows),
        ]
        wanted = [pixels], made
    elif stage.stage == names.DESCRIBE and manifest.text is not None:
        ids = Tensor(name=names.TOKEN_IDS, dtype="int64", shape=[1, manifest.text.tokens])
        embedding = Tensor(name=names.TEXT_EMBEDDING, dtype="float32", shape=manifest.output.shape)
        wanted = [ids], [embedding]
    else:
        return
    if (stage.inputs, stage.outputs) != wanted:
        yield f"{stage.stage} of rung {stage.budget} does not take and give what its task needs"
