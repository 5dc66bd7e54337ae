"""From a model directory to a published bundle: the one place that knows the order of things."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edgetok.bundle.manifest import Flavour, Precision
from edgetok.bundle.processor import IMAGE_FILE, PROMPT_FILE, TOKENIZER_FILE
from edgetok.bundle.strict import encode_strict
from edgetok.bundle.writer import BundleWriter
from edgetok.export.builder import GraphBuilder
from edgetok.export.caches.choose import CacheChoice, choose_cache
from edgetok.export.caches.scheme import CacheScheme
from edgetok.export.cases import Case
from edgetok.export.encoder.pipeline import export_encoder, refuse_options
from edgetok.export.fit import fit_ladder, fit_method, gather_cases, measure_scales, round_to_four
from edgetok.export.graph import Graph, Progress
from edgetok.export.learned_weights import with_scorer
from edgetok.export.lowering import weight_file
from edgetok.export.lowering.flavours import FLAVOURS, list_lowerings
from edgetok.export.lowering.gptq import RoundedWeights
from edgetok.export.lowering.quantize import BITS
from edgetok.export.manifest import describe
from edgetok.export.options import METHOD, ExportOptions
from edgetok.export.parity.gate import Subject, check_parity
from edgetok.export.parity.golden import write_golden
from edgetok.export.parity.inputs import InputReport, check_inputs
from edgetok.export.parity.ledger import ParityReport, Rounding, require_parity
from edgetok.export.parity.sessions import GraphRunner
from edgetok.export.reference.model import Reference
from edgetok.export.reference.smoothing import smooth
from edgetok.families import open_model
from edgetok.families.checkpoint import Checkpoint, read_checkpoint, require_tokenizer
from edgetok.families.encoders import is_encoder
from edgetok.families.parts import Parts
from edgetok.families.tokenizer import write_tokenizer
from edgetok.ladder import Ladder
from edgetok.methods import Method, find_method
from edgetok.options import fill
from edgetok.scratch import Scratch

GOLDEN_CASES = 2  # each holds its image and pixels: 0.5 MB at 192 pixels, 1.5 MB at 336


@dataclass(frozen=True)
class ExportReport:
    """What an export made: where, its digest, how long, and how close it is to PyTorch."""

    bundle: Path
    digest: str
    seconds: float
    bytes: int
    parity: dict[str, Any]


@dataclass(frozen=True)
class ExportPlan:
    """What is asked for, fitted to a model: all that follows depends on this alone."""

    asked: ExportOptions
    parts: Parts
    method: Method
    ladder: Ladder
    cache: CacheScheme
    cases: Sequence[Case]
    rounded: RoundedWeights

    @property
    def rounding(self) -> Rounding | None:
        """How weights of 4 bits are rounded, if there are any."""
        if self.asked.weights != "int4":
            return None
        return "gptq" if self.rounded.weights else "nearest"

    @property
    def precision(self) -> Precision:
        return Precision(weights=self.asked.weights, kv=self.asked.kv)


def export_model(
    model_dir: str | Path,
    out: str | Path,
    *,
    progress: Callable[[str, float], None] | None = None,
    **options: Any,
) -> ExportReport:
    """Freeze a Hugging Face model with a compressor into a bundle, checked against PyTorch.

    Args:
        model_dir: local model directory.
        out: the bundle to publish.
        progress: called with what is done, and the share of the work that came before.
        options: fields of `edgetok.export.options.ExportOptions`.

    Raises:
        EdgetokError: one of its subclasses; nothing is published then.
    """
    started, say = time.monotonic(), progress or (lambda _what, _done: None)
    asked = fill(ExportOptions, options, "export")
    checkpoint = read_checkpoint(Path(model_dir), tokenizer=False)  # cheap refusals come first
    if is_encoder(checkpoint):
        refuse_options(checkpoint, asked)
        made = export_encoder(checkpoint, out, asked, FLAVOURS[asked.flavour][0], say)
        return _report(out, made.digest, started, made.bytes, made.parity)
    require_tokenizer(checkpoint.path)
    choice, method = choose_cache(asked), _choose_method(asked)
    with BundleWriter(out, force=asked.force, sources=[model_dir]) as writer:
        say("load model", 0.0)
        plan = _fit(asked, checkpoint, choice, method, Scratch(writer.path_of("")))
        say("compare inputs with transformers", 0.08)
        inputs = check_inputs(plan.parts)
        graphs = _build(plan, writer, lambda what, done: say(what, 0.1 + 0.5 * done))
        say("check against PyTorch", 0.6)
        sessions = _open_sessions(plan, graphs, writer.path_of(""))
        report = _check(plan, sessions, inputs.report)
        say("write", 0.95)
        _write_answers(plan, sessions["ort"], report, writer)
        inputs.write(writer)
        stages = [graph.stage for graph in graphs]
        given = plan.parts, plan.method, plan.ladder, plan.cache, plan.precision
        digest = writer.publish(describe(*given, asked.seed, stages))
        total_bytes = sum(file.bytes for file in writer.files.values())
    say("done", 1.0)
    return _report(out, digest, started, total_bytes, report)


def _choose_method(asked: ExportOptions) -> Method:
    chosen = find_method(asked.method or METHOD, asked.seed, mask_sinks=asked.mask_sinks)
    chosen = with_scorer(chosen, None if asked.scorer is None else Path(asked.scorer))
    chosen.for_pictures(asked.pictures)  # refuses what cannot be, before a model is loaded
    return chosen


def _fit(
    asked: ExportOptions,
    checkpoint: Checkpoint,
    choice: CacheChoice,
    method: Method,
    scratch: Scratch,
) -> ExportPlan:
    """Load the model, and see whether all that is asked for goes together with it.

    `scratch` lies on the disk that the bundle needs too.
    """
    sizes = asked.tiles, asked.size_px, scratch
    parts = open_model(checkpoint.path, *sizes, pictures=asked.pictures)
    method = fit_method(method, parts.vision, asked.pictures)
    choice.require_decoder(parts.text, asked.flavour)
    ladder = fit_ladder(parts, method, asked, one_length=choice.one_length)
    choice.plan(ladder, parts.text)  # refuses slots that do not fit, before samples are read
    in_four = asked.weights == "int4" and asked.samples is not None
    measured = choice.is_measured or in_four
    cases, calibration = gather_cases(parts, asked, measured=measured)

    if asked.weights != "fp32":
        smooth(Reference(parts, method), calibration or cases)

    def measure(bits: int) -> Any:
        return measure_scales(Reference(parts, method), calibration, bits)

    rounded = round_to_four(Reference(parts, method), calibration) if in_four else RoundedWeights()
    cache = choice.fit(parts, ladder, asked.seed, measure)
    return ExportPlan(asked, parts, method, ladder, cache, cases, rounded)


def _build(plan: ExportPlan, writer: BundleWriter, progress: Progress) -> list[Graph]:
    """All graphs, written, and their weights."""
    parts, bits = plan.parts, BITS[plan.asked.weights]
    lowerings = list_lowerings(plan.asked.flavour, bits, parts.scratch, parts.text.is_tied)
    builder = GraphBuilder(parts, plan.method, plan.ladder, plan.cache, lowerings)
    with plan.rounded.hold():
        graphs = builder.build(progress)
    writer.write(weight_file.FILE, builder.store.chunks())
    for graph in graphs:
        writer.write(graph.stage.file, graph.data)
    return graphs


def _open_sessions(
    plan: ExportPlan, graphs: Sequence[Graph], root: Path
) -> dict[Flavour, GraphRunner]:
    """The graphs of each flavour in ONNX Runtime."""
    given = plan.cache.reduction, plan.cache.plan, plan.parts.shift
    flavours = dict.fromkeys(graph.stage.flavour for graph in graphs)
    return {
        flavour: GraphRunner([g for g in graphs if g.stage.flavour == flavour], root, *given)
        for flavour in flavours
    }


def _check(
    plan: ExportPlan, sessions: Mapping[Flavour, GraphRunner], inputs: InputReport
) -> ParityReport:
    """Graphs against PyTorch.

    Raises:
        VerificationError: if they differ.
    """
    parts, method, ladder = plan.parts, plan.method, plan.ladder
    subject = Subject(parts, method, ladder, plan.cache, plan.precision, sessions, plan.rounded)
    checks, synthetic = check_parity(subject, plan.cases), plan.asked.samples is None
    given = plan.precision, plan.rounding, len(plan.cases), synthetic
    report = ParityReport(*given, inputs, checks)
    require_parity(checks)
    return report


def _write_answers(
    plan: ExportPlan, sessions: GraphRunner, report: ParityReport, writer: BundleWriter
) -> None:
    """What a device needs beside graphs, golden answers, and the report."""
    parts = plan.parts
    writer.write(IMAGE_FILE, encode_strict(parts.image))
    writer.write(PROMPT_FILE, encode_strict(parts.prompt.plan))
    writer.write(TOKENIZER_FILE, write_tokenizer(parts.path))
    reference = Reference(parts, plan.method)
    write_golden(writer, reference, sessions, plan.ladder, plan.cases[:GOLDEN_CASES])
    writer.write("reports/parity.json", encode_strict(report))


def _report(
    out: str | Path, digest: str, started: float, total_bytes: int, parity: msgspec.Struct
) -> ExportReport:
    seconds = time.monotonic() - started
    return ExportReport(Path(out), digest, seconds, total_bytes, msgspec.to_builtins(parity))
