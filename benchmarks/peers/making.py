"""What contestants run, made once: checkpoints, conversions, exports, and what making them cost."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from peers.contestants import DEMO, FILES, HERE, PROGRAMS
from peers.environments import prepare_environment

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "out/peers"

Command = Sequence[str | Path]
_OFFLINE = {"HF_HUB_OFFLINE": "1", "ORT_DISABLE_TELEMETRY": "1"}


class CannotMake(RuntimeError):
    """A conversion ended with an error; the message is the end of what it said."""


def make(name: str, recipe: Command, digest: str = "") -> dict[str, Any]:
    """Run a command whose last word is the file or folder that it makes, unless it is there.

    Args:
        name: a path below `OUT`.
        recipe: the command, without that last word.
        digest: of all else that the result depends on.

    Returns:
        what it cost: `cpu_s`, `wall_s`, `peak_bytes` of the process; and `bytes` of the result.

    Raises:
        CannotMake: if the command fails; nothing is left then.
    """
    target, record = OUT / name, OUT / f"{name}.made.json"
    key = hashlib.sha256(f"{[str(word) for word in recipe]}{digest}".encode()).hexdigest()
    if target.exists() and record.exists():
        found: dict[str, Any] = json.loads(record.read_text())
        if found["key"] == key:
            return found
    remove(target)
    record.unlink(missing_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    print(f"making {name}", file=sys.stderr, flush=True)
    try:
        cost = run_measured([*recipe, target], target.with_suffix(".log"))
    except CannotMake:
        remove(target)
        raise
    cost |= {"key": key, "name": name, "bytes": count_bytes(target)}
    record.write_text(json.dumps(cost))
    return cost


def run_measured(command: Command, log: Path) -> dict[str, float]:
    """What a process costs up to its end; what it says goes to `log`.

    Raises:
        CannotMake: if it ends with an error.
    """
    wall = time.perf_counter()
    with log.open("w") as out:
        words = [str(word) for word in command]
        process = subprocess.Popen(words, stdout=out, stderr=out, env=os.environ | _OFFLINE)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        said = log.read_text(errors="replace").strip().splitlines() or ["nothing was said"]
        ended = f"exit code {process.returncode}"
        if process.returncode < 0:  # 9: most often for want of memory
            ended = f"signal {-process.returncode}"
        raise CannotMake(f"{ended}: {said[-1]}")
    wall = time.perf_counter() - wall
    cpu = used.ru_utime + used.ru_stime
    return {"cpu_s": cpu, "wall_s": wall, "peak_bytes": used.ru_maxrss << 10}


def remove(path: Path) -> None:
    """A file, or a folder with all that is in it; nothing where neither is there."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def count_bytes(path: Path) -> int:
    """Of a file, or of all files of a folder."""
    files = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
    return sum(file.stat().st_size for file in files)


def make_checkpoint(model: str) -> Path:
    """The checkpoint that all contestants of this model are made from."""
    if model == "demo":
        return DEMO / "checkpoint"
    code = hashlib.sha256((HERE / "checkpoints.py").read_bytes()).hexdigest()
    make(f"{model}/checkpoint", [sys.executable, HERE / "checkpoints.py", model], code)
    return OUT / model / "checkpoint"


def make_file(model: str, name: str) -> dict[str, Any]:
    """One of `FILES`, as `make` does; raises CannotMake."""
    file, checkpoint = FILES[model, name], make_checkpoint(model)
    for needed in file.needs:
        make_file(model, needed)
    words = {"python": sys.executable, "here": HERE, "checkpoint": checkpoint}
    words["samples"] = find_samples(model)
    if file.needs:
        words["of"] = OUT / model / file.needs[0]
    if file.environment is not None:
        words["python"] = prepare_environment(file.environment, OUT / "env")
    digest = digest_code() if "edgetok.cli" in file.command else ""
    return make(f"{model}/{name}", [w.format(**words) for w in file.command.split()], digest)


def find_samples(model: str) -> Path:
    """Questions about pictures for the scales of a KV cache."""
    if model != "demo":
        return OUT / model / "checkpoint/samples/samples.jsonl"
    asked = [sys.executable, DEMO / "make.py", "--split", "calibrate", "--count", "64", "-o"]
    make("demo/samples", asked)
    return OUT / "demo/samples/samples.jsonl"


def digest_code() -> str:
    """Of the code that exports."""
    digest = hashlib.sha256()
    for folder in ("edgetok", "export", "calibration"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


@cache
def make_program(family: str) -> list[Path | str]:
    """The command that starts a contestant of this family, but for its options.

    Raises:
        CannotMake: if the C++ library or the program over it cannot be built.
    """
    source, environment = PROGRAMS[family]
    if family != "edgetok-cpp":
        python = prepare_environment(environment, OUT / "env") if environment else sys.executable
        return [python, HERE / source]
    build = ROOT / "build/cpp"
    (OUT / "cpp").mkdir(parents=True, exist_ok=True)
    run_measured([ROOT / "runtimes/cpp/build.sh", sys.executable], OUT / "cpp/library.log")
    folders = (build / "shared", build / "deps/onnxruntime")
    command = ["c++", "-std=c++17", "-O2", "-I", ROOT / "runtimes/cpp/include", HERE / source]
    command += [word for folder in folders for word in ("-L", folder, f"-Wl,-rpath,{folder}")]
    program = OUT / "cpp/run_edgetok"
    run_measured([*command, "-ledgetok", "-o", program], OUT / "cpp/program.log")
    return [program]
