"""From any exception to what the user reads and the exit code; used by `app.main` alone."""

from __future__ import annotations

import errno
import os
import traceback
from dataclasses import dataclass
from pathlib import Path

import typer

from edgetok.cli.signals import Terminated
from edgetok.cli.versions import blame_package
from edgetok.errors import EdgetokError, IncompatibleError, ResourceError, UsageError

EXIT_CODES = {
    0: "done",
    1: "bug",
    2: "usage",
    3: "bundle invalid",
    4: "incompatible",
    5: "input rejected",
    6: "resources",
    7: "verification failed",
    130: "SIGINT",
    141: "the reader of a pipe left",
    143: "SIGTERM",
}

EXTRA_OF_MODULE = {
    "torch": "export",
    "transformers": "export",
    "onnxscript": "export",
    "onnx_ir": "export",
    "safetensors": "export",
    "optimum": "export",
    "requests": "export",
    "jinja2": "export",
    "onnxruntime": "cpu",
    "matplotlib": "plot",
}

# What the system refuses for want of room, rights or a working device; any other OSError is
# ours to foresee.
_RESOURCE_ERRNOS = {
    errno.EBADF,
    errno.EIO,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.ENOMEM,
    errno.EMFILE,
    errno.ENFILE,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
}


@dataclass(frozen=True, slots=True)
class Failure:
    """One failure as it is shown: `usage` is the line that shows the right call, if known."""

    exit_code: int
    code: str
    message: str
    usage: str = ""


def explain(error: BaseException) -> Failure:
    """What went wrong, in words for the user.

    A bug shows its type and place only: its message may quote a prompt.
    """
    match error:
        case EdgetokError():
            return Failure(error.exit_code, error.code, str(error))
        case typer.TyperException():
            return _explain_usage(error)
        case KeyboardInterrupt():
            return Failure(130, "interrupted", "interrupted")
        case Terminated():
            return Failure(143, "terminated", "terminated")
        case ModuleNotFoundError() if extra := EXTRA_OF_MODULE.get(_top_level(error)):
            return _explain_missing(_top_level(error), extra)
        case MemoryError():
            return Failure(
                ResourceError.exit_code,
                ResourceError.code,
                "out of memory; use fewer or smaller budgets, or int4 weights and an int8 cache",
            )
        case OSError() if error.errno in _RESOURCE_ERRNOS:
            return _explain_refusal(error)
        case FileNotFoundError() if _is_directory_gone():
            return Failure(
                ResourceError.exit_code,
                ResourceError.code,
                "the current directory was deleted; change to one that exists (cd)",
            )
        case _ if says := blame_package(error):
            return Failure(IncompatibleError.exit_code, IncompatibleError.code, says)
        case _:
            return Failure(1, "bug", _place_bug(error))


def _explain_usage(error: typer.TyperException) -> Failure:
    context = getattr(error, "ctx", None)
    usage = context.get_usage() if context else ""
    return Failure(UsageError.exit_code, UsageError.code, error.format_message(), usage)


def _top_level(error: ModuleNotFoundError) -> str:
    return (error.name or "").split(".")[0]


def _explain_missing(module: str, extra: str) -> Failure:
    message = f'this needs `{module}`, which is not installed: pip install "edgetok[{extra}]"'
    return Failure(IncompatibleError.exit_code, IncompatibleError.code, message)


def _explain_refusal(error: OSError) -> Failure:
    reason = os.strerror(error.errno or 0).lower()
    message = f"{error.filename}: {reason}" if error.filename else reason
    return Failure(ResourceError.exit_code, ResourceError.code, message)


def _is_directory_gone() -> bool:
    try:
        Path.cwd()
    except FileNotFoundError:
        return True
    return False


def _place_bug(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return (
        f"bug: {type(error).__name__}{where}; EDGETOK_DEBUG=1 shows the traceback, "
        f"please report it with the command"
    )
