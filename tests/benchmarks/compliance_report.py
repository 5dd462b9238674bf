"""Duration of a compliance report for a busy tenant's year, and of its verification by an auditor."""

from datetime import UTC, datetime, timedelta
from functools import partial

from matplotlib.figure import Figure

from config.secrets import Role
from tests.benchmarks import report
from tests.benchmarks.audit_verify import append, timed
from tests.benchmarks.harness.service_fixture import connect
from tests.benchmarks.harness.stack import Stack
from tests.benchmarks.report import Check, Result

_TENANT = "busy-corp"
_SERVICES = 12
_LIMIT_SECONDS = 10
_TIMES = 3
_PATIENCE_SECONDS = 300
_PROTOCOL = (
    "A tenant with {services} connected services has {events} audit records with the kinds and proportions that its "
    "services produce. `openkcmctl report create` has its worker count a year of them, take the snapshot, render the "
    "PDF and the "
    "page, sign and store all files, {times} times each as PDF and as HTML: seconds from the start of the command to "
    "the file. Then `openkcm audit verify EXPORT --report REPORT` computes every figure of each file again from an "
    "export of the stream."
)


def run(*, quick: bool) -> tuple[Result, Figure]:
    events, services = (2_000, 1) if quick else (100_000, _SERVICES)
    seconds: dict[str, list[float]] = {}
    with Stack() as stack:
        stack.openkcm("enable", _TENANT, "--organization", "Busy Corp", "--region", "eu-west-1", "--wait")
        for number in range(services):
            connect(stack, _TENANT, "microservice", f"service-{number}")
        database = stack.database(Role.WORKER)
        append(database, _TENANT, events)
        database.close()
        pages = {
            form: [_create_report(stack, seconds, form, number) for number in range(_TIMES)] for form in ("pdf", "html")
        }
        key, export = stack.folder / "key.pem", stack.folder / "audit.jsonl"
        stack.openkcm("audit", "public-key", "--out", str(key))
        stack.openkcm("audit", "export", _TENANT, "--out", str(export), timeout=_PATIENCE_SECONDS)
        for form in pages:
            words = (str(export), "--report", str(stack.folder / f"{form}-0"), "--public-key", str(key))
            took, verdict = timed(partial(stack.openkcm, "audit", "verify", *words, timeout=_PATIENCE_SECONDS))
            assert verdict["intact"], verdict
            seconds.setdefault("verify", []).append(took)
    slowest = max(seconds["pdf"])
    result = Result(
        name="compliance_report",
        title=f"A report of a year of {events:,} audit records",
        quick=quick,
        protocol=_PROTOCOL.format(services=services, events=f"{events:,}", times=_TIMES),
        checks=[Check("the slowest PDF", round(slowest, 2), _LIMIT_SECONDS, "s")],
        summary={
            "seconds": {name: [round(one, 2) for one in took] for name, took in seconds.items()},
            "bytes": {form: made[0] for form, made in pages.items()},
        },
        samples={"seconds": seconds},
    )
    return result, _plot(seconds)


def _create_report(stack: Stack, seconds: dict[str, list[float]], form: str, number: int) -> int:
    today = datetime.now(UTC).date()
    words = ("--since", f"{today - timedelta(days=364)}", "--until", f"{today}", "--format", form)
    file = stack.folder / f"{form}-{number}"
    took, document = timed(
        lambda: stack.openkcm("report", "create", _TENANT, *words, "--out", str(file), timeout=_PATIENCE_SECONDS)
    )
    seconds.setdefault(form, []).append(took)
    return int(document["bytes"])


def _plot(seconds: dict[str, list[float]]) -> Figure:
    figure, axes = report.canvas()
    means = {name: sum(took) / len(took) for name, took in seconds.items()}
    bars = axes.barh(list(means), list(means.values()), color=[report.BLUE, report.GREEN, report.ORANGE])
    axes.bar_label(bars, fmt="%.1f s", padding=4)
    axes.axvline(_LIMIT_SECONDS, color=report.RED, ls="--", label=f"limit of the PDF, {_LIMIT_SECONDS} s")
    axes.set(title="a compliance report of a busy tenant's year", xlabel="seconds")
    axes.legend(loc="lower right")
    return figure
