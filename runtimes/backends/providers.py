"""Which ONNX Runtime is installed, which device it offers, and how sessions are set up on it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from edgetok.errors import IncompatibleError, ResourceError, UsageError
from edgetok.installed import version_of

DEVICES = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "ort-tensorrt": "TensorrtExecutionProvider",
    "ort-rtx": "NvTensorRTRTXExecutionProvider",
}
# Those that make engines of standard operators; what they leave runs on CUDA, never on the CPU.
_ENGINE_PROVIDERS = (DEVICES["ort-tensorrt"], DEVICES["ort-rtx"])
ENGINE_DEVICES = ("tensorrt", "rtx")  # which run engines of their own, without ONNX Runtime
# All that unpack into the folder `onnxruntime`.
WHEELS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-migraphx",
    "onnxruntime-openvino",
    "onnxruntime-qnn",
    "onnxruntime-rocm",
    "onnxruntime-training",
)


@dataclass(frozen=True, slots=True)
class StageOptions:
    """How the sessions of one stage trade memory for speed.

    Args:
        prepack: copy weights into the layout of the fastest kernels; False maps the file, which
            all sessions share.
        spinning: threads wait busily for the next operator, which pays if operators are short.
        arena: keep activation memory between runs, which pays if runs are short and frequent.
        why: the reason, so that nobody has to measure again.
    """

    prepack: bool
    spinning: bool
    arena: bool
    why: str


STAGE_OPTIONS = {
    "tower": StageOptions(False, False, False, "hundreds of rows: packing gains under 10 %"),
    "compress": StageOptions(False, False, False, "once per image and small beside the tower"),
    "embed": StageOptions(False, False, False, "a gather: nothing to pack"),
    "prefill": StageOptions(False, False, False, "as the tower, and there is one per rung"),
    "segment": StageOptions(False, False, False, "a part of prefill"),
    "exited": StageOptions(False, False, False, "a part of prefill"),
    "flush": StageOptions(False, False, False, "some roundings, once in many steps"),
    "unpack": StageOptions(False, False, False, "once, at load"),
    "compact": StageOptions(False, False, False, "a gather, once in many steps"),
    "encode": StageOptions(False, False, False, "as the tower, and there is one per rung"),
    "describe": StageOptions(False, False, False, "a few rows, once per text"),
    "extend": StageOptions(False, False, False, "as prefill: packing would copy all its weights"),
    "decode": StageOptions(
        True, True, True, "one row per run: int4 takes 0.8 ms packed, 30 ms not"
    ),
}


def import_onnxruntime() -> ModuleType:
    """The module `onnxruntime`, if exactly one build of it is installed, whole.

    Raises:
        IncompatibleError: with the commands that repair the installation.
    """
    wheels = installed_wheels()
    if len(wheels) > 1:
        raise IncompatibleError(
            f"{' and '.join(wheels)} are both installed and have overwritten each other's files; "
            f"{_repair(wheels, 'cpu')} (or edgetok[gpu])"
        )
    # Releases from 1.29 on report session data to their maker unless told not to, before import.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime

        # A folder that another wheel's removal emptied still imports, as a namespace.
        onnxruntime.InferenceSession  # noqa: B018
    except (ImportError, AttributeError) as error:
        if wheels:
            raise IncompatibleError(
                f"{wheels[0]} is installed but damaged ({error}); {_repair(wheels, 'cpu')} "
                f"(or edgetok[gpu])"
            ) from error
        raise IncompatibleError(
            "ONNX Runtime is not installed; install one of: pip install 'edgetok[cpu]', "
            "pip install 'edgetok[gpu]'"
        ) from error
    module: ModuleType = onnxruntime
    return module


def installed_wheels() -> list[str]:
    """Those of `WHEELS` that are installed."""
    return [name for name in WHEELS if version_of(name) is not None]


def provider_of(device: str) -> str:
    """The execution provider of a device, present in the installed build.

    Raises:
        UsageError: if the device is not one of `DEVICES`.
        IncompatibleError: if this build of ONNX Runtime lacks it, or as `import_onnxruntime`.
    """
    if device not in DEVICES:
        raise UsageError(
            f"device {device!r} is unknown; use one of {', '.join((*DEVICES, *ENGINE_DEVICES))}"
        )
    available = import_onnxruntime().get_available_providers()
    if DEVICES[device] not in available:
        wheels = installed_wheels()
        raise IncompatibleError(
            f"device {device!r} needs {DEVICES[device]}, and the installed onnxruntime has "
            f"{', '.join(available)}; {_repair(wheels, 'cpu' if device == 'cpu' else 'gpu')}"
        )
    return DEVICES[device]


def runs_engines(device: str) -> bool:
    """Whether the device reads the portable graphs unless others are asked for."""
    return device in ENGINE_DEVICES or DEVICES.get(device) in _ENGINE_PROVIDERS


def configure(provider: str, folder: Path) -> list[str | tuple[str, dict[str, str]]]:
    """Providers of a session, the one that was asked for first, with its options.

    Shapes are constants, so an engine's only profile is what the graph says, and no run makes
    another one. Engines are kept in a folder of this bundle, version and provider.

    Args:
        folder: of engines and timings; of this user alone.

    Raises:
        ResourceError: if the folder cannot be made.
    """
    if provider not in _ENGINE_PROVIDERS:
        return [provider]
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ResourceError(
            f"{folder}: engines cannot be kept there: {error.strerror or error}; set "
            "EDGETOK_CACHE_DIR to a directory that can be written"
        ) from error
    if provider == DEVICES["ort-rtx"]:
        options = {"nv_runtime_cache_path": str(folder)}
    else:
        options = {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(folder),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(folder),
        }
    return [(provider, options), DEVICES["cuda"]]


def require_provider_in_use(used: list[str], wanted: str) -> None:
    """ONNX Runtime only warns when a provider fails to start; make it an error.

    Raises:
        IncompatibleError: if a session runs without the provider that was asked for.
    """
    if wanted not in used:
        raise IncompatibleError(
            f"{wanted} could not start, and the session would run on {', '.join(used)}; check "
            f"the driver and the CUDA libraries that this onnxruntime needs, or use --device cpu"
        )


def _repair(wheels: list[str], extra: str) -> str:
    # All of them must go: each has overwritten files of the others.
    return f"repair with: pip uninstall -y {' '.join(wheels)} && pip install 'edgetok[{extra}]'"
