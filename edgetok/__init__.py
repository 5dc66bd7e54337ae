"""Edge deployment for vision-language models: export a ladder of token budgets, run it anywhere.

Importing edgetok loads neither torch, transformers nor onnxruntime; each is imported when the
first call needs it.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from edgetok.version import VERSION as __version__

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from edgetok.bundle.manifest import Flavour
    from edgetok.errors import (
        BundleError,
        EdgetokError,
        IncompatibleError,
        InputError,
        ResourceError,
        UsageError,
        VerificationError,
    )
    from edgetok.runtimes.answers.answer import Answer
    from edgetok.runtimes.answers.conversation import Conversation
    from edgetok.runtimes.answers.model import Model
    from edgetok.runtimes.encoder.model import Encoder


_HOMES = {
    "Answer": "edgetok.runtimes.answers.answer",
    "Conversation": "edgetok.runtimes.answers.conversation",
    "Encoder": "edgetok.runtimes.encoder.model",
    "Model": "edgetok.runtimes.answers.model",
    "BundleError": "edgetok.errors",
    "EdgetokError": "edgetok.errors",
    "IncompatibleError": "edgetok.errors",
    "InputError": "edgetok.errors",
    "ResourceError": "edgetok.errors",
    "UsageError": "edgetok.errors",
    "VerificationError": "edgetok.errors",
}

__all__ = [
    "Answer",
    "BundleError",
    "Conversation",
    "EdgetokError",
    "Encoder",
    "IncompatibleError",
    "InputError",
    "Model",
    "ResourceError",
    "UsageError",
    "VerificationError",
    "__version__",
    "export",
    "load",
    "load_encoder",
]


def load(
    bundle: str | os.PathLike[str],
    device: str = "cpu",
    *,
    budgets: Iterable[int] | None = None,
    threads: int | None = None,
    flavour: Flavour | None = None,
    precision: str = "fp16",
) -> Model:
    """Load a bundle to answer questions about images; see `edgetok.runtimes.load.load`."""
    from edgetok.runtimes.load import load as load_bundle

    return load_bundle(
        bundle, device, budgets=budgets, threads=threads, flavour=flavour, precision=precision
    )


def load_encoder(
    bundle: str | os.PathLike[str],
    device: str = "cpu",
    *,
    budgets: Iterable[int] | None = None,
    threads: int | None = None,
    flavour: Flavour = "ort",
) -> Encoder:
    """Load the bundle of an encoder alone; see `edgetok.runtimes.encoder.model.load_encoder`."""
    from edgetok.runtimes.encoder.model import load_encoder as load_bundle

    return load_bundle(bundle, device, budgets=budgets, threads=threads, flavour=flavour)


def export(model: str | os.PathLike[str], out: str | os.PathLike[str], **options: Any) -> Any:
    """Export a Hugging Face model directory; see `edgetok.export.pipeline.export_model`.

    The options are the fields of `edgetok.export.options.ExportOptions`: those of `edgetok export`.
    """
    from pathlib import Path

    from edgetok.export.pipeline import export_model

    return export_model(Path(model), Path(out), **options)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'edgetok' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


class _Export(ModuleType):
    """The folder `edgetok.export`, which can be called like the function of that name."""

    __call__ = staticmethod(export)


class _Edgetok(ModuleType):
    """This module. Python binds a sub-package to its parent when it is imported, so the first
    `import edgetok.export.…` anywhere would put a folder in the place of the function."""

    def __setattr__(self, name: str, value: object) -> None:
        if name == "export" and isinstance(value, ModuleType):
            value.__class__ = _Export
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Edgetok
