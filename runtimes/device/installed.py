"""What of NVIDIA's software this machine has, and what is missing to use its GPU."""

from __future__ import annotations

import ctypes
import platform
import re
from pathlib import Path

from edgetok.engines.device import find_device, import_cuda
from edgetok.engines.toolkit import MODULES, find_toolkit
from edgetok.errors import EdgetokError

JETPACKS = {"35": "5", "36": "6", "38": "7", "39": "7"}  # by the release of L4T
_DRIVER, _TEGRA = Path("/proc/driver/nvidia/version"), Path("/etc/nv_tegra_release")
_CUDNN = ("libcudnn.so.9", "libcudnn.so.8")


def describe_gpu() -> dict[str, str]:
    """Driver, JetPack, GPU, CUDA, cuDNN and TensorRT: versions, or why there is none."""
    found = {
        "nvidia driver": _driver(),
        "jetpack": _jetpack(),
        "gpu": _gpu(),
        "cudnn": _cudnn(),
    }
    for kind, module in MODULES.items():
        try:
            found[module] = find_toolkit(kind).version
        except EdgetokError as error:
            found[module] = f"none: {error}"
    return found


def advise(gpu: dict[str, str], providers: list[str]) -> list[str]:
    """What to install, if anything would help.

    Args:
        gpu: of `describe_gpu`.
        providers: of ONNX Runtime, those that run a graph.
    """
    advice = []
    has_driver = not gpu["nvidia driver"].startswith("none")
    on_jetson = not gpu["jetpack"].startswith("none")
    if has_driver and gpu["gpu"].startswith("none"):
        advice.append(
            "the CUDA bindings cannot use the driver: pip install cuda-bindings, of its CUDA"
        )
    if on_jetson and gpu["tensorrt"].startswith("none"):
        advice.append(
            "TensorRT: sudo apt install python3-libnvinfer, and a virtual environment made with "
            "python3 -m venv --system-site-packages"
        )
    if has_driver and not on_jetson and "CUDAExecutionProvider" not in providers:
        advice.append(
            "ONNX Runtime on the GPU: pip uninstall -y onnxruntime && pip install 'edgetok[gpu]'"
        )
    is_x86 = platform.machine() == "x86_64"
    if is_x86 and all(gpu[module].startswith("none") for module in MODULES.values()):
        advice.append("engines, also for GPUs that are elsewhere: pip install 'edgetok[rtx]'")
    return advice


def _driver() -> str:
    found = re.search(r"Kernel Module\S*(?: for \S+)?\s+([0-9.]+)", _read(_DRIVER))
    return found[1] if found else "none"


def _jetpack() -> str:
    """Of a Jetson, as `# R36 (release), REVISION: 4.3` says it."""
    found = re.search(r"R([0-9]+) \(release\), REVISION: ([0-9.]+)", _read(_TEGRA))
    if found is None:
        return "none"
    return f"{JETPACKS.get(found[1], 'unknown')} (L4T {found[1]}.{found[2]})"


def _gpu() -> str:
    try:
        return str(find_device(import_cuda()))
    except EdgetokError as error:
        return f"none: {error}"


def _cudnn() -> str:
    """As the library says that a program would find."""
    for name in _CUDNN:
        try:
            ask = ctypes.CDLL(name).cudnnGetVersion
        except (OSError, AttributeError):
            continue
        ask.restype = ctypes.c_size_t
        number = int(ask())
        major = 10_000 if number >= 90_000 else 1000  # 9 has two digits more
        return f"{number // major}.{number % major // 100}.{number % 100}"
    return "none"


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
