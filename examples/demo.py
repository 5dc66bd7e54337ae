"""The whole path in one go: export the demo model as a ladder, ask it about pictures, score it.

Run it with `make demo`. It runs the same commands that a user would type, and prints each of them.
A second run finds the bundle that the first one made.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "examples/demo_vlm/checkpoint"
OUT = ROOT / "out/demo"
BUNDLE = OUT / "demo.bundle"
EXPORT_OPTIONS = [
    "--budgets", "64,128,192,full", "--method", "visionzip", "--weights", "int8", "--kv", "int8",
]  # fmt: skip
EVALUATED_QUESTIONS = 100
ASKED_IMAGES = 3
# How the rung of each answer is chosen, in turn.
CHOICES = (["--budget", "64"], ["--signal", "elbow"], ["--max-ttft-ms", "250"])


def run(*command: str) -> None:
    """Print and run one command of the installed `edgetok`, or stop the demo where it fails."""
    shown = [
        str(Path(word).relative_to(ROOT)) if word.startswith(str(ROOT)) else word
        for word in command
    ]
    print(f"\n$ {shlex.join(shown)}", flush=True)
    program = [str(Path(sys.executable).parent / command[0]), *command[1:]]
    done = subprocess.run(program, cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def make_samples(split: str, count: int) -> Path:
    """Draw scenes and questions of a split once; returns the JSONL."""
    folder = OUT / f"{split}-{count}"
    if not (folder / "samples.jsonl").exists():
        maker = "examples/demo_vlm/make.py"
        run("python", maker, "--split", split, "--count", str(count), "-o", str(folder))
    return folder / "samples.jsonl"


def export_bundle(calibrate: Path) -> None:
    """Export, unless a bundle of this very model and these options is there."""
    stamp = OUT / "exported.json"
    made_of = {"options": EXPORT_OPTIONS, "weights": _digest(MODEL / "model.safetensors")}
    if BUNDLE.exists() and stamp.exists() and json.loads(stamp.read_text()) == made_of:
        print(f"\nusing {BUNDLE.relative_to(ROOT)} from an earlier run; `make clean` removes it")
        return
    run(
        "edgetok", "export", str(MODEL), "-o", str(BUNDLE), "--samples", str(calibrate), "--force",
        *EXPORT_OPTIONS,
    )  # fmt: skip
    stamp.write_text(json.dumps(made_of))


def ask(samples: Path) -> None:
    """One question about each of a few images, each with another way to choose the rung."""
    lines = [json.loads(line) for line in samples.read_text().splitlines()]
    by_image = {line["image"]: line for line in reversed(lines)}  # the first question of each
    for number, line in enumerate(list(by_image.values())[::-1][:ASKED_IMAGES]):
        image = str(samples.parent / line["image"])
        print(f"\nexpected answer: {line['answer']}")
        choice = CHOICES[number % len(CHOICES)]
        run("edgetok", "run", str(BUNDLE), "--image", image, "--prompt", line["prompt"], *choice)


def main() -> None:
    started = time.monotonic()
    if not (MODEL / "model.safetensors").exists():
        sys.exit(f"{MODEL} has no weights; train them as examples/demo_vlm/README.md says")
    OUT.mkdir(parents=True, exist_ok=True)
    calibrate = make_samples("calibrate", 64)
    evaluate = make_samples("evaluate", EVALUATED_QUESTIONS)
    export_bundle(calibrate)
    run("edgetok", "inspect", str(BUNDLE))
    run("edgetok", "bench", str(BUNDLE))
    ask(evaluate)
    plot = str(OUT / "accuracy.png")
    run("edgetok", "eval", str(BUNDLE), "--data", str(evaluate), "--plot", plot)
    print(
        f"\ndone in {time.monotonic() - started:.0f} s; the plot is {Path(plot).relative_to(ROOT)}"
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    main()
