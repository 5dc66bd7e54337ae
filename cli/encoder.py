"""What `edgetok run` does with bundles of encoders."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from edgetok.cli.output import emit, say, working
from edgetok.errors import ResourceError, UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgetok.bundle.manifest import Flavour
    from edgetok.runtimes.encoder.model import Encoder, Encoding, Score

# By task: how the name of a file ends that its output can be written to.
ENDINGS: dict[str, tuple[str, ...]] = {
    "classify": (),
    "embed": (".npy",),
    "similarity": (".npy",),
    "depth": (".png", ".npy"),
    "segment": (".png", ".npy"),
}


@dataclass(frozen=True, slots=True)
class EncoderRequest:
    """What `edgetok run` was asked for, of a bundle without a language model."""

    texts: Sequence[str]
    output: Path | None
    top: int
    budget: int | None
    flavour: Flavour
    device: str
    threads: int | None
    as_json: bool


def run_encoder(bundle: Path, task: str, source: bytes | Path, request: EncoderRequest) -> None:
    """Encode an image and show what came of it; the request fit the task."""
    with working(request.as_json) as progress:
        from edgetok.runtimes.encoder.model import load_encoder

        progress("loading", 0.0)
        budgets = None if request.budget is None else (request.budget,)
        encoder = load_encoder(
            bundle,
            device=request.device,
            budgets=budgets,
            threads=request.threads,
            flavour=request.flavour,
        )
    made = encoder.encode(source)
    fields, shown = _describe(encoder, made, source, request)
    about = {"task": task, "budget": made.budget, "timings_ms": made.milliseconds}
    emit(about | fields, request.as_json, *shown)
    if not request.as_json:
        times = made.milliseconds
        say(f"{made.budget} patches; encoded in {times['encode']:.0f} ms")


def require_encoder_request(task: str, request: EncoderRequest) -> None:
    """Refuse what does not go with the task, before anything is loaded.

    Raises:
        UsageError: naming the option.
    """
    if request.texts and task != "similarity":
        raise UsageError(
            f"this bundle's task is {task}, which takes no --text; bundles of CLIP and SigLIP do"
        )
    if request.output is None:
        return
    endings = () if request.texts else ENDINGS.get(task, ())
    if request.output.suffix.lower() not in endings:
        possible = f"a name that ends in {' or '.join(endings)}" if endings else "no --output"
        asked = "comparing texts" if request.texts else f"a bundle whose task is {task}"
        raise UsageError(f"--output {request.output}: {asked} takes {possible}")


def _describe(
    encoder: Encoder, made: Encoding, source: bytes | Path, request: EncoderRequest
) -> tuple[dict[str, Any], list[str]]:
    """The fields of the JSON object, and lines for people."""
    if encoder.task == "classify":
        return _list_scores(encoder.rank(made)[: request.top])
    if request.texts:
        return _list_scores(encoder.rank_texts(made, request.texts))
    if encoder.task in ("embed", "similarity"):
        return _show_embedding(made, request.output)
    return show_map(made.output, encoder.manifest.labels, source, request.output)


def _list_scores(scores: list[Score]) -> tuple[dict[str, Any], list[str]]:
    lines = [f"{each.probability:7.4f}  {each.label}" for each in scores]
    return {"scores": msgspec.to_builtins(scores)}, lines


def _show_embedding(made: Encoding, output: Path | None) -> tuple[dict[str, Any], list[str]]:
    length = float(np.linalg.norm(made.output))
    about = f"{made.output.size} numbers, length {length:.4f}"
    if output is None:
        values = " ".join(f"{value:.6g}" for value in made.output)
        return {"embedding": made.output.tolist()}, [values]
    _write(output, _npy(made.output))
    return {"output": str(output)}, [f"{output}: {about}"]


def show_map(
    made: NDArray[np.float32], labels: Sequence[str], source: bytes | Path, output: Path | None
) -> tuple[dict[str, Any], list[str]]:
    """Depth [h, w], or the likeliest class of scores [classes, h, w], and a file if asked.

    Returns the fields of the JSON object, and lines for people.
    """
    if made.ndim == 2:
        low, high = float(made.min()), float(made.max())
        fields: dict[str, Any] = {"least": low, "most": high}
        values, lines = made, [f"depth from {low:.4g} to {high:.4g}"]
    else:
        values = made.argmax(0).astype(np.int32)
        numbers, counts = np.unique(values, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        found = [(labels[numbers[i]], counts[i] / values.size) for i in order]
        fields = {"shares": [{"label": name, "share": float(part)} for name, part in found]}
        lines = [f"{part:7.4f}  {name}" for name, part in found]
    height, width = values.shape
    fields["size"] = [height, width]
    if output is not None:
        if output.suffix.lower() == ".npy":
            _write(output, _npy(values))
        else:
            _write(output, _png(values, source))
        fields["output"] = str(output)
        lines.append(f"written to {output}")
    return fields, lines


def _png(values: NDArray[Any], source: bytes | Path) -> bytes:
    """An image as large as the one that was given: 16 bits of depth, or numbers of classes."""
    from PIL import Image

    from edgetok.images.reading import open_image

    size = open_image(source).size
    if values.dtype == np.float32:
        low, high = float(values.min()), float(values.max())
        share = (values - low) / (high - low) if high > low else np.zeros_like(values)
        smooth = Image.fromarray(share.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
        levels = np.clip(np.rint(np.asarray(smooth) * 65535), 0, 65535).astype(np.uint16)
    else:
        kind = np.uint8 if values.max() < 256 else np.uint16
        near = Image.fromarray(values.astype(np.int32)).resize(size, Image.Resampling.NEAREST)
        levels = np.asarray(near).astype(kind)
    packed = io.BytesIO()
    Image.fromarray(levels).save(packed, "PNG")
    return packed.getvalue()


def _npy(values: NDArray[Any]) -> bytes:
    packed = io.BytesIO()
    np.save(packed, np.ascontiguousarray(values), allow_pickle=False)
    return packed.getvalue()


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ResourceError(
            f"{path}: cannot be written: {error.strerror or error}; choose another --output"
        ) from error
