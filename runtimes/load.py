"""Loading a bundle: the one place where bundle, runtime and generation meet."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from edgetok.bundle.manifest import Flavour, Manifest, digest_content
from edgetok.bundle.reader import Bundle
from edgetok.runtimes.answers.model import Model
from edgetok.runtimes.backends.providers import runs_engines
from edgetok.runtimes.processor import read_processor
from edgetok.runtimes.runtime.runtime import BundleRuntime


def load(
    bundle: str | os.PathLike[str] | Bundle,
    device: str = "cpu",
    *,
    budgets: Iterable[int] | None = None,
    threads: int | None = None,
    flavour: Flavour | None = None,
    precision: str = "fp16",
) -> Model:
    """Open a bundle, check it and make all its sessions.

    Args:
        bundle: path of a bundle, or one that is open already.
        device: "cpu", "cuda", "ort-tensorrt" or "ort-rtx" in ONNX Runtime; "tensorrt" or "rtx" for
            engines without it, which are built where they are not in the cache.
        budgets: the rungs to load; all when None.
        threads: threads per operator; one per physical core when None.
        flavour: "ort", or "portable" for the graphs of standard operators that `edgetok export
            --flavour portable` adds. When None, "portable" for engines and for quantized bundles on
            a GPU, which has no kernels for the others' products; "ort" elsewhere.
        precision: of matrix products in engines: "fp32", "fp16" or "bf16".

    Raises:
        BundleError: if the bundle is incomplete, malformed or damaged.
        IncompatibleError: if ONNX Runtime or the device's provider is missing.
        ResourceError: if there is too little memory.
        UsageError: for an unknown device, rung, number of threads or flavour.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(Path(bundle))
    processor = read_processor(opened)  # cheap, so that its errors come before the sessions
    runtime = BundleRuntime(
        opened,
        device=device,
        budgets=budgets,
        threads=threads,
        flavour=flavour or _flavour_on(device, opened.manifest),
        precision=precision,
    )
    return Model(runtime, processor, digest_content(opened.manifest))


def _flavour_on(device: str, manifest: Manifest) -> Flavour:
    quantized = manifest.precision.weights != "fp32" and device != "cpu"
    has_portable = any(stage.flavour == "portable" for stage in manifest.stages)
    return "portable" if runs_engines(device) or (quantized and has_portable) else "ort"
