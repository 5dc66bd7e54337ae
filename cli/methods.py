"""`edgetok methods`: the compressors that can be frozen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from edgetok.cli.options import Json
from edgetok.cli.output import emit, table

if TYPE_CHECKING:
    from edgetok.kv import Policy, Reading
    from edgetok.prefill import PrefillMethod


def methods_command(
    form: Annotated[
        Literal["table", "markdown"],
        typer.Option("--format", help="`markdown` has what each method reads and costs, too."),
    ] = "table",
    as_json: Json = False,
) -> None:
    """List what `export` takes for --method, --prefill and --kv-policy, and what each one needs."""
    from edgetok.kv import AT_PREFILL, POLICIES, READINGS
    from edgetok.kv.table import describe_policies
    from edgetok.methods import FRAME_METHODS, METHODS, TOWER_METHODS
    from edgetok.methods.table import describe_methods
    from edgetok.prefill import PREFILL_METHODS
    from edgetok.prefill.table import describe_prefill

    known = [*METHODS.values(), *TOWER_METHODS.values(), *FRAME_METHODS.values()]
    rows = [
        {
            "name": method.name,
            "paper": method.paper,
            "where": method.where,
            "verdict": method.verdict,
            "needs": list(method.needs),
            "cost_flops": method.cost,
            "summary": method.summary,
            "differs": method.differs,
        }
        for method in known
    ]
    shown = table("", "method", "paper", "where", "frozen form", "what it does")
    for method in known:
        shown.add_row(method.name, method.paper, method.where, method.verdict, method.summary)
    at_prefill = list(PREFILL_METHODS.values())
    late = table("At prefill, for --prefill", "method", "paper", "frozen form", "what it does")
    for other in at_prefill:
        name = f"{other.name}:{other.ratio:.2g}"
        late.add_row(name, other.paper, other.verdict, other.summary)
    policies: list[Policy | Reading] = [
        *POLICIES.values(),
        *READINGS.values(),
        *AT_PREFILL.values(),
    ]
    cache = table("When the cache is full, for --kv-policy", "policy", "paper", "what stays")
    for policy in policies:
        cache.add_row(policy.name, policy.paper, policy.summary)
    fields = {
        "methods": rows,
        "prefill": [_prefill_row(method) for method in at_prefill],
        "kv_policies": [_policy_row(policy) for policy in policies],
    }
    if form == "markdown":
        pages = (describe_methods(known), describe_prefill(at_prefill), describe_policies(policies))
        emit(fields, as_json, pages[0], "", pages[1], "", pages[2])
    else:
        emit(fields, as_json, shown, "", late, "", cache)


def _prefill_row(method: PrefillMethod) -> dict[str, object]:
    return {
        "name": method.name,
        "paper": method.paper,
        "verdict": method.verdict,
        "reads": list(method.reads),
        "positions": method.positions,
        "ratio": method.ratio,
        "ratio_is": method.ratio_is,
        "summary": method.summary,
        "differs": method.differs,
    }


def _policy_row(policy: Policy | Reading) -> dict[str, object]:
    return {
        "name": policy.name,
        "paper": policy.paper,
        "positions": policy.positions,
        "differs": policy.differs,
        "summary": policy.summary,
    }
