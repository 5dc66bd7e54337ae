"""`edgetok doctor`: what this machine has, and whether each provider really runs a graph."""

from __future__ import annotations

import os
import platform
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import typer
from rich.table import Table

from edgetok.cli.options import Json
from edgetok.cli.output import emit, emit_json, table
from edgetok.errors import IncompatibleError

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
    "torch",
    "transformers",
    "onnxscript",
    "optimum",
)
# What a vendor writes about the driver and, on a Jetson, about JetPack.
_SYSTEM_FILES = {"nvidia driver": "/proc/driver/nvidia/version", "jetpack": "/etc/nv_tegra_release"}
_NO_DEVICES = {"AzureExecutionProvider"}  # a gateway to remote endpoints
_ONE_NODE = """
<ir_version: 8, opset_import: ["": 17]>
doctor (float[4] x) => (float[4] y) { y = Add(x, x) }
"""


def doctor_command(as_json: Json = False) -> None:
    """Check this machine: versions, memory, and a real graph on every provider."""
    from edgetok.runtimes import machine
    from edgetok.runtimes.energy import find_meter

    packages = _list_versions()
    providers, problems = _try_providers()
    meter = find_meter()
    facts = machine.facts() | {
        "free_memory_mib": (machine.available_bytes() or 0) >> 20,
        "energy_meter": "none (RAPL, INA3221)" if meter is None else type(meter).__name__,
    }
    fields: dict[str, Any] = {
        "packages": packages,
        "machine": facts | _read_system_files(),
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
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def _try_providers() -> tuple[list[dict[str, str]], list[str]]:
    """What each provider did with a one-node graph, and the problems of this installation."""
    from edgetok.runtimes.providers import import_onnxruntime

    try:
        onnxruntime = import_onnxruntime()
    except IncompatibleError as error:
        return [], [str(error)]
    onnxruntime.set_default_logger_severity(4)
    listed = [name for name in onnxruntime.get_available_providers() if name not in _NO_DEVICES]
    results = {name: _try_provider(name) for name in listed}
    rows = [{"provider": name, "result": result} for name, result in results.items()]
    cpu = results.get("CPUExecutionProvider", "is missing")
    return rows, [] if cpu == "runs" else [f"CPUExecutionProvider {cpu}"]


def _try_provider(name: str) -> str:
    """A provider list is fixed when ONNX Runtime is built; only a run tells what works."""
    import numpy as np
    import onnx.parser
    import onnxruntime

    graph = onnx.parser.parse_model(_ONE_NODE).SerializeToString()
    x = np.arange(4, dtype=np.float32)
    options = onnxruntime.SessionOptions()
    if name != "CPUExecutionProvider":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        with warnings.catch_warnings(action="ignore"):  # what it warns of is in our result
            session = onnxruntime.InferenceSession(graph, options, providers=[name])
        if session.get_providers()[0] != name:
            return "fails: ONNX Runtime fell back to another provider"
        (y,) = session.run(None, {"x": x})
    except Exception as error:  # a provider may raise anything; its words are the finding
        return f"fails: {' '.join(str(error).split())[:200]}"
    return "runs" if np.array_equal(y, x + x) else f"fails: {x} + {x} gave {y}"


def _read_system_files() -> dict[str, str]:
    found = {}
    for name, path in _SYSTEM_FILES.items():
        try:
            found[name] = Path(path).read_text(errors="replace").splitlines()[0].strip()
        except (OSError, IndexError):
            continue
    return found


def _describe_cache() -> str:
    """Where measured tables are kept, and whether they can be."""
    from edgetok.control.table import cache_directory

    path = cache_directory()
    nearest = next((p for p in (path, *path.parents) if p.exists()), path)
    return str(path) if os.access(nearest, os.W_OK) else f"{path} (not writable)"


def _show(fields: dict[str, Any]) -> list[Table | str]:
    versions = table("Versions", "package", "version")
    for package, version in fields["packages"].items():
        versions.add_row(package, version or "not installed")
    facts = table("Machine", "fact", "value")
    for fact, value in (fields["machine"] | {"cache": fields["cache"]}).items():
        facts.add_row(fact.replace("_", " "), str(value))
    providers = table("Providers of ONNX Runtime", "provider", "a one-node graph")
    for row in fields["providers"]:
        providers.add_row(row["provider"], row["result"])
    problems = [f"problem: {problem}" for problem in fields["problems"]]
    return [versions, "", facts, "", providers, "", *(problems or ["no problems found"])]
