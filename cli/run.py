"""`edgetok run`: ask a bundle about an image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgetok import limits
from edgetok.bundle.parse import ANSWER
from edgetok.bundle.reader import task_of
from edgetok.cli.encoder import EncoderRequest, require_encoder_request, run_encoder
from edgetok.cli.options import BundleDir, Json, with_options
from edgetok.cli.output import echo, emit, say, working
from edgetok.cli.run_options import RunOptions
from edgetok.cli.streams import read_input
from edgetok.errors import InputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection

    from edgetok.images.reading import ImageInput
    from edgetok.runtimes.answers.answer import Answer
    from edgetok.runtimes.answers.auditing import Auditor
    from edgetok.runtimes.answers.model import Model
    from edgetok.runtimes.answers.stream import Stream

_MIB = 1 << 20


@with_options
def run_command(bundle: BundleDir, asked: RunOptions, as_json: Json = False) -> None:
    """Answer a question about an image; or classify, embed, compare or draw it.

    The answer goes to standard output; rung, reason, times and memory go to standard error.
    Without a choice of rung the certified controller of the bundle chooses if it has one (see
    `edgetok calibrate`), else the largest rung answers. Limits need `edgetok bench` first.

    Bundles of encoders, which have no language model, take no --prompt: they print classes with
    probabilities, an embedding, how well each --text fits, or write a map to --output.

    Example: edgetok run out.bundle --image scene.png --prompt "What is on the sign?" --budget 64
    """
    asked.require_consistent(as_json)
    sources = [_read_stdin() if file == "-" else Path(file) for file in asked.image or ()]
    if (task := task_of(bundle)) != ANSWER:
        asked.require_of_encoder(task)
        request = EncoderRequest(
            *(asked.text or [], asked.output, asked.top, asked.budget, asked.flavour or "ort"),
            *(asked.device, asked.threads, as_json),
        )
        require_encoder_request(task, request)
        run_encoder(bundle, task, sources[0], request)
        return
    prompt = asked.require_of_answers()
    model = _load(bundle, asked, as_json)
    auditor = None if asked.audit is None else _open_auditor(model, asked.audit)
    pictures: Collection[ImageInput] = sources
    if asked.frames is not None:
        pictures = _open_frames(model, asked.frames, asked.frame_count)
    answer = _follow(_ask(model, pictures, prompt, asked), shown=asked.stream)
    if asked.trace is not None:
        differs = None
        if auditor is not None:
            differs = auditor.differs(pictures, prompt, answer, asked.frame_weights, asked.system)
        _note(asked.trace, model, answer, differs)
    memory_mib = _measure_memory_mib()
    if as_json or not asked.stream:
        emit(_describe(answer, memory_mib), as_json, answer.text.strip())
    if not as_json:
        say(_summarise(answer, memory_mib))


def _ask(model: Model, pictures: Collection[ImageInput], prompt: str, asked: RunOptions) -> Stream:
    return model.stream(
        pictures,
        prompt,
        budget=asked.budget,
        max_ttft_ms=asked.max_ttft_ms,
        max_memory_mib=asked.max_memory_mib,
        max_energy_j=asked.max_energy_j,
        signal=asked.signal,
        weights=asked.frame_weights,
        system=asked.system,
        **asked.generation,
    )


def _note(trace: Path, model: Model, answer: Answer, differs: bool | None) -> None:
    """Add a line to the trace, and warn if all audits in it speak against the certificate."""
    from edgetok.runtimes.answers.tracing import note_answer

    note_answer(trace, model, answer, differs)
    if differs is not None:
        _warn_of_drift(trace, model)


def _open_frames(model: Model, path: Path, count: int | None) -> Collection[ImageInput]:
    """As many frames as prompts of the bundle have images."""
    from edgetok.runtimes.images.frames import open_frames

    wanted = model.manifest.vision.pictures
    if count not in (None, wanted):
        raise UsageError(
            f"--frame-count {count}, and prompts of this bundle have {wanted} pictures; leave it "
            f"out, or export with --images {count}"
        )
    return open_frames(path, wanted)


def _read_stdin() -> bytes:
    data = read_input(limits.IMAGE_FILE_BYTES + 1)
    if len(data) > limits.IMAGE_FILE_BYTES:
        raise InputError(
            f"the image on standard input has more than {limits.IMAGE_FILE_BYTES} bytes"
        )
    return data


def _load(bundle: Path, asked: RunOptions, as_json: bool) -> Model:
    """Open the bundle; where the rung is known, without the others."""
    with working(as_json) as progress:
        from edgetok.runtimes.load import load

        progress("loading", 0.0)
        budgets = None if asked.budget is None else (asked.budget,)
        return load(
            bundle,
            device=asked.device,
            budgets=budgets,
            threads=asked.threads,
            flavour=asked.flavour,
        )


def _follow(stream: Stream, *, shown: bool) -> Answer:
    """Read the stream to its end; an interrupt closes it, so the model is left whole."""
    with stream:
        for piece in stream:
            if shown:
                echo(piece, end="")
    if shown:
        echo("")
    return stream.answer


def _open_auditor(model: Model, share: float) -> Auditor:
    from edgetok.runtimes.answers.auditing import Auditor

    return Auditor(model, share)


def _warn_of_drift(trace: Path, model: Model) -> None:
    """What all audits of this bundle in the trace say, if they speak against the certificate."""
    from edgetok.control.audits import describe, watch
    from edgetok.control.trace import load_trace

    controller = model.manifest.controller
    if controller is None:
        return
    entries = [entry for entry in load_trace(trace) if entry.bundle == model.digest]
    drift = watch(entries, controller.certificate)
    if drift.broken_once:
        say(describe(drift, sum(entry.differs is True for entry in entries)))


def _measure_memory_mib() -> float | None:
    from edgetok.runtimes.device import machine

    private_bytes = machine.private_bytes()
    return None if private_bytes is None else private_bytes / _MIB


def _describe(answer: Answer, memory_mib: float | None) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(answer)
    return fields | {"memory_mib": memory_mib}


def _summarise(answer: Answer, memory_mib: float | None) -> str:
    """One line for people: rung, why, and what it cost."""
    parts = [
        f"{answer.budget} visual tokens ({answer.reason})",
        f"first token {answer.timings_ms['ttft']:.0f} ms",
        f"{answer.decode_tokens_per_s:.1f} tokens/s",
    ]
    if answer.exit_layer is not None:
        parts.append(f"visual tokens seen by {answer.exit_layer} layers")
    if memory_mib is not None:
        parts.append(f"{memory_mib:.0f} MiB")
    if answer.stop_reason != "stop":
        parts.append(f"ended by {answer.stop_reason}")
    return "; ".join(parts)
