"""The error tree. Every error a user can cause derives from `EdgetokError`.

A message says what is wrong, the value, the limit and the way out, in one or two sentences.
The command line prints it and exits with `exit_code`; anything else that escapes is a bug
(exit code 1).
"""

from __future__ import annotations


class EdgetokError(Exception):
    """Base of all errors that edgetok raises on purpose."""

    exit_code = 1
    code = "error"


class UsageError(EdgetokError, ValueError):
    """An option or argument has a value that cannot be used."""

    exit_code = 2
    code = "usage"


class BundleError(EdgetokError):
    """A bundle is incomplete, malformed, damaged or was changed after it was published."""

    exit_code = 3
    code = "bundle"


class IncompatibleError(EdgetokError):
    """The bundle, a provider or a library does not fit this device or this version."""

    exit_code = 4
    code = "incompatible"


class InputError(EdgetokError, ValueError):
    """An image, prompt, sample file or model directory was rejected."""

    exit_code = 5
    code = "input"


class ResourceError(EdgetokError):
    """Disk, memory or a lock could not be had."""

    exit_code = 6
    code = "resources"


class VerificationError(EdgetokError):
    """A graph does not agree with its reference closely enough."""

    exit_code = 7
    code = "verification"
