"""One bundle in both libraries, asked the same: whatever can be told of two answers is equal."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

import edgetok


def picture(number: int) -> np.ndarray:
    """Noise of its own."""
    return np.random.default_rng(number).integers(0, 256, (10, 12, 3), np.uint8)


def require_same(found: Any, want: Any) -> None:
    """Compare an answer of C++ with one of Python, how sure they are to the last bit."""
    assert found.tokens == list(want.token_ids)
    assert found.reused == want.reused_rows
    assert found.kept == list(want.kept)
    assert found.tried == [attempt.budget for attempt in want.attempts]
    assert (found.stop, found.reason) == (want.stop_reason, want.reason)
    sure = want.confidence
    if sure is not None:
        assert found.margin == sure.first_margin
        assert found.log_probability == sure.mean_log_probability


def stop_at(count: int | None) -> Any:
    """A callback that cancels at a token; none for None."""
    if count is None:
        return None
    told: list[int] = []
    return lambda token: told.append(token) or int(len(told) >= count)


class Pair:
    """Both models. Neither forgets what its cache holds unless it is told to."""

    def __init__(self, library: Any, capi: ModuleType, folder: Path, **options: Any) -> None:
        self.capi = capi
        self.python = edgetok.load(folder, threads=1, **options)
        self.cpp = capi.Model(capi.Bundle(library, folder), threads=1, **options)

    def ask(
        self,
        shown: Any,
        text: str,
        budget: int = 0,
        pieces: int | None = None,
        **options: Any,
    ) -> Any:
        """Answer in both, cancelled after so many pieces of text; returns that of C++."""
        stream = self.python.stream(shown, text, budget=budget or None, **options)
        want, count = read(stream, pieces)
        prompt = self.python.processor.encode(text)
        found = self.cpp.generate(
            self.cpp.image(shown),
            prompt.before,
            prompt.after,
            prompt.question,
            stop_at(count),
            budget=budget,
            **options,
        )
        require_same(found, want)
        return found

    def converse(self, shown: np.ndarray, budget: int = 0) -> Talk:
        """Begin a conversation in both."""
        return Talk(self, shown, budget)

    def forget(self) -> None:
        """Let both begin afresh."""
        self.python.forget()
        self.cpp.forget()


class Talk:
    """A conversation in both libraries."""

    def __init__(self, pair: Pair, shown: np.ndarray, budget: int) -> None:
        self.pair, self.budget = pair, budget
        self.python = pair.python.converse(shown, budget=budget or None)
        self.cpp = pair.cpp.converse(pair.cpp.image(shown))

    def ask(self, text: str, pieces: int | None = None, **options: Any) -> Any:
        """Answer the next turn in both; returns the answer of C++."""
        want, count = read(self.python.stream(text, **options), pieces)
        found = self.ask_cpp(text, on_token=stop_at(count), **options)
        require_same(found, want)
        self.require_same_state()
        return found

    def ask_cpp(self, text: str, **options: Any) -> Any:
        """The same turn in C++ alone."""
        processor = self.pair.python.processor
        if self.cpp.turns:
            return self.cpp.ask([], processor.encode_turn(text), **options)
        prompt = processor.encode(text)
        asked = {"budget": self.budget} | options
        return self.cpp.ask(prompt.before, prompt.after, prompt.question, **asked)

    def require_same_state(self) -> None:
        """As many turns, and as much room for more."""
        assert self.cpp.turns == len(self.python.turns)
        assert self.cpp.tokens_left == self.python.tokens_left


def read(stream: Any, pieces: int | None) -> tuple[Any, int | None]:
    """An answer of Python; and after which token it was cancelled, if it was."""
    with stream:
        if pieces is None:
            for _ in stream:
                pass
        else:
            for _, _ in zip(range(pieces), stream, strict=False):
                pass
    want = stream.answer
    return want, len(want.token_ids) if want.stop_reason == "cancelled" else None
