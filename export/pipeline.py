"""From a model directory to a published bundle: the one place that knows the order of things."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from edgetok import names
from edgetok.bundle.manifest import Flavour, Precision, Weights
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
from edgetok.export.caches.ring_options import RINGED, make_reference, shape_ring
from edgetok.export.caches.tidaldecode.options import eager_reads, shape_reads
from edgetok.export.cases import Case, make_cases, synthetic_cases
from edgetok.export.encoder.pipeline import export_encoder, refuse_options
from edgetok.export.learned_weights import with_scorer
from edgetok.export.lowering import opset20, portable
from edgetok.export.lowering import weight_file as external
from edgetok.export.manifest import describe
from edgetok.export.parity.gate import ParityReport, prove, require_parity
from edgetok.export.parity.gate_portable import prove_portable
from edgetok.export.parity.golden import write_golden
from edgetok.export.parity.sessions import GraphRunner
from edgetok.export.reference.model import Reference
from edgetok.export.stages.tower import require_tower
from edgetok.families import open_model
from edgetok.families.checkpoint import read_checkpoint, require_tokenizer
from edgetok.families.encoders import is_encoder
from edgetok.families.parts import Grid, Parts, TextParts, VisionParts
from edgetok.kv import NONE, Policy, Reading, EvictionPlan, keep_all, plan_eviction
from edgetok.kv.mixing import require_mixers_fit
from edgetok.ladder import Ladder, build_ladder, parse_budgets
from edgetok.methods import Method, find_method
from edgetok.prefill import Prefill
from edgetok.scratch import Scratch

METHOD, BUDGETS = "visionzip", "64,128,192,full"
KV_SAMPLES = 32  # seconds of work; how scales depend on the number was not measured
KV_BITS = {"int8": 8, "int4": 4}
# What users ask for: the flavour that is added to `ort`, and its opset.
Spelled = Literal["ort", "portable", "portable-20"]
FLAVOURS: dict[str, tuple[Flavour, int]] = {
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
    budgets: str | int | Iterable[int | str] | None = None,
    method: str | None = None,
    mask_sinks: bool = False,
    scorer: str | Path | None = None,
    weights: Weights = "fp32",
    kv: str = "fp32",
    kv_channels: int | None = None,
    kv_policy: str | Policy | Reading = NONE,
    kv_slots: int | None = None,
    kv_weights: str | Path | None = None,
    kv_reads: int | None = None,
    flavour: Spelled = "ort",
    prefill: str | Prefill | None = None,
    exit_weights: str | Path | None = None,
    samples: str | Path | None = None,
    prompt_tokens: int = 96,
    new_tokens: int = 128,
    seed: int = 0,
    force: bool = False,
    parity_images: int = 4,
    tiles: Grid | None = None,
    size_px: Grid | None = None,
    pictures: int = 1,
    progress: Callable[[str, float], None] | None = None,
) -> ExportReport:
    """Freeze a Hugging Face model with a compressor into a bundle, proved against PyTorch.

    Args:
        model_dir: local model directory.
        out: the bundle to publish.
        budgets: visual tokens per rung, such as "64,128,full"; `BUDGETS` when None, or what suits
            an encoder.
        method: token compressor; `METHOD` when None, or what suits an encoder.
        mask_sinks: take attention sinks only if nothing else is left; the bundle then names its
            method with "+masked-sinks".
        scorer: safetensors with the weights of a trained scorer, for methods that have a slot.
        kv_channels: channels that keys keep where `kv` is `think`, but for the last ones; three of
            five when None.
        kv_policy: what a full KV cache keeps, by name or as a policy of one's own; with `none` it
            keeps every row, and an answer ends where the cache does. `mustdrop` goes with the
            prefill method of that name and has its cache hold final survivors alone.
        kv_slots: rows per layer that the cache of a policy holds, on average; as many as without
            one when None.
        kv_weights: safetensors with the learned weights of a policy that has a slot for them.
        kv_reads: rows that a decode step reads behind layers that choose, where the policy is
            `tidaldecode`; a quarter of the slots when None.
        samples: JSONL or folder of images and prompts, for KV scales and the proof.
        flavour: `portable` adds the same graphs in standard operators of opset 24, `portable-20`
            in those of opset 20.
        prefill: method that takes visual tokens away between the layers of the decoder, as NAME or
            NAME:RATIO; see `edgetok.prefill`.
        exit_weights: safetensors with the routers of a prefill method that has a slot for them.
        prompt_tokens: text tokens per prompt, template included.
        new_tokens: tokens that may follow a full prompt.
        seed: of the `random` method and of the choice of samples.
        parity_images: images that every graph is proved on.
        tiles: rows and columns of the tiles into which pictures are cut, for families that do so;
            the tower then looks at a thumbnail and at each tile. None for pictures in one part.
        size_px: height and width to which pictures are stretched, for families that take any size.
        pictures: how many a prompt has, which share its budget; frames of a video too.

    Raises:
        EdgetokError: one of its subclasses; nothing is published then.
    """
    started = time.monotonic()
    say = progress or (lambda _what, _done: None)
    _require_precision(weights, kv, flavour, samples)
    added, opset = FLAVOURS[flavour]
    checkpoint = read_checkpoint(Path(model_dir), tokenizer=False)  # cheap refusals come first
    if is_encoder(checkpoint):
        refuse_options(
            checkpoint,
            mask_sinks=mask_sinks,
            scorer=scorer,
            kv=kv,
            kv_channels=kv_channels,
            kv_policy=kv_policy,
            kv_slots=kv_slots,
            kv_weights=kv_weights,
            kv_reads=kv_reads,
            prefill=prefill,
            exit_weights=exit_weights,
            prompt_tokens=prompt_tokens,
            new_tokens=new_tokens,
            tiles=tiles,
            image_size=size_px,
            images=pictures,
            flavour=flavour,
        )
        made = export_encoder(
            checkpoint,
            out,
            budgets=budgets,
            method=method,
            weights=weights,
            flavour=added,
            samples=samples,
            seed=seed,
            force=force,
            parity_images=parity_images,
            say=say,
        )
        return _report(out, made.digest, started, made.bytes, made.parity)
    require_tokenizer(checkpoint.path)
    budgets, method = BUDGETS if budgets is None else budgets, method or METHOD
    cache = choose_cache(
        kv=kv,
        policy=kv_policy,
        prefill=prefill,
        slots=kv_slots,
        reads=kv_reads,
        channels=kv_channels,
        kv_weights=kv_weights,
        exit_weights=exit_weights,
    )
    reduction = cache.reduction
    chosen = find_method(method, seed, mask_sinks=mask_sinks)
    chosen = with_scorer(chosen, None if scorer is None else Path(scorer))
    chosen.for_pictures(pictures)  # refuses what cannot be, here and now
    with BundleWriter(out, force=force, sources=[model_dir]) as writer:
        say("load model", 0.0)
        scratch = Scratch(writer.path_of(""))  # on the disk that the bundle needs too
        parts = open_model(Path(model_dir), tiles, size_px, scratch, pictures=pictures)
        chosen = _fit_method(chosen, parts.vision, pictures)
        cache.require_decoder(parts.text, added)
        ladder = _make_ladder(parts, chosen, budgets, prompt_tokens, new_tokens)
        room = _make_room(cache.policy, cache.slots, ladder, parts.text)
        reads = shape_reads(cache.reading, cache.reads, ladder, parts.text)
        cases, calibration = _make_cases(parts, samples, max(1, parity_images), seed, kv)
        _require_prompts_fit([*cases, *calibration], prompt_tokens)
        eager = None if reduction is not None else _eager_cache(parts, room, seed, kv, ladder)
        eager = eager if reads is None else eager_reads(parts.text, reads, ladder)
        grouped = shape_ring(kv, ladder, parts.text, kv_channels)
        reference = make_reference(parts, chosen, eager, grouped)
        bits = KV_BITS.get(kv)
        scales = _measure_scales(reference, calibration, bits) if bits else None
        builder = GraphBuilder(
            *(parts, chosen, ladder, weights, scales, added, reduction, bits or 8, room, seed),
            ringed=grouped,
            reads=reads,
            opset=opset,
        )
        graphs = builder.build(lambda what, done: say(what, 0.1 + 0.5 * done))
        _write_graphs(writer, builder, graphs)
        say("prove against PyTorch", 0.6)
        precision = Precision(weights=weights, kv=kv)
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


def _require_precision(weights: str, kv: str, flavour: str, samples: object) -> None:
    for what, value, known in (
        ("weights precision", weights, ("fp32", "int8", "int4")),
        ("kv precision", kv, ("fp32", *KV_BITS, *RINGED)),
        ("flavour", flavour, tuple(FLAVOURS)),
    ):
        if value not in known:
            raise UsageError(f"{what} {value!r} is unknown; choose {', '.join(known)}")
    if kv in KV_BITS and samples is None:
        raise UsageError(
            f"an {kv} KV cache needs images and prompts to measure its scales on; "
            "give samples (--samples FILE.jsonl or a folder), or use kv fp32 (--kv fp32)"
        )


def _make_room(
    policy: Policy | None, slots: int | None, ladder: Ladder, text: TextParts
) -> EvictionPlan | None:
    if policy is None:
        return None
    wanted = ladder.largest.cache_slots if slots is None else slots
    room = plan_eviction(policy, wanted, len(text.layers), text.max_positions)
    if policy.mixers:
        require_mixers_fit(policy.mixers, room.keep, policy.recent or 0, text.head_dim)
    return room


def _eager_cache(
    parts: Parts, room: EvictionPlan | None, seed: int, kv: str, ladder: Ladder
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
