"""The scheme of TidalDecode: a plain cache, of which layers after one that chooses read a part."""

from __future__ import annotations

from dataclasses import dataclass

from edgetok.bundle.manifest import Flavour
from edgetok.export.attention import StageModule
from edgetok.export.caches.plain.scheme import PlainCache
from edgetok.export.caches.scheme import Decoding
from edgetok.export.caches.tidaldecode.graphs import TidalDecode
from edgetok.export.caches.tidaldecode.parity import check_reads
from edgetok.export.caches.tidaldecode.reference import TidalReference
from edgetok.export.parity.ledger import Ledger
from edgetok.export.parity.prompt import Prompt
from edgetok.export.parity.sessions import GraphRunner
from edgetok.export.reference.model import Reference
from edgetok.families.parts import Parts
from edgetok.kv import Reads
from edgetok.methods import Method


@dataclass(frozen=True)
class TidalCache(PlainCache):
    """Rows of an answer were made by looking at a part: another prompt does not begin with them."""

    reads: Reads | None = None

    rewinds = False

    @property
    def policy(self) -> str:  # type: ignore[override]
        return self._reads.reading.name

    def decode(self, decoding: Decoding) -> StageModule:
        return TidalDecode(self.context(decoding), self._reads)

    def reference(self, parts: Parts, method: Method) -> Reference:
        return Reference(parts, method, TidalReference(parts.text, self._reads, self.longest))

    def held(self, reference: Reference, flavour: Flavour) -> Reference:
        return reference  # its rows are rounded by themselves

    def check(self, ledger: Ledger, held: Reference, sessions: GraphRunner, prompt: Prompt) -> bool:
        """Chunks too: they read all rows, so that steps cannot stand in for them."""
        if not isinstance(held.cache, TidalReference):
            raise TypeError(f"{type(held.cache).__name__} reads no part of its rows")
        check_reads(ledger, held.cache, sessions, prompt, self.stored(sessions))
        return True

    @property
    def _reads(self) -> Reads:
        if self.reads is None:
            raise TypeError("a TidalCache without reads")
        return self.reads
