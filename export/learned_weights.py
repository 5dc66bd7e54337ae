"""Reading what was learned elsewhere into the method or policy that has a slot for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgetok import limits
from edgetok.errors import InputError, UsageError
from edgetok.kv import NONE, POLICIES, Policy
from edgetok.methods import METHODS, Method
from edgetok.prefill import PREFILL_METHODS, Prefill

if TYPE_CHECKING:
    from torch import Tensor


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
    return method.learn(read_weights("scorer", path))


def with_kv_weights(policy: Policy | None, path: str | Path | None) -> Policy | None:
    """The policy with the weights of a safetensors file; the policy itself without one.

    Raises:
        UsageError: if the policy has no slot for weights.
        InputError: if the file cannot be read, is too large, or does not fit.
    """
    if path is None:
        return policy
    if policy is None or policy.learn is None:
        able = ", ".join(name for name, known in POLICIES.items() if known.learn)
        name = NONE if policy is None else policy.name
        raise UsageError(f"KV policy {name} has no weights; --kv-weights is for {able}")
    return policy.learn(read_weights("KV weights", Path(path)))


def with_exit_weights(prefill: Prefill | None, path: str | Path | None) -> Prefill | None:
    """The prefill method with the weights of a safetensors file; itself without one.

    Raises:
        UsageError: if the method has no slot for weights.
        InputError: if the file cannot be read, is too large, or does not fit.
    """
    if path is None:
        return prefill
    if prefill is None or prefill.method.learn is None:
        able = ", ".join(name for name, known in PREFILL_METHODS.items() if known.learn)
        name = NONE if prefill is None else prefill.name
        raise UsageError(f"--prefill {name} has no weights; --exit-weights is for {able}")
    return replace(prefill, method=prefill.method.learn(read_weights("exit weights", Path(path))))


def read_weights(what: str, path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name.

    Args:
        what: is read, for messages.

    Raises:
        InputError: if it cannot be read, is too large, or no such file.
    """
    from safetensors.torch import load

    try:
        size_bytes = path.stat().st_size
        if size_bytes > limits.SCORER_BYTES:
            raise InputError(
                f"{what} {path} has {size_bytes} bytes; the limit is {limits.SCORER_BYTES}"
            )
        tensors: dict[str, Tensor] = load(path.read_bytes())
    except OSError as error:
        raise InputError(f"{what} {path} cannot be read: {error.strerror or error}") from error
    except InputError:
        raise
    except Exception as error:  # the binding's own error has no public base
        raise InputError(f"{what} {path} is no safetensors file: {error}") from error
    return tensors
