"""What `edgetok run` and `edgetok chat` may be asked for, and what of it excludes what.

Bundles without a language model take the fields that say `encoder` and refuse any other that is
given; bundles that answer refuse those that do not say `answers`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgetok.cli.options import DEVICE, SEED, THREADS, parse_weights
from edgetok.errors import UsageError
from edgetok.options import changed, flag_of, option, shown_of

if TYPE_CHECKING:
    from edgetok.runtimes.answers.request import TurnOptions

_CHOICE = {"rich_help_panel": "Which rung"}
_SAMPLING = {"rich_help_panel": "Sampling"}
_ENCODERS = {"rich_help_panel": "Bundles without a language model"}


@dataclass(frozen=True)
class GenerationOptions:
    """How the tokens of an answer are chosen; names as of `sampling.Sampling`."""

    max_new_tokens: int | None = option(None, "Stop after this many tokens.")
    temperature: float = option(0.0, "0 takes the likeliest.", typer=_SAMPLING)
    top_p: float | None = option(
        None, "Draw among the likeliest that hold this; the model's own.", typer=_SAMPLING
    )
    top_k: int | None = option(
        None, "Draw among so many of the likeliest; 0: all.", typer={"min": 0, **_SAMPLING}
    )
    repetition_penalty: float | None = option(
        None, "Of tokens that were seen; 1: none, the model's own if left out.", typer=_SAMPLING
    )
    no_repeat_ngram_size: int | None = option(
        None, "No so many tokens in a row come twice; 0: any.", typer={"min": 0, **_SAMPLING}
    )
    min_new_tokens: int | None = option(
        None, "Do not end before so many tokens.", typer={"min": 0, **_SAMPLING}
    )
    seed: int = option(0, SEED, encoder=True)

    @property
    def generation(self) -> TurnOptions:
        """As `stream` of a model or of a conversation takes them."""
        return {found.name: getattr(self, found.name) for found in fields(GenerationOptions)}  # type: ignore[return-value]


@dataclass(frozen=True)
class ChatOptions(GenerationOptions):
    """Options of `edgetok chat` besides the bundle, its pictures and `--json`."""

    system: str | None = option(
        None,
        "A system message, where the chat template takes one.",
        typer={"metavar": "TEXT"},
    )
    budget: int | None = option(None, "This many visual tokens; the largest rung if left out.")
    device: str = option("cpu", DEVICE)
    threads: int | None = option(None, THREADS)


@dataclass(frozen=True)
class RunOptions(GenerationOptions):
    """Options of `edgetok run` besides the bundle and `--json`."""

    prompt: str | None = option(
        None, "The question, for bundles with a language model.", typer={"metavar": "TEXT"}
    )
    system: str | None = option(
        None,
        "A system message, where the model's chat template takes one.",
        typer={"metavar": "TEXT"},
    )
    image: list[str] | None = option(
        None,
        "JPEG, PNG or WebP; - reads standard input. Once for each picture of a prompt.",
        encoder=True,
        typer={"metavar": "FILE"},
    )
    frames: Path | None = option(
        None,
        "In place of --image: frames at even steps from a folder of images or a video.",
        typer={"metavar": "DIR_OR_VIDEO"},
    )
    frame_count: int | None = option(
        None, "How many frames; must be the bundle's number of pictures.", typer={"min": 1}
    )
    frame_weights: list[float] | None = option(
        None,
        "What each frame or picture counts, for bundles of the method `quota`.",
        shell=str | None,
        read=parse_weights,
        typer={"metavar": "W,W,..."},
    )
    text: list[str] | None = option(
        None,
        "Compare the picture with this; give several. For bundles of CLIP and SigLIP.",
        encoder=True,
        answers=False,
        typer={"metavar": "TEXT", **_ENCODERS},
    )
    output: Path | None = option(
        None,
        "Write an embedding (.npy), or a depth or class map (.png, .npy), here.",
        encoder=True,
        answers=False,
        typer={"metavar": "FILE", **_ENCODERS},
    )
    top: int = option(
        5, "Show so many classes.", encoder=True, answers=False, typer={"min": 1, **_ENCODERS}
    )
    budget: int | None = option(None, "This many visual tokens.", encoder=True, typer=_CHOICE)
    max_ttft_ms: float | None = option(
        None, "The largest rung whose first token was measured to come this soon.", typer=_CHOICE
    )
    max_memory_mib: float | None = option(
        None,
        "The largest rung measured to need no more memory; may go with --max-ttft-ms.",
        typer=_CHOICE,
    )
    max_energy_j: float | None = option(
        None,
        "The largest rung whose answer was measured to take no more joules.",
        typer=_CHOICE,
    )
    signal: Literal["elbow"] | None = option(
        None, "Let the image choose, by this signal.", typer=_CHOICE
    )
    stream: bool = option(False, "Print the answer while it is generated.")
    flavour: Literal["ort", "portable"] | None = option(
        None, "Which graphs to run, if the bundle was exported with both.", encoder=True
    )
    trace: Path | None = option(
        None,
        "Add a line to this file: what the choice of the rung saw; see edgetok replay.",
        typer=_CHOICE,
    )
    audit: float | None = option(
        None,
        "Ask the full rung too, for this share of answers, and warn of drift; needs --trace.",
        typer={"metavar": "SHARE", **_CHOICE},
    )
    device: str = option("cpu", DEVICE, encoder=True)
    threads: int | None = option(None, THREADS, encoder=True)

    @property
    def limits(self) -> list[float]:
        """Those that rungs must keep."""
        every = self.max_ttft_ms, self.max_memory_mib, self.max_energy_j
        return [limit for limit in every if limit is not None]

    def require_consistent(self, as_json: bool) -> None:
        """Refuse options that exclude each other, whatever the bundle is.

        Raises:
            UsageError: naming them.
        """
        if bool(self.image) == (self.frames is not None):
            raise UsageError(
                "give either --image, once for each picture, or --frames, and not both"
            )
        if self.frame_count is not None and self.frames is None:
            raise UsageError("--frame-count goes with --frames")
        if self.image and self.image.count("-") > 1:
            raise UsageError("standard input holds one picture; give - once")
        if (self.budget is not None) + bool(self.limits) + (self.signal is not None) > 1:
            raise UsageError(
                "--budget, a limit (--max-ttft-ms, --max-memory-mib, --max-energy-j) and --signal "
                "exclude each other; give one of them"
            )
        if self.stream and as_json:
            raise UsageError(
                "--stream and --json exclude each other: --json prints one whole object"
            )

    def require_of_encoder(self, task: str) -> None:
        """Refuse what a bundle without a language model has no use for.

        Raises:
            UsageError: naming the option.
        """
        useless = [one for one in changed(self) if not shown_of(one).encoder]
        _refuse(useless, f"this bundle has no language model, its task is {task}")
        if self.image and len(self.image) > 1:
            raise UsageError(f"{len(self.image)} pictures; give one, this bundle looks at one")

    def require_of_answers(self) -> str:
        """The question; options that a bundle that answers has no use for are refused.

        Raises:
            UsageError: naming the option.
        """
        useless = [one for one in changed(self) if not shown_of(one).answers]
        _refuse(useless, "this bundle answers questions")
        if self.prompt is None:
            raise UsageError(
                "Missing option '--prompt': this bundle answers questions about pictures"
            )
        if self.audit is not None:
            self._require_audited()
        return self.prompt

    def _require_audited(self) -> None:
        if self.trace is None:
            raise UsageError("--audit adds up what it finds in a trace; give --trace FILE as well")
        chosen = self.budget is not None or self.signal is not None or self.limits
        if self.temperature > 0 or chosen:
            raise UsageError(
                "--audit watches the certified controller, which decides only where neither a "
                "rung, a limit, a signal nor a temperature is given; leave them out"
            )


def _refuse(useless: list[Any], why: str) -> None:
    if useless:
        raise UsageError(f"{why}, so {flag_of(useless[0])} means nothing; leave it out")
