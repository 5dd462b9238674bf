"""How long does it take to examine every tenant, and do services that ask meanwhile notice?"""

import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks import report
from benchmarks.clicks import Marketplace
from benchmarks.connected import connect, fronts
from benchmarks.report import Check, Result, percentile, spread
from benchmarks.scale import fill, tenant
from benchmarks.stack import Stack
from benchmarks.steady import Answered, asking

_SECONDS = 600.0
_SLOWER = 1.20
_RATE = 100.0
_CONNECTIONS = 2
_QUIET_SECONDS = 60.0
_COMMAND_SECONDS = 3600
_PROTOCOL = (
    "A stack is filled with {tenants} tenants, one of which has a service that asks {rate:g} times a second over kept "
    "connections to both fronts (benchmarks/steady.py, a process of its own, which where it may goes before all "
    "others: it stands for another machine). It asks for {quiet:g} s, then while `openkcmctl isolation check --all` "
    "examines every tenant, then for {quiet:g} s again: the quiet answers before and after are "
    "taken together, so that a machine that gets slower by itself is not taken for the examinations."
)


def run(*, quick: bool) -> tuple[Result, Figure]:
    # Another number than the promise speaks of is for a look, as `quick` is.
    tenants = int(os.environ.get("OPENKCM_BENCH_TENANTS", "0")) or (10 if quick else 1000)
    quiet = 5.0 if quick else _QUIET_SECONDS
    with Stack() as stack:
        marketplace = Marketplace(stack.settings)
        fill(stack, marketplace, range(1, tenants + 1))
        folder = connect(stack, tenant(1), "microservice", "bench")
        stack.openkcm("isolation", "check", tenant(1), timeout=_COMMAND_SECONDS)  # the probes are connected once
        before, during, after, took, document = _examine(stack, folder, quiet)
    calm = [one for one in (*before, *after) if one.outcome == "ok"]
    asked = [one for one in during if one.outcome == "ok"]
    ratio = _p99(asked) / _p99(calm)
    each = [check["seconds"] for check in document["checks"]]
    summary: dict[str, Any] = {
        "tenants": tenants,
        "seconds for all": round(took, 1),
        "attacks": len(each),
        "a tenant (s)": round(took / tenants, 3),
        "answers without (ms)": spread([1000 * (one.at - one.sent) for one in calm]),
        "answers with (ms)": spread([1000 * (one.at - one.sent) for one in asked]),
        "p99 without (ms)": round(_p99(calm), 2),
        "p99 with (ms)": round(_p99(asked), 2),
        "refused or closed": sum(one.outcome != "ok" for one in (*before, *during, *after)),
    }
    result = Result(
        name="boundaries",
        title=f"Examining {tenants:,} tenants",
        quick=quick,
        protocol=_PROTOCOL.format(tenants=tenants, rate=_RATE, quiet=quiet),
        checks=[
            Check(f"examining {tenants:,} tenants", round(took, 1), _SECONDS * tenants / 1000, "s"),
            Check("p99 of the crypto service with over without", round(ratio, 3), _SLOWER, "times"),
        ],
        summary=summary,
        samples={"with": _some(asked), "without": _some(calm)},
    )
    return result, _plot(calm, asked)


def _examine(
    stack: Stack, folder: Path, quiet: float
) -> tuple[list[Answered], list[Answered], list[Answered], float, dict[str, Any]]:
    """Return what was answered before, while and after all tenants were examined, how long that took, and its end."""
    with asking(fronts(stack, folder), _RATE, _CONNECTIONS, stack.folder / "answers") as seen:
        time.sleep(2.0)
        seen.new()  # whatever was asked first paid for what was not yet in memory
        time.sleep(quiet)
        before = seen.new()
        began = time.monotonic()
        document = stack.openkcm("isolation", "check", "--all", timeout=_COMMAND_SECONDS)
        took = time.monotonic() - began
        during = seen.new()
        time.sleep(quiet)
        return before, during, seen.new(), took, document


def _p99(answers: Sequence[Answered]) -> float:
    return percentile([1000 * (one.at - one.sent) for one in answers], 99)


def _some(answers: Sequence[Answered]) -> list[float]:
    """Return milliseconds, thinned out."""
    return [round(1000 * (one.at - one.sent), 3) for one in answers[:: max(1, len(answers) // 1000)]]


def _plot(calm: Sequence[Answered], asked: Sequence[Answered]) -> Figure:
    figure, axes = report.canvas()
    for answers, colour, label in ((calm, report.BLUE, "without"), (asked, report.ORANGE, "while all are examined")):
        milliseconds = sorted(1000 * (one.at - one.sent) for one in answers)
        shares = [(number + 1) / len(milliseconds) for number in range(len(milliseconds))]
        axes.plot(milliseconds, shares, color=colour, label=f"{label}, p99 {_p99(answers):.2f} ms")
    axes.axhline(0.99, color=report.GREY, lw=1, ls="--")
    axes.set(title="answers of the crypto service", xlabel="ms", ylabel="share answered within", xscale="log")
    axes.set_xlim(left=math.floor(10 * min(1000 * (one.at - one.sent) for one in calm)) / 10 or 0.05)
    axes.legend(loc="lower right")
    return figure
