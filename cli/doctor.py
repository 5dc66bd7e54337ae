"""`edgetok doctor`: what this machine has, and whether each provider really runs a graph."""

from __future__ import annotations

import os
import platform
from typing import Any

import typer
from rich.table import Table

from edgetok.cli.options import Json
from edgetok.cli.output import emit, emit_json, table
from edgetok.cli.versions import list_bounds, misfit
from edgetok.errors import IncompatibleError
from edgetok.installed import version_of

_PACKAGES = (
    "edgetok",
    "numpy",
    "onnx",
    "tokenizers",
    "pillow",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx",
    "cuda-bindings",
    "torch",
    "transformers",
    "onnxscript",
    "optimum",
)
_NO_DEVICES = {"AzureExecutionProvider"}  # a gateway to remote endpoints


def doctor_command(as_json: Json = False) -> None:
    """Check this machine: versions, memory, and a real graph on every provider."""
    from edgetok.runtimes.device import installed, machine
    from edgetok.runtimes.device.energy import find_meter

    packages = _list_versions()
    providers, problems = _try_providers()
    meter = find_meter()
    facts = machine.facts() | {
        "free_memory_mib": (machine.available_bytes() or 0) >> 20,
        "energy_meter": "none (RAPL, INA3221)" if meter is None else type(meter).__name__,
    }
    gpu = installed.describe_gpu()
    running = [row["provider"] for row in providers if row["result"] == "runs"]
    fields: dict[str, Any] = {
        "packages": packages,
        "bounds": list_bounds(),
        "misfits": list(filter(None, map(misfit, _PACKAGES))),
        "machine": facts,
        "gpu": gpu,
        "advice": installed.advise(gpu, running),
        "cache": _describe_cache(),
        "providers": providers,
        "problems": problems,
    }
    if not problems:
        emit(fields, as_json, *_show(fields))
        return
    if as_json:
        error = {"code": IncompatibleError.code, "message": "; ".join(problems)}
        emit_json(fields | {"error": error}, ok=False)
    else:
        emit(fields, False, *_show(fields))
    raise typer.Exit(IncompatibleError.exit_code)


def _list_versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    return found | {package: version_of(package) for package in _PACKAGES}


def _try_providers() -> tuple[list[dict[str, Any]], list[str]]:
    """What each provider did with a one-node graph, and the problems of this installation."""
    from edgetok.runtimes.backends import kernel_support as probe
    from edgetok.runtimes.backends.providers import import_onnxruntime

    try:
        onnxruntime = import_onnxruntime()
    except IncompatibleError as error:
        return [], [str(error)]
    onnxruntime.set_default_logger_severity(4)
    listed = [name for name in onnxruntime.get_available_providers() if name not in _NO_DEVICES]
    results = {name: probe.try_provider(name) for name in listed}
    rows = [
        {"provider": name, "result": result, "kv": _try_caches(name, result)}
        for name, result in results.items()
    ]
    cpu = results.get(probe.CPU, "is missing")
    return rows, [] if cpu == "runs" else [f"CPUExecutionProvider {cpu}"]


def _try_caches(provider: str, result: str) -> dict[str, str]:
    """What GroupQueryAttention says of caches of 8 and 4 bits, where anything runs at all."""
    from edgetok.runtimes.backends import kernel_support as probe

    bits = probe.KV_BITS if result == "runs" else ()
    return {f"int{width}": probe.try_kv_bits(provider, width) for width in bits}


def _describe_cache() -> str:
    """Where measured tables are kept, and whether they can be."""
    from edgetok.user_cache import cache_directory

    path = cache_directory()
    nearest = next((p for p in (path, *path.parents) if p.exists()), path)
    return str(path) if os.access(nearest, os.W_OK) else f"{path} (not writable)"


def _show(fields: dict[str, Any]) -> list[Table | str]:
    versions = table("Versions", "package", "version", "needed")
    for package, version in fields["packages"].items():
        least = fields["bounds"].get(package)
        versions.add_row(package, version or "not installed", f">={least}" if least else "")
    facts = table("Machine", "fact", "value")
    for fact, value in (fields["machine"] | {"cache": fields["cache"]}).items():
        facts.add_row(fact.replace("_", " "), str(value))
    gpu = table("GPU", "part", "version")
    for part, version in fields["gpu"].items():
        gpu.add_row(part, version)
    providers = table("Providers of ONNX Runtime", "provider", "a one-node graph", "KV caches")
    for row in fields["providers"]:
        caches = ", ".join(name for name, result in row["kv"].items() if result == "runs")
        providers.add_row(row["provider"], row["result"], caches)
    notes = [f"install: {advice}" for advice in fields["advice"]]
    notes += [f"install: {says}" for says in fields["misfits"]]
    notes += [f"problem: {problem}" for problem in fields["problems"]] or ["no problems found"]
    return [versions, "", facts, "", gpu, "", providers, "", *notes]
