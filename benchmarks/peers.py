r"""edgetok beside llama.cpp, openvino.genai and onnxruntime-genai, on the same random checkpoints.

    python benchmarks/peers.py --json docs/results/peers.json
    python benchmarks/peers.py --only llava135 --contestants edgetok llama.cpp --rounds 3

Environments, checkpoints and conversions are made below out/peers on first use (an hour of two
cores, most of it exports and compiling llama.cpp) and kept; a bundle is exported again when the
code that exports has changed. Each contestant is a process of its own; every round asks each of
them everything once, in turn, so that what else the machine does hits all alike. Processor time is
that of the process, all threads together. docs/performance.md is written from the JSON by
benchmarks/peers_page.py.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peers.bounds import count_operations, measure_bounds
from peers.contestants import CONTESTANTS, FILES, MODELS, PROGRAMS, Contestant
from peers.making import ROOT, CannotMake, make_checkpoint, make_file
from peers.rounds import measure_answers, measure_starts
from peers.startup import measure_commands

Report = dict[str, Any]


def main() -> None:
    options = _parse(sys.argv[1:])
    import common  # and with it torch, for which wrong options need not wait

    chosen = [c for c in CONTESTANTS if c.model in options.only and c.family in options.contestants]
    bounds = [measure_bounds(threads) for threads in options.threads]
    report: Report = {"machine": common.facts(), "bounds": bounds, "models": {}}
    if options.json is not None and options.json.exists():
        report["models"] = json.loads(options.json.read_text())["models"]
    for model in (name for name in MODELS if name in options.only):
        found = report["models"][model] = _measure(model, chosen, options)
        print(json.dumps({model: found}, indent=1), flush=True)
        if options.json is not None:
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(report, indent=1) + "\n")


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=MODELS, default=MODELS, metavar="MODEL")
    parser.add_argument(
        "--contestants", nargs="+", choices=PROGRAMS, default=tuple(PROGRAMS), metavar="NAME"
    )
    parser.add_argument("--threads", nargs="+", type=_count, default=(1, 2))
    parser.add_argument("--rounds", type=_count, default=5)
    parser.add_argument("--json", type=Path, help="write the results into this file")
    options = parser.parse_args(words)
    if options.json is not None and set(options.contestants) != set(PROGRAMS):
        parser.error(
            "--json keeps what one run measured of all contestants; leave --contestants out"
        )
    return options


def _count(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) <= 64:
        raise argparse.ArgumentTypeError(f"{text} is no number from 1 to 64")
    return int(text)


def _measure(model: str, chosen: Sequence[Contestant], options: argparse.Namespace) -> Report:
    """All of one model, in one run: what its files cost to make, starts, answers, operations."""
    mine = [contestant for contestant in chosen if contestant.model == model]
    made, failed = _make_files(model, mine)
    mine = [c for c in mine if not failed.keys() & set(c.files.values())]
    out: Report = {
        "commit": _name_commit(),
        "load": os.getloadavg(),
        "made": made,
        "failed": failed,
    }
    if model == "demo":
        return out | {"commands": [] if failed else measure_commands(options.rounds)}
    seeds = itertools.count(1, 2)  # an answer may show two pictures
    out["starts"] = measure_starts(mine, options.rounds, seeds)
    out["answers"] = [
        row
        for threads in options.threads
        for row in measure_answers(mine, threads, options.rounds, seeds)
    ]
    rows = sorted({row["rounds"][0]["rows"] for row in out["answers"] if row["do"] == "answer"})
    checkpoint = make_checkpoint(model)
    out["operations"] = {count: count_operations(checkpoint, count) for count in rows}
    return out


def _name_commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _make_files(model: str, contestants: Sequence[Contestant]) -> tuple[Report, dict[str, str]]:
    """What making each file cost, and what those said that could not be made."""
    names = dict.fromkeys(name for c in contestants for name in c.files.values())
    if model == "demo":
        names = dict.fromkeys(name for of, name in FILES if of == model)
    made: Report = {}
    failed: dict[str, str] = {}
    for name in names:
        try:
            made[name] = make_file(model, name)
        except CannotMake as error:
            failed[name] = str(error)
            print(f"{model}/{name} cannot be made: {error}", file=sys.stderr)
    return made, failed


if __name__ == "__main__":
    main()
