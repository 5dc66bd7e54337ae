"""Which edgetok this is."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("edgetok")
except PackageNotFoundError:  # run from a checkout that is not installed
    VERSION = "0.0.0"
