"""`python -m tests.benchmarks [--quick] [NAME...]`: run these benchmarks, or all; exit with 1 if a target is missed."""

import argparse
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime

from matplotlib.figure import Figure

from tests.benchmarks import (
    assessments,
    audit_verify,
    compliance_report,
    lock_under_load,
    notify_commits,
    report,
    rotation,
    start_up,
    tenants,
)
from tests.benchmarks import isolation as boundaries
from tests.benchmarks.crypto_api import audit_copy, crypto_https, crypto_kmip, neighbours, time_budget
from tests.benchmarks.dashboard import page_load as dashboard
from tests.benchmarks.field_encryption import mongodb as protected_mongodb
from tests.benchmarks.field_encryption import postgresql as protected_postgresql
from tests.benchmarks.fuzzing import fuzz
from tests.benchmarks.provisioning import burst, burst_floor, scale
from tests.benchmarks.provisioning import latency as provision_latency
from tests.benchmarks.report import Result
from tests.benchmarks.root_keys import change as root_key_change
from tests.benchmarks.root_keys import kill_switch, revocation, scaling
from tests.benchmarks.root_keys import monitor as watch

BENCHMARKS: dict[str, Callable[..., tuple[Result, Figure]]] = {
    "provision_latency": provision_latency.run,
    "burst": burst.run,
    "burst_floor": burst_floor.run,
    "scale": scale.run,
    "crypto_https": crypto_https.run,
    "crypto_kmip": crypto_kmip.run,
    "time_budget": time_budget.run,
    "audit_copy": audit_copy.run,
    "neighbours": neighbours.run,
    "dashboard": dashboard.run,
    "root_key_change": root_key_change.run,
    "fuzz": fuzz.run,
    "revocation": revocation.run,
    "kill_switch": kill_switch.run,
    "watch": watch.run,
    "root_key_scaling": scaling.run,
    "notify_commits": notify_commits.run,
    "rotation": rotation.run,
    "lock_under_load": lock_under_load.run,
    "protected_postgresql": protected_postgresql.run,
    "protected_mongodb": protected_mongodb.run,
    "audit_verify": audit_verify.run,
    "boundaries": boundaries.run,
    "assessments": assessments.run,
    "tenants": tenants.run,
    "start_up": start_up.run,
    "compliance_report": compliance_report.run,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHMARKS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="run with few tenants; the figures prove nothing")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - BENCHMARKS.keys()
    if unknown:
        parser.error(f"unknown benchmark: {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, lambda signum, _frame: sys.exit(128 + signum))  # ends the stack of the benchmark too
    passed = [_run(name, quick=arguments.quick) for name in arguments.names or BENCHMARKS]
    if not arguments.quick:
        report.PAGE.write_text(report.render_page(), encoding="utf-8")
    return 0 if all(passed) else 1


def _run(name: str, *, quick: bool) -> bool:
    began = datetime.now(UTC)
    print(f"\n{name}{' (quick: proves nothing)' if quick else ''}", flush=True)
    result, figure = BENCHMARKS[name](quick=quick)
    path = report.save(result, figure, began)
    for check in result.checks:
        verdict = "met" if check.passed else "MISSED"
        print(f"  {verdict}: {check.promise}: {check.measured:g} {check.unit}, limit {check.limit:g}", flush=True)
    print(f"  written: {path}", flush=True)
    return result.passed


if __name__ == "__main__":
    sys.exit(main())
