"""Contestants as processes, asked in turn: every round asks each of them everything once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Any

from peers.contestants import Contestant, Request
from peers.making import OUT, make_program

SLACK_ROWS = 2  # openvino.genai adds a line break behind a picture, and prunes to even counts
Row = dict[str, Any]


class Process:
    """A contestant that has loaded.

    Raises:
        RuntimeError: where it ends before it answers, with the end of what it said.
    """

    def __init__(self, contestant: Contestant, threads: int, options: Mapping[str, Any]) -> None:
        folder = OUT / contestant.model
        files = {key: str(folder / name) for key, name in contestant.files.items()}
        question = folder / "checkpoint/question.json"
        self._question = json.loads(question.read_text())
        words = {"threads": threads, "question": str(question)}
        told = json.dumps(words | files | dict(contestant.options) | dict(options))
        command = [str(word) for word in make_program(contestant.family)]
        self.contestant, self._log = contestant, folder / f"{contestant.family}.log"
        self._began = time.perf_counter()
        self._process = subprocess.Popen(
            [*command, told],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log.open("w"),
            text=True,
        )
        self.loaded = self._read() | {"loaded_wall_ms": self.age_ms}
        self.versions: dict[str, str] = self.loaded.pop("versions")

    @property
    def age_ms(self) -> float:
        """Since it was started."""
        return 1e3 * (time.perf_counter() - self._began)

    def ask(self, request: Request) -> Row:
        assert self._process.stdin is not None  # noqa: S101
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._read()

    def require_rows(self, request: Request, answer: Row) -> None:
        """That all contestants read as many rows: a picture's tokens and those of the question."""
        asked = self._question["second" if request["do"] == "second" else "first"]
        text = 0 if request["do"] == "text" else len(asked["before"]) + len(asked["after"])
        if abs(answer["rows"] - request["tokens"] - text) > SLACK_ROWS:
            wanted = f"{request['tokens']} tokens and {text} of text"
            raise RuntimeError(f"{self.contestant.name} read {answer['rows']} rows for {wanted}")

    def _read(self) -> Row:
        assert self._process.stdout is not None  # noqa: S101
        line = self._process.stdout.readline()
        if not line:
            said = self._log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{self.contestant.name} ended before it answered:\n{said}")
        found: Row = json.loads(line)
        return found

    def close(self) -> None:
        assert self._process.stdin is not None  # noqa: S101
        self._process.stdin.close()
        self._process.wait()


def measure_answers(
    contestants: Sequence[Contestant], threads: int, rounds: int, seeds: Iterable[int]
) -> list[Row]:
    """A row per contestant and request, with what each round cost; one round before is not kept.

    On several threads pictures alone are asked about.
    """
    seeds = iter(seeds)
    asked: list[tuple[Process, Request, Row]] = []
    with ExitStack() as stack:
        for contestant in contestants:
            requests = [r for r in contestant.requests if threads == 1 or r["do"] == "answer"]
            if requests:
                process = stack.enter_context(closing(Process(contestant, threads, {})))
                asked += [(process, r, _row(process, threads, r)) for r in requests]
        for turn in range(rounds + 1):
            for process, request, row in asked:
                found = process.ask(request | {"seed": next(seeds)})
                process.require_rows(request, found)
                if turn:
                    row["rounds"].append(_rounded(found | {"load": os.getloadavg()[0]}))
            print(f"{threads} threads, round {turn} of {rounds}", file=sys.stderr, flush=True)
    return [row for *_, row in asked]


def measure_starts(
    contestants: Sequence[Contestant], rounds: int, seeds: Iterable[int]
) -> list[Row]:
    """A row per contestant and way to start: loading, the first answer, memory after them all."""
    seeds = iter(seeds)
    ways = [(c, name, start) for c in contestants for name, start in c.starts.items()]
    rows = [
        {"model": c.model, "contestant": c.name, "start": name, "rounds": []} for c, name, _ in ways
    ]
    for _ in range(rounds):
        for (contestant, _, start), row in zip(ways, rows, strict=True):
            with closing(Process(contestant, 1, start.options)) as process:
                found = dict(process.loaded)
                for index, request in enumerate(start.requests):
                    answer = process.ask(request | {"seed": next(seeds)})
                    if index == 0:
                        found["first_answer_cpu_ms"] = answer["process_cpu_ms"]
                        found["first_answer_wall_ms"] = process.age_ms
                found["private_bytes"] = answer["private_bytes"]
            row["rounds"].append(_rounded(found | {"load": os.getloadavg()[0]}))
    return rows


def _row(process: Process, threads: int, request: Request) -> Row:
    contestant = process.contestant
    who = {"model": contestant.model, "contestant": contestant.name, "threads": threads}
    what = {key: request[key] for key in ("do", "tokens")}
    return who | what | {"versions": process.versions, "rounds": []}


def _rounded(found: Row) -> Row:
    return {name: round(value, 3) for name, value in found.items()}
