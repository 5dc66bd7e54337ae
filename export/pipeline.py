"""From a model directory to a published bundle: the one place that knows the order of things."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edgetok import names
from edgetok.bundle.manifest import Flavour, Precision
from edgetok.bundle.processor import IMAGE_FILE, PROMPT_FILE, TOKENIZER_FILE
from edgetok.bundle.strict import encode_strict
from edgetok.bundle.writer import BundleWriter
from edgetok.calibration.kv_scales import measure_kv_scales, require_scales
from edgetok.calibration.samples import draw, load_samples
from edgetok.errors import UsageError
from edgetok.export.builder import Graph, GraphBuilder, Scales
from edgetok.export.caches.choose import choose_cache
from edgetok.export.caches.evicting.graphs import draw_numbers
from edgetok.export.caches.evicting.parity import visual_rows
from edgetok.export.caches.evicting.reference import CacheReference
from edgetok.export.caches.ring_options import make_reference, shape_ring
from edgetok.export.caches.tidaldecode.options import eager_reads, shape_reads
from edgetok.export.cases import Case, make_cases, synthetic_cases
from edgetok.export.encoder.pipeline import export_encoder, refuse_options
from edgetok.export.learned_weights import with_scorer
from edgetok.export.lowering import opset20, portable
from edgetok.export.lowering import weight_file as external
from edgetok.export.manifest import describe
from edgetok.export.options import BUDGETS, KV_BITS, METHOD, ExportOptions, Lowering
from edgetok.export.parity.gate import ParityReport, prove, require_parity
from edgetok.export.parity.gate_portable import prove_portable
from edgetok.export.parity.golden import write_golden
from edgetok.export.parity.sessions import GraphRunner
from edgetok.export.reference.model import Reference
from edgetok.export.stages.tower import require_tower
from edgetok.families import open_model
from edgetok.families.checkpoint import read_checkpoint, require_tokenizer
from edgetok.families.encoders import is_encoder
from edgetok.families.parts import Parts, TextParts, VisionParts
from edgetok.kv import Policy, Room, keep_all, make_room
from edgetok.kv.mixing import require_mixers_fit
from edgetok.ladder import Ladder, build_ladder, parse_budgets
from edgetok.methods import Method, find_method
from edgetok.options import fill
from edgetok.scratch import Scratch

KV_SAMPLES = 32  # seconds of work; how scales depend on the number was not measured
FLAVOURS: dict[Lowering, tuple[Flavour, int]] = {
    "ort": ("ort", portable.OPSET),
    "portable": ("portable", portable.OPSET),
    "portable-20": ("portable", opset20.OPSET),
}
GOLDEN_CASES = 2  # each holds its image and pixels: 0.5 MB at 192 pixels, 1.5 MB at 336


@dataclass(frozen=True)
class ExportReport:
    """What an export made: where, its digest, how long, and how close it is to PyTorch."""

    bundle: Path
    digest: str
    seconds: float
    bytes: int
    parity: dict[str, Any]


def export_model(
    model_dir: str | Path,
    out: str | Path,
    *,
    progress: Callable[[str, float], None] | None = None,
    **options: Any,
) -> ExportReport:
    """Freeze a Hugging Face model with a compressor into a bundle, proved against PyTorch.

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
    added, opset = FLAVOURS[asked.flavour]
    checkpoint = read_checkpoint(Path(model_dir), tokenizer=False)  # cheap refusals come first
    if is_encoder(checkpoint):
        refuse_options(checkpoint, asked)
        made = export_encoder(checkpoint, out, asked, added, say)
        return _report(out, made.digest, started, made.bytes, made.parity)
    require_tokenizer(checkpoint.path)
    budgets = BUDGETS if asked.budgets is None else asked.budgets
    prompt_tokens, seed, kv, samples = asked.prompt_tokens, asked.seed, asked.kv, asked.samples
    cache = choose_cache(
        kv=kv,
        policy=asked.kv_policy,
        prefill=asked.prefill,
        slots=asked.kv_slots,
        reads=asked.kv_reads,
        channels=asked.kv_channels,
        kv_weights=asked.kv_weights,
        exit_weights=asked.exit_weights,
    )
    reduction = cache.reduction
    chosen = find_method(asked.method or METHOD, seed, mask_sinks=asked.mask_sinks)
    chosen = with_scorer(chosen, None if asked.scorer is None else Path(asked.scorer))
    chosen.for_pictures(asked.pictures)  # refuses what cannot be, here and now
    with BundleWriter(out, force=asked.force, sources=[model_dir]) as writer:
        say("load model", 0.0)
        scratch = Scratch(writer.path_of(""))  # on the disk that the bundle needs too
        parts = open_model(
            Path(model_dir), asked.tiles, asked.size_px, scratch, pictures=asked.pictures
        )
        chosen = _fit_method(chosen, parts.vision, asked.pictures)
        cache.require_decoder(parts.text, added)
        ladder = _make_ladder(parts, chosen, budgets, prompt_tokens, asked.new_tokens)
        room = _make_room(cache.policy, cache.slots, ladder, parts.text)
        reads = shape_reads(cache.reading, cache.reads, ladder, parts.text)
        cases, calibration = _make_cases(parts, samples, asked.parity_images, seed, kv)
        _require_prompts_fit([*cases, *calibration], prompt_tokens)
        eager = None if reduction is not None else _eager_cache(parts, room, seed, kv, ladder)
        eager = eager if reads is None else eager_reads(parts.text, reads, ladder)
        grouped = shape_ring(kv, ladder, parts.text, asked.kv_channels)
        reference = make_reference(parts, chosen, eager, grouped)
        bits = KV_BITS.get(kv)
        scales = _measure_scales(reference, calibration, bits) if bits else None
        builder = GraphBuilder(
            *(parts, chosen, ladder, asked.weights, scales),
            *(added, reduction, bits or 8, room, seed),
            ringed=grouped,
            reads=reads,
            opset=opset,
        )
        graphs = builder.build(lambda what, done: say(what, 0.1 + 0.5 * done))
        _write_graphs(writer, builder, graphs)
        say("prove against PyTorch", 0.6)
        precision = Precision(weights=asked.weights, kv=kv)
        runner = GraphRunner(
            *(_of(graphs, "ort"), writer.path_of(""), reduction, room, scales, parts.shift)
        )
        report = _prove(builder, graphs, reference, runner, cases, precision, samples is None)
        require_parity(report)
        say("write", 0.95)
        _write_processor(writer, parts)
        write_golden(writer, reference, runner, ladder, cases[:GOLDEN_CASES])
        writer.write("reports/parity.json", encode_strict(report))
        stages = [graph.stage for graph in graphs]
        described = (parts, chosen, ladder, precision, seed, stages, reduction, room, grouped)
        digest = writer.publish(describe(*described, reads=reads))
        total_bytes = sum(file.bytes for file in writer.files.values())
    say("done", 1.0)
    return _report(out, digest, started, total_bytes, report)


def _fit_method(method: Method, vision: VisionParts, pictures: int) -> Method:
    """The method for this tower, its tiles and so many pictures; refused where it does not fit."""
    fitted = method.for_tiles(vision.tiles)
    fitted = fitted.for_tower(vision.prefix_tokens, len(vision.blocks)).for_pictures(pictures)
    require_tower(vision, fitted)
    return fitted


def _report(
    out: str | Path, digest: str, started: float, total_bytes: int, parity: msgspec.Struct
) -> ExportReport:
    seconds = time.monotonic() - started
    return ExportReport(Path(out), digest, seconds, total_bytes, msgspec.to_builtins(parity))


def _of(graphs: Iterable[Graph], flavour: Flavour) -> list[Graph]:
    return [graph for graph in graphs if graph.stage.flavour == flavour]


def _prove(
    builder: GraphBuilder,
    graphs: Sequence[Graph],
    reference: Reference,
    runner: GraphRunner,
    cases: Sequence[Case],
    precision: Precision,
    synthetic: bool,
) -> ParityReport:
    """Both flavours; the portable one first, since the other rounds the reference for good."""
    ladder, checks = builder.ladder, []
    if spelled := _of(graphs, "portable"):
        kept = builder.room is not None or builder.reads is not None
        cache = reference.cache if kept else None  # it begins anew with a prompt
        plain = make_reference(builder.parts, builder.method, cache, builder.ringed)
        scales, reduction = builder.scales, builder.prefill
        spelled_runner = GraphRunner(
            *(spelled, runner.root, reduction, builder.room, scales, builder.parts.shift)
        )
        checks = prove_portable(plain, spelled_runner, ladder, cases, precision, scales, reduction)
        if cache is not None:
            cache.agreement.clear()  # what it compared so far is in the checks
    report = prove(
        reference, runner, ladder, cases, precision, synthetic=synthetic, prefill=builder.prefill
    )
    return msgspec.structs.replace(report, checks=report.checks + checks)


def _make_room(
    policy: Policy | None, slots: int | None, ladder: Ladder, text: TextParts
) -> Room | None:
    if policy is None:
        return None
    wanted = ladder.largest.cache_slots if slots is None else slots
    room = make_room(policy, wanted, len(text.layers), text.max_positions)
    if policy.mixers:
        require_mixers_fit(policy.mixers, room.keep, policy.recent or 0, text.head_dim)
    return room


def _eager_cache(
    parts: Parts, room: Room | None, seed: int, kv: str, ladder: Ladder
) -> CacheReference | None:
    """The reference of caches that Hugging Face's own is too far from: emptied or coarse ones."""
    if room is not None:
        draws = draw_numbers(parts.text, seed) if room.policy.drawn else None
        return CacheReference(parts.text, room, draws)
    if kv != "int4":
        return None
    return CacheReference(parts.text, keep_all(ladder.largest.cache_slots, len(parts.text.layers)))


def _make_ladder(
    parts: Parts,
    method: Method,
    budgets: str | int | Iterable[int | str],
    prompt_tokens: int,
    new_tokens: int,
) -> Ladder:
    vision, positions = parts.vision, parts.text.max_positions
    parsed = parse_budgets(budgets, parts.full_tokens)
    for budget in parsed if parts.layout is None else set(parsed) - {parts.full_tokens}:
        method.check_budget(vision.full_tokens, vision.grid, budget)
    ladder = build_ladder(parsed, prompt_tokens, new_tokens)
    if ladder.largest.cache_slots > positions:
        raise UsageError(
            f"{parsed[-1]} visual + {prompt_tokens} prompt + {new_tokens} new tokens are "
            f"{ladder.largest.cache_slots} positions; this model was trained for {positions}, "
            "lower --prompt-tokens, --new-tokens or the largest budget"
        )
    return ladder


def _make_cases(
    parts: Parts, samples: str | Path | None, count: int, seed: int, kv: str
) -> tuple[list[Case], list[Case]]:
    """Cases of the proof and cases for KV scales, different samples if there are enough."""
    if samples is None:
        return synthetic_cases(parts, count), []
    loaded = load_samples(samples)
    wanted = count + (KV_SAMPLES if kv in KV_BITS else 0)
    cases = make_cases(parts, draw(loaded, min(wanted, len(loaded)), seed))
    return cases[:count], cases[count:] or cases if kv in KV_BITS else []


def _require_prompts_fit(cases: Sequence[Case], prompt_tokens: int) -> None:
    longest = max(len(case.before) + len(case.after) for case in cases)
    if longest > prompt_tokens:
        raise UsageError(
            f"the longest sample prompt has {longest} tokens with its template, but "
            f"--prompt-tokens is {prompt_tokens}; raise it to {longest} or more"
        )


def _measure_scales(reference: Reference, cases: Sequence[Case], bits: int) -> Scales:
    full = reference.parts.full_tokens

    def rows() -> Iterable[Any]:
        for case in cases:
            made = reference.compress(reference.encode(case.pixels, full), full)
            embeds = reference.embed(case.before, made[names.VISUAL_TOKENS], case.after)
            yield reference.inputs(embeds, visual_rows(len(case.before), full), made=made)

    scales = measure_kv_scales(reference.parts.text, rows(), bits)
    require_scales(scales)
    return scales


def _write_graphs(writer: BundleWriter, builder: GraphBuilder, graphs: Sequence[Graph]) -> None:
    writer.write(external.FILE, builder.store.chunks())
    for graph in graphs:
        writer.write(graph.stage.file, graph.data)


def _write_processor(writer: BundleWriter, parts: Parts) -> None:
    writer.write(IMAGE_FILE, encode_strict(parts.image))
    writer.write(PROMPT_FILE, encode_strict(parts.prompt))
    writer.write(TOKENIZER_FILE, (parts.path / "tokenizer.json").read_bytes())
