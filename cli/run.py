"""`edgetok run`: ask a bundle about an image."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import typer

from edgetok import limits
from edgetok.bundle.parse import ANSWER
from edgetok.bundle.reader import task_of
from edgetok.cli.encoder import Wishes, require_wishes, run_encoder
from edgetok.cli.options import BundleDir, Device, Json, Seed, Threads, parse_weights
from edgetok.cli.output import echo, emit, say, working
from edgetok.errors import InputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection

    from edgetok.bundle.manifest import Flavour
    from edgetok.runtimes.answers.answer import Answer
    from edgetok.runtimes.answers.auditing import Auditor
    from edgetok.runtimes.answers.model import Model
    from edgetok.runtimes.answers.stream import Stream
    from edgetok.runtimes.images.preprocess import ImageInput

_CHOICE = "Which rung"
_SAMPLING = "Sampling"
_ENCODERS = "Bundles without a language model"
TOP = 5
_MIB = 1 << 20


def run_command(
    bundle: BundleDir,
    prompt: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="The question, for bundles with a language model."),
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="JPEG, PNG or WebP; - reads standard input. Once for each picture of a prompt.",
        ),
    ] = None,
    frames: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR_OR_VIDEO",
            help="In place of --image: frames at even steps from a folder of images or a video.",
        ),
    ] = None,
    frame_count: Annotated[
        int | None,
        typer.Option(help="How many frames; must be the bundle's number of pictures.", min=1),
    ] = None,
    frame_weights: Annotated[
        str | None,
        typer.Option(
            metavar="W,W,...",
            help="What each frame or picture counts, for bundles of the method `quota`.",
        ),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="Compare the picture with this; give several. For bundles of CLIP and SigLIP.",
            rich_help_panel=_ENCODERS,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write an embedding (.npy), or a depth or class map (.png, .npy), here.",
            rich_help_panel=_ENCODERS,
        ),
    ] = None,
    top: Annotated[
        int,
        typer.Option(min=1, help="Show so many classes.", rich_help_panel=_ENCODERS),
    ] = TOP,
    budget: Annotated[
        int | None, typer.Option(help="This many visual tokens.", rich_help_panel=_CHOICE)
    ] = None,
    max_ttft_ms: Annotated[
        float | None,
        typer.Option(
            help="The largest rung whose first token was measured to come this soon.",
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    max_memory_mib: Annotated[
        float | None,
        typer.Option(
            help="The largest rung measured to need no more memory; may go with --max-ttft-ms.",
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    max_energy_j: Annotated[
        float | None,
        typer.Option(
            help="The largest rung whose answer was measured to take no more joules.",
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    signal: Annotated[
        Literal["elbow"] | None,
        typer.Option(help="Let the image choose, by this signal.", rich_help_panel=_CHOICE),
    ] = None,
    stream: Annotated[
        bool, typer.Option("--stream", help="Print the answer while it is generated.")
    ] = False,
    max_new_tokens: Annotated[int | None, typer.Option(help="Stop after this many tokens.")] = None,
    temperature: Annotated[
        float, typer.Option(help="0 takes the likeliest.", rich_help_panel=_SAMPLING)
    ] = 0.0,
    top_p: Annotated[
        float,
        typer.Option(help="Draw among the likeliest that hold this.", rich_help_panel=_SAMPLING),
    ] = 1.0,
    seed: Seed = 0,
    flavour: Annotated[
        Literal["ort", "portable"] | None,
        typer.Option(help="Which graphs to run, if the bundle was exported with both."),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            help="Add a line to this file: what the choice of the rung saw; see edgetok replay.",
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    audit: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Ask the full rung too, for this share of answers, and warn of drift; "
            "needs --trace.",
            rich_help_panel=_CHOICE,
        ),
    ] = None,
    device: Device = "cpu",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Answer a question about an image; or classify, embed, compare or draw it.

    The answer goes to standard output; rung, reason, times and memory go to standard error.
    Without a choice of rung the certified controller of the bundle chooses if it has one (see
    `edgetok calibrate`), else the largest rung answers. Limits need `edgetok bench` first.

    Bundles of encoders, which have no language model, take no --prompt: they print classes with
    probabilities, an embedding, how well each --text fits, or write a map to --output.

    Example: edgetok run out.bundle --image scene.png --prompt "What is on the sign?" --budget 64
    """
    _require_one_source(image, frames, frame_count)
    limits_given = [v for v in (max_ttft_ms, max_memory_mib, max_energy_j) if v is not None]
    _require_one_choice(budget, next(iter(limits_given), None), signal)
    if stream and as_json:
        raise UsageError("--stream and --json exclude each other: --json prints one whole object")
    weights = parse_weights(frame_weights, "--frame-weights")
    sources = [_read_stdin() if file == "-" else Path(file) for file in image or ()]
    if (task := task_of(bundle)) != ANSWER:
        of_answers = {
            "prompt": prompt,
            "frames": frames,
            "frame-weights": frame_weights,
            "max-ttft-ms": max_ttft_ms,
            "max-memory-mib": max_memory_mib,
            "max-energy-j": max_energy_j,
            "signal": signal,
            "stream": stream or None,
            "max-new-tokens": max_new_tokens,
            "temperature": temperature or None,
            "top-p": None if top_p == 1 else top_p,
            "trace": trace,
            "audit": audit,
        }
        wishes = Wishes(text or [], output, top, budget, flavour or "ort", device, threads, as_json)
        _encode(bundle, task, sources, of_answers, wishes)
        return
    _refuse(
        {"text": text or None, "output": output, "top": None if top == TOP else top},
        "this bundle answers questions",
    )
    if prompt is None:
        raise UsageError("Missing option '--prompt': this bundle answers questions about pictures")
    if audit is not None:
        _require_audited(trace, temperature, budget, signal, *limits_given)
    model = _load(bundle, device, budget, threads, flavour, as_json)
    auditor = None if audit is None else _open_auditor(model, audit)
    pictures = sources if frames is None else _open_frames(model, frames, frame_count)
    pieces = model.stream(
        pictures,
        prompt,
        budget=budget,
        max_ttft_ms=max_ttft_ms,
        max_memory_mib=max_memory_mib,
        max_energy_j=max_energy_j,
        signal=signal,
        weights=weights,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
    )
    answer = _follow(pieces, shown=stream)
    differs = None if auditor is None else auditor.differs(pictures, prompt, answer, weights)
    if trace is not None:
        from edgetok.runtimes.answers.tracing import note_answer

        note_answer(trace, model, answer, differs)
        if differs is not None:
            _warn_of_drift(trace, model)
    memory_mib = _measure_memory_mib()
    if as_json or not stream:
        emit(_describe(answer, memory_mib), as_json, answer.text.strip())
    if not as_json:
        say(_summarise(answer, memory_mib))


def _encode(
    bundle: Path,
    task: str,
    sources: Sequence[bytes | Path],
    of_answers: Mapping[str, object],
    wishes: Wishes,
) -> None:
    """Show what an encoder makes of the one picture; options of answers are refused."""
    _refuse(of_answers, f"this bundle has no language model, its task is {task}")
    if len(sources) > 1:
        raise UsageError(f"{len(sources)} pictures; give one, this bundle looks at one")
    require_wishes(task, wishes)
    run_encoder(bundle, task, sources[0], wishes)


def _require_audited(trace: Path | None, temperature: float, *choices: object) -> None:
    if trace is None:
        raise UsageError("--audit adds up what it finds in a trace; give --trace FILE as well")
    if temperature > 0 or any(choice is not None for choice in choices):
        raise UsageError(
            "--audit watches the certified controller, which decides only where neither a rung, a "
            "limit, a signal nor a temperature is given; leave them out"
        )


def _require_one_source(
    image: list[str] | None, frames: Path | None, frame_count: int | None
) -> None:
    if bool(image) == (frames is not None):
        raise UsageError("give either --image, once for each picture, or --frames, and not both")
    if frame_count is not None and frames is None:
        raise UsageError("--frame-count goes with --frames")
    if image and image.count("-") > 1:
        raise UsageError("standard input holds one picture; give - once")


def _open_frames(model: Model, path: Path, count: int | None) -> Collection[ImageInput]:
    """As many frames as prompts of the bundle have pictures."""
    from edgetok.runtimes.images.frames import open_frames

    wanted = model.manifest.vision.pictures
    if count not in (None, wanted):
        raise UsageError(
            f"--frame-count {count}, and prompts of this bundle have {wanted} pictures; leave it "
            f"out, or export with --images {count}"
        )
    return open_frames(path, wanted)


def _require_one_choice(*choices: object) -> None:
    if sum(choice is not None for choice in choices) > 1:
        raise UsageError(
            "--budget, a limit (--max-ttft-ms, --max-memory-mib, --max-energy-j) and --signal "
            "exclude each other; give one of them"
        )


def _refuse(options: Mapping[str, object], why: str) -> None:
    """Refuse options that do not go with the bundle; None where one was not given."""
    for name, value in options.items():
        if value is not None:
            raise UsageError(f"{why}, so --{name} means nothing; leave it out")


def _read_stdin() -> bytes:
    data = sys.stdin.buffer.read(limits.IMAGE_FILE_BYTES + 1)
    if len(data) > limits.IMAGE_FILE_BYTES:
        raise InputError(
            f"the image on standard input has more than {limits.IMAGE_FILE_BYTES} bytes"
        )
    return data


def _load(
    bundle: Path,
    device: str,
    budget: int | None,
    threads: int | None,
    flavour: Flavour | None,
    as_json: bool,
) -> Model:
    """Open the bundle; where the rung is known, without the others."""
    with working(as_json) as progress:
        from edgetok.runtimes.load import load

        progress("loading", 0.0)
        budgets = None if budget is None else (budget,)
        return load(bundle, device=device, budgets=budgets, threads=threads, flavour=flavour)


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
