"""Golden cases: what the graphs answer where they were exported, for `verify` on the target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgetok import names
from edgetok.bundle import golden
from edgetok.bundle.writer import BundleWriter
from edgetok.export.cases import Case
from edgetok.export.parity.agreement import PARITY_TOKENS
from edgetok.export.parity.sessions import GraphRunner
from edgetok.export.reference.model import Reference
from edgetok.ladder import Ladder


def write_golden(
    writer: BundleWriter,
    reference: Reference,
    runner: GraphRunner,
    ladder: Ladder,
    cases: Sequence[Case],
) -> None:
    """Run every case on every rung, in the graphs' own precision, and write what comes out."""
    found = []
    for number, case in enumerate(cases):
        image, more = f"golden/{number}{case.suffix}", []
        writer.write(image, case.image)
        for place, (data, suffix) in enumerate(case.more, 1):
            more.append(f"golden/{number}_{place}{suffix}")
            writer.write(more[-1], data)
        rungs = {k: _golden_rung(reference, runner, case, k) for k in ladder.budgets}
        ids = [*case.before, golden.IMAGE_PLACEHOLDER, *case.after]
        found.append(
            golden.GoldenCase(
                name=f"case{number}",
                image=image,
                prompt=case.prompt,
                pixels=case.pixels.flatten(0, 1).numpy(),
                text_ids=_int64(ids),
                rungs=rungs,
                more=tuple(more),
            )
        )
    for path, data in golden.encode_golden(found).items():
        writer.write(path, data)


def _golden_rung(
    reference: Reference, runner: GraphRunner, case: Case, budget: int
) -> golden.GoldenRung:
    seen = runner.look(budget, case.pixels.numpy())
    ids = [*case.before, *case.after]
    seen |= runner.read_prompt(ids, case.question)
    pictures = reference.parts.vision.pictures
    seen |= {names.PICTURE_WEIGHTS: np.ones(pictures, np.float32)}  # as nobody says otherwise
    out = runner.run("compress", budget, seen)
    first, last = np.split(seen[names.TEXT_EMBEDS][: len(ids)], [len(case.before)])
    embeds = np.concatenate([first, out[names.VISUAL_TOKENS], last])
    stop_ids, start = reference.parts.text.stop_ids, len(case.before)
    logits, answer = runner.answer(budget, embeds, PARITY_TOKENS, stop_ids, start, made=out)
    return golden.GoldenRung(kept=out[names.KEPT], logits=logits[0], answer_ids=_int64(answer))


def _int64(values: Sequence[int]) -> Any:
    return np.array(values, np.int64)
