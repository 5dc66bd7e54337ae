"""`visual`: text rows stay, visual rows compete by attention that decays as in A2SF.

Ours, not a paper's: in a long conversation about one image most rows are visual and few of them
are asked for, while dropped words of a question cannot be made up for. Rows of text go, the oldest
first, only when no visual row is left to drop.
"""

from __future__ import annotations

from edgetok.kv.policies import a2sf
from edgetok.kv.policy import SCORE, TEXT, Policy

POLICY = Policy(
    name="visual",
    paper="edgetok",
    summary="visual rows compete by recent attention, text rows stay",
    differs="ours",
    row_state=(SCORE, TEXT),
    asks=a2sf.ask,
    decay=a2sf.ALPHA,
)
