"""Provisioning time of one tenant, beside the minimum for the same calls and the same workflow."""

import statistics
import time

from matplotlib.figure import Figure

from tests.benchmarks import report
from tests.benchmarks.harness.marketplace_client import Marketplace
from tests.benchmarks.harness.processes import read_cpu
from tests.benchmarks.harness.stack import Stack
from tests.benchmarks.harness.work_counters import Counters, Work
from tests.benchmarks.provisioning.baseline import BareScript, record
from tests.benchmarks.provisioning.baseline_postgres import Recording
from tests.benchmarks.provisioning.empty_workflow import EmptyRun, EmptyWorkflow
from tests.benchmarks.report import Check, Result, percentile, spread

_LIMIT_RATIO = 1.15
_LIMIT_P99_SECONDS = 1.0
_WARM_UPS = 5
_COUNTED = 10
_PAUSE_SECONDS = 0.5
_PATIENCE_SECONDS = 60
_PROTOCOL = (
    "After {warm} unmeasured rounds, {rounds} rounds of three new tenants each, one after another with half a second "
    "between: (a) a signed event is posted to the marketplace API and `ready_seconds` is read from its status; (b) a "
    "script sends the same requests to OpenBao and the same messages to PostgreSQL for another tenant, on keep-alive "
    "connections, one after another, without the product's code (the messages come from PostgreSQL's log of one real "
    "tenant and are sent through libpq); (c) the product's workflows run with empty activities in a separate worker "
    "process. The floor is the median of (b) plus the median of (c), where (c) ends like the product's figure with the "
    "step `activate`. Then {counted} more tenants each are provisioned by (a) and by (b) while OpenBao's audit log and "
    "PostgreSQL's log and statistics count the work; if the script makes more of any request, statement or transaction "
    "than the product, the benchmark fails."
)


def run(*, quick: bool) -> tuple[Result, Figure]:
    rounds = 5 if quick else 30
    counted = 2 if quick else _COUNTED
    with Stack() as stack, EmptyWorkflow(stack.settings) as empty:
        marketplace = Marketplace(stack.settings)
        recording = record(stack, marketplace)
        script = BareScript(stack.settings, recording)
        for number in range(_WARM_UPS):
            _round(marketplace, script, empty, f"warm-{number:03}")
        before = read_cpu(stack.pids())
        measured = []
        for number in range(rounds):
            measured.append(_round(marketplace, script, empty, f"round-{number:03}"))
            print(
                "  {}: {:.0f} ms, script {:.0f} ms, workflow {:.0f} ms".format(number + 1, *_times(measured[-1])),
                flush=True,
            )
        others = before.until(read_cpu(stack.pids())).others
        script.close()
        works = _count(stack, marketplace, recording, counted)
    product, scripted = [p for p, _, _ in measured], [s for _, s, _ in measured]
    runs = [e for _, _, e in measured]
    active = [e.active for e in runs]
    floor = statistics.median(scripted) + statistics.median(active)
    ratio = statistics.median(product) / floor
    summary = {
        "product (s)": spread(product),
        "bare script (s)": spread(scripted),
        "empty workflow until activate (s)": spread(active),
        "empty workflow until its end (s)": spread([e.done for e in runs]),
        "floor (s)": round(floor, 4),
        "p50 over floor": round(ratio, 3),
        "OpenBao requests per tenant": {name: round(sum(work.requests.values()), 1) for name, work in works.items()},
        "SQL statements per tenant": {name: round(sum(work.statements.values()), 1) for name, work in works.items()},
        "PostgreSQL transactions per tenant": {name: work.transactions for name, work in works.items()},
        "PostgreSQL rows written per tenant": {name: work.rows_written for name, work in works.items()},
        "share of the CPU used by other programs": others,
    }
    result = Result(
        name="provision_latency",
        title="One click to a ready tenant",
        quick=quick,
        protocol=_PROTOCOL.format(warm=_WARM_UPS, rounds=rounds, counted=counted),
        checks=[
            Check("p50 over the floor", round(ratio, 3), _LIMIT_RATIO, "times"),
            Check("p99", round(percentile(product, 99), 4), _LIMIT_P99_SECONDS, "s"),
        ],
        summary=summary,
        samples={
            "product_seconds": product,
            "script_seconds": [round(s, 5) for s in scripted],
            "empty_workflow_active_seconds": [round(e.active, 5) for e in runs],
            "empty_workflow_done_seconds": [round(e.done, 5) for e in runs],
            "requests": {name: work.requests for name, work in works.items()},
            "statements": {name: work.statements for name, work in works.items()},
        },
    )
    return result, _plot(product, scripted, active)


def _round(
    marketplace: Marketplace, script: BareScript, empty: EmptyWorkflow, name: str
) -> tuple[float, float, EmptyRun]:
    marketplace.enable(f"{name}-a")
    product = marketplace.ready_seconds(f"{name}-a", _PATIENCE_SECONDS)
    time.sleep(_PAUSE_SECONDS)
    scripted = script.provision(f"{name}-b")
    time.sleep(_PAUSE_SECONDS)
    nothing = empty.measure(f"{name}-c")
    time.sleep(_PAUSE_SECONDS)
    return product, scripted, nothing


def _times(measured: tuple[float, float, EmptyRun]) -> tuple[float, float, float]:
    product, scripted, nothing = measured
    return 1000 * product, 1000 * scripted, 1000 * nothing.active


def _count(stack: Stack, marketplace: Marketplace, recording: Recording, number: int) -> dict[str, Work]:
    """Return the work for one tenant by the product and by the script.

    Raises:
        AssertionError: the script does more of some kind than the product, so it is not a minimum.
    """
    print("  counting requests and statements", flush=True)

    def click(tenant_id: str) -> None:
        marketplace.enable(tenant_id)
        time.sleep(1)

    with Counters(stack).counting() as count:
        product = count([f"count-{n:03}-a" for n in range(number)], click)
        script = BareScript(stack.settings, recording)
        scripted = count([f"count-{n:03}-b" for n in range(number)], script.provision)
        script.close()
    more = scripted.exceeding(product)
    assert not more, f"the script sends more requests than the product: {more}"
    return {"product": product, "script": scripted}


def _plot(product: list[float], scripted: list[float], active: list[float]) -> Figure:
    figure, axes = report.canvas()
    floor = 1000 * (statistics.median(scripted) + statistics.median(active))
    rounds = range(1, len(product) + 1)
    axes.bar(rounds, [1000 * e for e in active], color=report.GREY, alpha=0.6, label="floor: the workflow, empty")
    below = [1000 * e for e in active]
    axes.bar(
        rounds,
        [1000 * s for s in scripted],
        bottom=below,
        color=report.ORANGE,
        alpha=0.7,
        label="floor: the calls, bare",
    )
    middle = 1000 * statistics.median(product)
    axes.plot(rounds, [1000 * p for p in product], "o", color=report.BLUE, label="product: event to active")
    axes.axhline(middle, color=report.BLUE, lw=1.5, label=f"product, p50 {middle:.0f} ms")
    axes.axhline(
        _LIMIT_RATIO * floor, color=report.RED, ls="--", label=f"limit for the p50: {_LIMIT_RATIO} times {floor:.0f} ms"
    )
    axes.set(title="One click to a ready tenant", xlabel="round (three fresh tenants each)", ylabel="milliseconds")
    axes.set_ylim(0, 1.35 * max(1000 * max(product), _LIMIT_RATIO * floor))
    axes.legend(loc="upper center", ncols=2, fontsize=9)
    return figure
