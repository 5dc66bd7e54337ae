"""Where edgetok keeps on a device what it found out there."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

CACHE_VARIABLE = "EDGETOK_CACHE_DIR"


def cache_directory() -> Path:
    """EDGETOK_CACHE_DIR, or the user's cache directory."""
    given = os.environ.get(CACHE_VARIABLE)
    return Path(given) if given else platformdirs.user_cache_path("edgetok")
