"""Duration of the isolation assessment of all tenants, and its effect on services that send requests meanwhile."""

import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from tests.benchmarks import report
from tests.benchmarks.harness.marketplace_client import Marketplace
from tests.benchmarks.harness.open_loop import Answered, asking
from tests.benchmarks.harness.service_fixture import connect, listeners
from tests.benchmarks.harness.stack import Stack
from tests.benchmarks.provisioning.scale import fill, tenant
from tests.benchmarks.report import Check, Result, percentile, spread

_SECONDS = 600.0
_SLOWER = 1.20
_RATE = 100.0
_CONNECTIONS = 2
_QUIET_SECONDS = 60.0
_COMMAND_SECONDS = 3600
_PROTOCOL = (
    "A stack is filled with {tenants} tenants, one of which has a service that sends {rate:g} requests per second over "
    "kept connections to both listeners (tests/benchmarks/harness/open_loop.py, a separate process with "
    "real-time priority where "
    "permitted, which represents another machine). It sends requests for {quiet:g} s, then while `openkcmctl "
    "isolation check --all` assesses every tenant, then for {quiet:g} s again. The quiet periods before and after are "
    "combined, so that a machine that becomes slower is not mistaken for an effect of the assessments."
)


def run(*, quick: bool) -> tuple[Result, Figure]:
    # Another number of tenants than in the target is for a trial only, as `quick` is.
    tenants = int(os.environ.get("OPENKCM_BENCH_TENANTS", "0")) or (10 if quick else 1000)
    quiet = 5.0 if quick else _QUIET_SECONDS
    with Stack() as stack:
        marketplace = Marketplace(stack.settings)
        fill(stack, marketplace, range(1, tenants + 1))
        folder = connect(stack, tenant(1), "microservice", "bench")
        stack.openkcm("isolation", "check", tenant(1), timeout=_COMMAND_SECONDS)  # connects the probe services once
        before, during, after, took, document = _assess(stack, folder, quiet)
    calm = [one for one in (*before, *after) if one.outcome == "ok"]
    asked = [one for one in during if one.outcome == "ok"]
    ratio = _p99(asked) / _p99(calm)
    each = [check["seconds"] for check in document["checks"]]
    summary: dict[str, Any] = {
        "tenants": tenants,
        "seconds for all": round(took, 1),
        "attacks": len(each),
        "per tenant (s)": round(took / tenants, 3),
        "responses without (ms)": spread([1000 * (one.at - one.sent) for one in calm]),
        "responses with (ms)": spread([1000 * (one.at - one.sent) for one in asked]),
        "p99 without (ms)": round(_p99(calm), 2),
        "p99 with (ms)": round(_p99(asked), 2),
        "rejected or closed": sum(one.outcome != "ok" for one in (*before, *during, *after)),
    }
    result = Result(
        name="boundaries",
        title=f"Assessment of {tenants:,} tenants",
        quick=quick,
        protocol=_PROTOCOL.format(tenants=tenants, rate=_RATE, quiet=quiet),
        checks=[
            Check(f"assessment of {tenants:,} tenants", round(took, 1), _SECONDS * tenants / 1000, "s"),
            Check("p99 of the crypto service with over without", round(ratio, 3), _SLOWER, "times"),
        ],
        summary=summary,
        samples={"with": _some(asked), "without": _some(calm)},
    )
    return result, _plot(calm, asked)


def _assess(
    stack: Stack, folder: Path, quiet: float
) -> tuple[list[Answered], list[Answered], list[Answered], float, dict[str, Any]]:
    """Return the responses before, during and after the assessment of all tenants, its duration, and its result."""
    with asking(listeners(stack, folder), _RATE, _CONNECTIONS, stack.folder / "answers") as seen:
        time.sleep(2.0)
        seen.new()  # the first requests include the loading of caches
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
    """Return the latencies in milliseconds, thinned out."""
    return [round(1000 * (one.at - one.sent), 3) for one in answers[:: max(1, len(answers) // 1000)]]


def _plot(calm: Sequence[Answered], asked: Sequence[Answered]) -> Figure:
    figure, axes = report.canvas()
    for answers, colour, label in ((calm, report.BLUE, "without"), (asked, report.ORANGE, "during the assessment")):
        milliseconds = sorted(1000 * (one.at - one.sent) for one in answers)
        shares = [(number + 1) / len(milliseconds) for number in range(len(milliseconds))]
        axes.plot(milliseconds, shares, color=colour, label=f"{label}, p99 {_p99(answers):.2f} ms")
    axes.axhline(0.99, color=report.GREY, lw=1, ls="--")
    axes.set(title="responses of the crypto service", xlabel="ms", ylabel="share of responses", xscale="log")
    axes.set_xlim(left=math.floor(10 * min(1000 * (one.at - one.sent) for one in calm)) / 10 or 0.05)
    axes.legend(loc="lower right")
    return figure
