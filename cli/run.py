"""`edgetok run`: ask a bundle about an image."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import typer

from edgetok import limits
from edgetok.cli.options import BundleDir, Device, Json, Seed, Threads
from edgetok.cli.output import echo, emit, say, working
from edgetok.errors import InputError, UsageError

if TYPE_CHECKING:
    from edgetok.bundle.manifest import Flavour
    from edgetok.runtimes.answer import Answer
    from edgetok.runtimes.generate import Model
    from edgetok.runtimes.stream import Stream

_CHOICE = "Which rung"
_SAMPLING = "Sampling"
_MIB = 1 << 20


def run_command(
    bundle: BundleDir,
    image: Annotated[
        str, typer.Option(metavar="FILE", help="JPEG, PNG or WebP; - reads standard input.")
    ],
    prompt: Annotated[str, typer.Option(metavar="TEXT", help="The question.")],
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
    device: Device = "cpu",
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Answer a question about an image.

    The answer goes to standard output; rung, reason, times and memory go to standard error.
    Without a choice of rung the certified controller of the bundle chooses if it has one (see
    `edgetok calibrate`), else the largest rung answers. Limits need `edgetok bench` first.

    Example: edgetok run out.bundle --image scene.png --prompt "What is on the sign?" --budget 64
    """
    limit = max_ttft_ms if max_memory_mib is None else max_memory_mib
    _require_one_choice(budget, limit, signal)
    if stream and as_json:
        raise UsageError("--stream and --json exclude each other: --json prints one whole object")
    source = _read_stdin() if image == "-" else Path(image)
    model = _load(bundle, device, budget, threads, flavour, as_json)
    pieces = model.stream(
        source,
        prompt,
        budget=budget,
        max_ttft_ms=max_ttft_ms,
        max_memory_mib=max_memory_mib,
        signal=signal,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
    )
    answer = _follow(pieces, shown=stream)
    if trace is not None:
        _trace(trace, model.digest, answer)
    memory_mib = _measure_memory_mib()
    if as_json or not stream:
        emit(_describe(answer, memory_mib), as_json, answer.text.strip())
    if not as_json:
        say(_summarise(answer, memory_mib))


def _require_one_choice(*choices: object) -> None:
    if sum(choice is not None for choice in choices) > 1:
        raise UsageError(
            "--budget, a limit (--max-ttft-ms, --max-memory-mib) and --signal exclude each other; "
            "give one of them"
        )


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


def _trace(path: Path, digest: str, answer: Answer) -> None:
    from edgetok.control.trace import Entry, Tried, append_entry

    tried = [Tried(a.budget, dict(a.signals)) for a in answer.attempts]
    signals, question = dict(answer.signals), list(answer.question_ids)
    timings = dict(answer.timings_ms)
    append_entry(path, Entry(digest, signals, question, tried, answer.reason, timings))


def _measure_memory_mib() -> float | None:
    from edgetok.runtimes import machine

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
