"""Reading the weights of a trained scorer into the method that has a slot for them."""

from __future__ import annotations

from pathlib import Path

from edgetok import limits
from edgetok.errors import InputError, UsageError
from edgetok.methods import METHODS, Method


def with_scorer(method: Method, path: Path | None) -> Method:
    """The method with the scorer of a safetensors file; the method itself without one.

    Raises:
        UsageError: if the method has no slot for a scorer.
        InputError: if the file cannot be read, is too large, or does not fit.
    """
    if path is None:
        return method
    if method.learn is None:
        able = ", ".join(name for name, known in METHODS.items() if known.learn)
        raise UsageError(f"{method.name} has no trained scorer; --scorer is for {able}")
    from safetensors.torch import load

    try:
        size_bytes = path.stat().st_size
        if size_bytes > limits.SCORER_BYTES:
            raise InputError(
                f"scorer {path} has {size_bytes} bytes; the limit is {limits.SCORER_BYTES}"
            )
        weights = load(path.read_bytes())
    except OSError as error:
        raise InputError(f"scorer {path} cannot be read: {error.strerror or error}") from error
    except InputError:
        raise
    except Exception as error:  # the binding's own error has no public base
        raise InputError(f"scorer {path} is no safetensors file: {error}") from error
    return method.learn(weights)
