"""Which edgetok this is."""

from __future__ import annotations

from edgetok.installed import version_of

VERSION = version_of("edgetok") or "0.0.0"  # the latter in a checkout that is not installed
