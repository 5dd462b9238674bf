"""The cost of `crypto_audit_copy`: KMIP Get with and without a second copy of its audit record."""

from typing import Any

from matplotlib.figure import Figure

from tests.benchmarks import report
from tests.benchmarks.crypto_api.crypto_kmip import kmip_target
from tests.benchmarks.harness.closed_loop import kept, median_rounds
from tests.benchmarks.harness.service_fixture import connected_stack
from tests.benchmarks.report import Check, Result

_ROUNDS = 5
_SECONDS = 4.0
_CONNECTIONS = (1, 16)
_MOST_MILLISECONDS = 10.0
_PROTOCOL = (
    "Two stacks on one machine, one with crypto_audit_copy, each with an active AES-256 key. Each receives Gets "
    "over one connection and over 16. The two take turns, {rounds} rounds of {seconds:g} s; the median round counts. "
    "With the setting, the audit record is committed in PostgreSQL before each response, with its default durability; "
    "records of one tenant that wait for the same transaction share it."
)


def run(*, quick: bool) -> tuple[Result, Figure]:
    rounds, seconds = (1, 1.0) if quick else (_ROUNDS, _SECONDS)
    summary: dict[str, Any] = {}
    checks = []
    with (
        connected_stack("bench-corp-1", "mongodb") as (usual, folder),
        connected_stack("bench-corp-1", "mongodb", crypto_audit_copy="true") as (copying, other),
    ):
        sides = {"without": kmip_target(usual, folder), "with": kmip_target(copying, other)}
        for connections in _CONNECTIONS:
            found = median_rounds(kept(connections), sides, rounds, seconds)
            loads = {side: load.summary() for side, load in found.items()}
            summary |= {f"{side} a copy, connections: {connections}": load for side, load in loads.items()}
            if connections == 1:
                added = round(loads["with"]["p50"] - loads["without"]["p50"], 2)
                checks.append(Check("a copy adds, p50, one connection", added, _MOST_MILLISECONDS, "ms"))
    result = Result(
        name="audit_copy",
        title="KMIP Get with a second copy of its audit record",
        quick=quick,
        protocol=_PROTOCOL.format(rounds=rounds, seconds=seconds),
        checks=checks,
        summary=summary,
        samples={},
    )
    return result, _plot(summary)


def _plot(summary: dict[str, Any]) -> Figure:
    figure, axes = report.canvas()
    names = list(summary)
    axes.barh(names, [summary[name]["p50"] for name in names])
    axes.set_xlabel("p50 of a Get, milliseconds")
    return figure
