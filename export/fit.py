"""What is asked for, held against a model: its method, its ladder, and the cases to check it on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any

from edgetok import names
from edgetok.calibration.kv_scales import measure_kv_scales, require_scales
from edgetok.calibration.samples import draw, load_samples
from edgetok.errors import UsageError
from edgetok.export.attention import Scales
from edgetok.export.cases import Case, count_template_tokens, make_cases, synthetic_cases
from edgetok.export.lowering.gptq import RoundedWeights, round_layers
from edgetok.export.lowering.quantize import BITS
from edgetok.export.options import BUDGETS, ExportOptions
from edgetok.export.parity.gate import visual_rows
from edgetok.export.reference.model import Reference
from edgetok.export.stages.tower import require_tower
from edgetok.families.parts import Parts, VisionParts
from edgetok.ladder import (
    Ladder,
    build_ladder,
    halve_prompt,
    parse_budgets,
    parse_prompt_tokens,
)
from edgetok.methods import Method

TEXT_TOKENS = 8  # of a question that a graph for short prompts should have room for at least
KV_SAMPLES = 32  # seconds of work; how scales depend on the number was not measured
GPTQ_SAMPLES = 8


def fit_method(method: Method, vision: VisionParts, images: int) -> Method:
    """The method for this tower, its tiles and so many images.

    Raises:
        UsageError: if it does not fit.
    """
    fitted = method.for_tiles(vision.tiles)
    fitted = fitted.for_tower(vision.prefix_tokens, len(vision.blocks)).for_pictures(images)
    require_tower(vision, fitted)
    return fitted


def fit_ladder(parts: Parts, method: Method, asked: ExportOptions, *, one_length: str) -> Ladder:
    """The rungs, as many tokens as the model has, and no more positions than it knows.

    Args:
        one_length: what asks for one prefill graph per rung; empty where nothing does.

    Raises:
        UsageError: for budgets that are none, or too many tokens.
    """
    vision, positions = parts.vision, parts.text.max_positions
    parsed = parse_budgets(BUDGETS if asked.budgets is None else asked.budgets, parts.full_tokens)
    for budget in parsed if parts.layout is None else set(parsed) - {parts.full_tokens}:
        method.check_budget(vision.full_tokens, vision.grid, budget)
    ladder = build_ladder(parsed, asked.prompt_tokens, asked.new_tokens)
    longest = ladder.largest.prompt_tokens
    if ladder.largest.cache_slots > positions:
        raise UsageError(
            f"{parsed[-1]} visual + {longest} prompt + {asked.new_tokens} new tokens "
            f"are {ladder.largest.cache_slots} positions; this model was trained for {positions}, "
            "lower --prompt-tokens, --new-tokens or the largest budget"
        )
    return _fit_prompts(parts, ladder, asked, one_length)


def _fit_prompts(parts: Parts, ladder: Ladder, asked: ExportOptions, one_length: str) -> Ladder:
    """The lengths of prompts that have graphs: those that are asked for, or halves of one."""
    asked_for, least = parse_prompt_tokens(asked.prompt_tokens), count_template_tokens(parts) + 1
    if len(asked_for) == 1:
        if one_length:
            return ladder
        return Ladder(tuple(halve_prompt(rung, least + TEXT_TOKENS) for rung in ladder))
    if one_length:
        raise UsageError(
            f"{one_length} has one prefill graph per rung; give one number to --prompt-tokens, "
            f"such as {asked_for[-1]}"
        )
    if asked_for[0] < least:
        raise UsageError(
            f"--prompt-tokens {asked_for[0]} has room for no prompt: the template alone takes "
            f"{least - 1}; leave it out, or raise it"
        )
    return ladder


def gather_cases(
    parts: Parts, asked: ExportOptions, *, measured: bool
) -> tuple[list[Case], list[Case]]:
    """Cases of the parity check and, if `measured`, others for KV scales, if there are enough.

    Raises:
        UsageError: if a prompt is longer than graphs have room for.
        InputError: if samples cannot be read.
    """
    count = asked.parity_images
    if asked.samples is None:
        cases = synthetic_cases(parts, count)
    else:
        loaded = load_samples(asked.samples)
        wanted = count + (KV_SAMPLES if measured else 0)
        cases = make_cases(parts, draw(loaded, min(wanted, len(loaded)), asked.seed))
    _require_prompts_fit(cases, parse_prompt_tokens(asked.prompt_tokens)[-1])
    return cases[:count], (cases[count:] or cases) if measured else []


def measure_scales(reference: Reference, cases: Sequence[Case], bits: int) -> Scales:
    """Scales of a cache of so many bits, from the rows of these cases at all visual tokens."""
    scales = measure_kv_scales(reference.parts.text, list_inputs(reference, cases), bits)
    require_scales(scales)
    return scales


def round_to_four(reference: Reference, cases: Sequence[Case]) -> RoundedWeights:
    """The decoder's weights in 4 bits, by what they read of the first of these cases."""
    text = reference.parts.text

    def passes() -> Iterable[Any]:
        for given in list_inputs(reference, cases[:GPTQ_SAMPLES]):
            yield text.model(**given, use_cache=False)

    return round_layers(text.layers, passes(), BITS["int4"]["decode"], reference.parts.scratch)


def list_inputs(reference: Reference, cases: Sequence[Case]) -> Iterable[Any]:
    """What the decoder is given of each case at all visual tokens."""
    full = reference.parts.full_tokens
    looks: dict[bytes, dict[str, Any]] = {}  # several questions ask about a picture
    for case in cases:
        picture = sha256(case.pixels.numpy().tobytes()).digest()
        if picture not in looks:
            looks[picture] = reference.compress(reference.encode(case.pixels, full), full)
        made = looks[picture]
        embeds = reference.embed(case.before, made[names.VISUAL_TOKENS], case.after)
        yield reference.inputs(embeds, visual_rows(len(case.before), full), made=made)


def _require_prompts_fit(cases: Sequence[Case], prompt_tokens: int) -> None:
    longest = max(len(case.before) + len(case.after) for case in cases)
    if longest > prompt_tokens:
        raise UsageError(
            f"the longest sample prompt has {longest} tokens with its template, but "
            f"--prompt-tokens is {prompt_tokens}; raise it to {longest} or more"
        )
