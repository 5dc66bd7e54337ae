"""A joint search over what an export may choose: successive halving, a journal, a Pareto front."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import msgspec

from edgetok.calibration.records import end_line
from edgetok.errors import EdgetokError, InputError, ResourceError, UsageError

CANDIDATES = 256  # each is an export of its own, of a minute or more
FINALISTS = 4  # of them a front is drawn; a single one would have none
Report = Callable[[str, float], None]


class Candidate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One way to export a model; the ladder is measured rung by rung."""

    method: str
    weights: str
    kv: str
    kv_policy: str = "none"

    @property
    def name(self) -> str:
        """For people, and part of a file name."""
        return "-".join((self.method, self.weights, self.kv, self.kv_policy)).replace("+", "_")


class Point(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One rung of a candidate: how often it was right, and what it costs on this device."""

    budget: int
    right: int
    total: int
    ttft_ms: float
    decode_ms: float
    memory_mib: float

    @property
    def accuracy(self) -> float:
        return self.right / self.total


class Measured(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of the journal: a candidate on the first so many questions.

    Args:
        of: digest of the model, the data and what else all candidates share.
        bytes: of the bundle.
        failed: why there are no points, if the candidate cannot be exported or run.
    """

    of: str
    candidate: Candidate
    questions: int
    points: list[Point]
    bytes: int = 0
    failed: str | None = None


@dataclass(frozen=True, slots=True)
class Goal:
    """Limits that a rung must keep to be of use; None: any."""

    max_ttft_ms: float | None = None
    max_memory_mib: float | None = None

    def allows(self, point: Point) -> bool:
        pairs = (point.ttft_ms, self.max_ttft_ms), (point.memory_mib, self.max_memory_mib)
        return all(limit is None or value <= limit for value, limit in pairs)


Measure = Callable[[Candidate, int], Measured]


def list_candidates(
    methods: Sequence[str], weights: Sequence[str], kvs: Sequence[str], policies: Sequence[str]
) -> list[Candidate]:
    """Every combination.

    Raises:
        UsageError: if there are none, or too many.
    """
    every = product(methods, weights, kvs, policies)
    found = [Candidate(*choice) for choice in dict.fromkeys(every)]
    if not 1 <= len(found) <= CANDIDATES:
        raise UsageError(f"{len(found)} combinations to try are outside 1..{CANDIDATES}")
    return found


def search(
    candidates: Sequence[Candidate], questions: int, measure: Measure, goal: Goal, progress: Report
) -> list[Measured]:
    """Measure all on few questions, the better half on twice as many, and so on to all of them.

    Successive halving (arXiv 1502.07943). Better is who has a rung on an earlier Pareto front of
    accuracy, time and memory, among the rungs within the limits; accuracy decides between equals.
    So a small candidate is not lost because a large one is right more often.

    Args:
        questions: how many the last round asks.

    Returns:
        The candidates of the last round, all measured on all questions; failures are left out.

    Raises:
        InputError: if no candidate can be exported and run; says why the first could not.
    """
    rounds = plan_rounds(len(candidates), questions)
    total, done = sum(count for count, _ in rounds), 0
    left, found = list(candidates), list[Measured]()
    for count, asked in rounds:
        left, found = left[:count], []
        for candidate in left:
            progress(f"{candidate.name}, {asked} questions", done / total)
            found.append(measure(candidate, asked))
            done += 1
        usable = [measured for measured in found if measured.points]
        if not usable:
            raise InputError(f"no candidate can be used; {found[0].candidate.name}: {_why(found)}")
        ranked = rank(usable, goal)
        left, found = [measured.candidate for measured in ranked], ranked
    return found


def plan_rounds(candidates: int, questions: int) -> list[tuple[int, int]]:
    """How many candidates are asked how many questions, round by round, until few are left.

    >>> plan_rounds(12, 100)
    [(12, 25), (6, 50), (3, 100)]
    """
    counts = [candidates]
    while counts[-1] > FINALISTS:
        counts.append(-(-counts[-1] // 2))
    last = len(counts) - 1
    return [(n, max(1, questions // 2 ** (last - at))) for at, n in enumerate(counts)]


def rank(measured: Sequence[Measured], goal: Goal) -> list[Measured]:
    """The best first: by the front that their best rung is on, then by its accuracy and time."""
    pairs = [(m, p) for m in measured for p in m.points]
    within = [pair for pair in pairs if goal.allows(pair[1])]
    outside = [pair for pair in pairs if not goal.allows(pair[1])]
    place: dict[str, tuple[int, float, float]] = {}
    level = 0
    for group in (within, outside):
        while group:
            front = find_front(group)
            for m, p in front:
                key = (level, -p.accuracy, p.ttft_ms)
                place[m.candidate.name] = min(place.get(m.candidate.name, key), key)
            group, level = [pair for pair in group if pair not in front], level + 1
    return sorted(measured, key=lambda m: place[m.candidate.name])


def find_front(pairs: Sequence[tuple[Measured, Point]]) -> list[tuple[Measured, Point]]:
    """The rungs that no other one beats: as right, as quick and as small, and better in one."""
    return [pair for pair in pairs if not any(_beats(other[1], pair[1]) for other in pairs)]


def choose(front: Sequence[tuple[Measured, Point]], goal: Goal) -> tuple[Measured, Point] | None:
    """The most accurate rung within the limits, the quickest of several; None if none is."""
    within = [pair for pair in front if goal.allows(pair[1])]
    return min(within, key=lambda pair: (-pair[1].accuracy, pair[1].ttft_ms), default=None)


def _beats(a: Point, b: Point) -> bool:
    one = (-a.accuracy, a.ttft_ms, a.memory_mib)
    two = (-b.accuracy, b.ttft_ms, b.memory_mib)
    return one != two and all(x <= y for x, y in zip(one, two, strict=True))


class Journal:
    """What was measured so far, a JSON line each: an interrupted search goes on after it.

    Args:
        path: of the file; lines of other searches in it are left alone.
        of: which search this is.
    """

    def __init__(self, path: Path, of: str) -> None:
        self.of = of
        self._path = path
        self._known = {(m.candidate, m.questions): m for m in _read(path) if m.of == of}

    def find(self, candidate: Candidate, questions: int) -> Measured | None:
        return self._known.get((candidate, questions))

    def of_candidate(self, candidate: Candidate) -> Measured | None:
        """A line of a candidate that could be measured, on whatever questions."""
        lines = (m for m in self._known.values() if m.candidate == candidate and m.points)
        return next(lines, None)

    def list_failed(self) -> list[Measured]:
        """A line for each candidate that could not be exported or run."""
        failed = {m.candidate: m for m in self._known.values() if m.failed is not None}
        return list(failed.values())

    def note(self, measured: Measured) -> Measured:
        """Write a line; raises ResourceError if that fails."""
        try:
            with self._path.open("a+b") as file:
                end_line(file)
                file.write(msgspec.json.encode(measured) + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ResourceError(
                f"{self._path}: cannot be written: {error.strerror or error}"
            ) from error
        self._known[measured.candidate, measured.questions] = measured
        return measured


def attempt(
    of: str, candidate: Candidate, questions: int, make: Callable[[], Measured]
) -> Measured:
    """What `make` measures; a candidate that is refused is a finding, not the end of a search."""
    try:
        return make()
    except ResourceError:
        raise  # a full disk refuses the next one as well
    except EdgetokError as error:
        return Measured(of, candidate, questions, [], failed=str(error))


def _why(found: Sequence[Measured]) -> str:
    return next((m.failed for m in found if m.failed), "it has no rung")


def _read(path: Path) -> Iterator[Measured]:
    """The lines of a journal; one that a crash cut short is measured again."""
    if not path.exists():
        return
    for line in path.read_bytes().splitlines():
        try:
            yield msgspec.json.decode(line, type=Measured)
        except (ValueError, RecursionError):
            continue
