"""OpenKCM's metrics, served with Temporal's metrics at the worker's Prometheus endpoint. No tenant is ever a label.

Each series of a counter is exported with 0 from the start of the process. A series that appeared with its first
incident would begin above 0, and `increase()` would miss that incident. The meter belongs to the process: an activity's
meter adds labels (activity type, task queue) and would create other series.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

from temporalio.common import MetricMeter

from compliance.reconciliation.model import DiscrepancyKind
from core.certificates import ALARMING, ExpiringItem, ExpiryStage
from core.isolation import CheckResult, Outcome
from core.keys.rotation import StallReason
from core.messages.keys import WatchRootKeysInput
from core.notifications import Channel
from core.retention import DELETED

READY_SECONDS = "openkcm_provisioning_seconds"
READY_MEANING = "seconds from the accepted event to an active tenant"
ROOT_KEY_DELAY = "openkcm_root_key_check_delay_seconds"
ROOT_KEY_DELAY_MEANING = "seconds for which the oldest due root key check of a shard waits for a thread"
_PROMISE_BROKEN = "openkcm_provisioning_slo_breaches"
_BOUNDARY_CHECKS = "openkcm_isolation_checks"
_EXAMINATIONS_TROUBLED = "openkcm_isolation_assessments_failed"
_NOT_RENEWED = "openkcm_certificates_unrenewed"
_ROTATIONS_STUCK = "openkcm_rotations_stalled"
_AUDIT_DIFFERENCES = "openkcm_audit_discrepancies"
_UNDELIVERED = "openkcm_notifications_undelivered"

DeliveryStage = Literal["late", "expired"]
"""A notification is late after ten failed attempts, and expired when it is no longer attempted (a dead letter)."""
_WORKFLOWS_RECOVERED = "openkcm_workflows_recovered"
_RETENTION_FAILURES = "openkcm_retention_failures"
_ROWS_EXPIRED = "openkcm_retention_rows_deleted"
_RECORDS_ARCHIVED = "openkcm_audit_records_archived"

RetentionWork = Literal["rows", "archive"]


class CounterSpec(NamedTuple):
    """The meaning of a counter, and the labels of each of its series."""

    meaning: str
    series: Sequence[Mapping[str, str]] = ({},)


def _each(label: str, values: Iterable[str]) -> Sequence[Mapping[str, str]]:
    return tuple({label: str(value)} for value in values)


COUNTERS: Mapping[str, CounterSpec] = {
    _PROMISE_BROKEN: CounterSpec("tenants that were not ready within the provisioning SLO"),
    _BOUNDARY_CHECKS: CounterSpec("isolation checks by outcome", _each("outcome", get_args(Outcome))),
    _EXAMINATIONS_TROUBLED: CounterSpec(
        "tenants found with a breached or late isolation assessment", _each("why", ("breached", "late"))
    ),
    _NOT_RENEWED: CounterSpec(
        "certificates, tenant CAs, CRLs and the PKI root found late or lapsed",
        tuple({"kind": str(kind), "stage": str(stage)} for kind in ExpiringItem for stage in ALARMING),
    ),
    _ROTATIONS_STUCK: CounterSpec("tenants found with keys that are due and not rotated", _each("why", StallReason)),
    _AUDIT_DIFFERENCES: CounterSpec(
        "discrepancies between the key server's audit log and the audit streams", _each("kind", DiscrepancyKind)
    ),
    _UNDELIVERED: CounterSpec(
        "notifications that are late after ten failed attempts, or expired as dead letters",
        tuple({"channel": str(channel), "stage": stage} for channel in Channel for stage in get_args(DeliveryStage)),
    ),
    _WORKFLOWS_RECOVERED: CounterSpec(
        "lost workflows that were started again", _each("kind", ("tenant", "offboarding", "service"))
    ),
    _RETENTION_FAILURES: CounterSpec(
        "tenants whose expired rows were not deleted, or whose audit records were not archived",
        _each("work", get_args(RetentionWork)),
    ),
    _ROWS_EXPIRED: CounterSpec("rows deleted after their retention", _each("table", DELETED)),
    _RECORDS_ARCHIVED: CounterSpec("audit records deleted after a signed archive file was verified"),
}
"""Alert on any increase, except of deleted rows and archived records; of the isolation checks, on any increase of
`breached`. Prometheus adds `_total` to the names.

They are counters and not gauges: another worker may run the next check, and a gauge would keep the value of the worker
that ran the last one.
"""


class Metrics:
    """The metrics of the worker, on the meter of its process."""

    def __init__(self, meter: MetricMeter, watches: Iterable[WatchRootKeysInput] = ()) -> None:
        """Create every metric and export each series with 0: those of all counters, and the delay of each shard."""
        self._ready = meter.create_histogram_float(READY_SECONDS, READY_MEANING, "s")
        self._root_key_delay = meter.create_gauge_float(ROOT_KEY_DELAY, ROOT_KEY_DELAY_MEANING, "s")
        for watch in watches:
            self.record_root_key_delay(watch, 0.0)
        self._counters = {name: meter.create_counter(name, spec.meaning) for name, spec in COUNTERS.items()}
        for name, spec in COUNTERS.items():
            for labels in spec.series:
                self._counters[name].add(0, labels)

    def record_ready(self, seconds: float) -> None:
        """Record the time from the accepted event to the active tenant, in seconds."""
        self._ready.record(seconds)

    def record_root_key_delay(self, watch: WatchRootKeysInput, seconds: float) -> None:
        """Record for how long the oldest due check of a shard has waited; 0 when the shard ends in this worker."""
        self._root_key_delay.set(seconds, {"region": watch.region, "shard": f"{watch.shard}-of-{watch.shards}"})

    def count_broken_promise(self) -> None:
        """Count an attempt to record a breach of the provisioning SLO."""
        self._counters[_PROMISE_BROKEN].add(1)

    def count_boundary_checks(self, results: Iterable[CheckResult]) -> None:
        """Count isolation checks by outcome."""
        self._count(_BOUNDARY_CHECKS, "outcome", (result.outcome for result in results))

    def count_troubled_examinations(self, reasons: Iterable[str]) -> None:
        """Count, at each check, tenants with a breached or late isolation assessment."""
        self._count(_EXAMINATIONS_TROUBLED, "why", reasons)

    def count_not_renewed(self, found: Iterable[tuple[ExpiringItem, ExpiryStage]]) -> None:
        """Count, at each check, items that were not renewed."""
        for (kind, stage), number in Counter(found).items():
            self._counters[_NOT_RENEWED].add(number, {"kind": str(kind), "stage": str(stage)})

    def count_stuck_rotations(self, reasons: Iterable[StallReason]) -> None:
        """Count, at each check, rotations that did not complete."""
        self._count(_ROTATIONS_STUCK, "why", reasons)

    def count_audit_differences(self, kinds: Iterable[DiscrepancyKind]) -> None:
        """Count, at each reconciliation, the discrepancies between the key server's log and the audit streams."""
        self._count(_AUDIT_DIFFERENCES, "kind", kinds)

    def count_undelivered_notification(self, channel: Channel, stage: DeliveryStage) -> None:
        """Count a notification once when it is late, and once when it expires."""
        self._counters[_UNDELIVERED].add(1, {"channel": str(channel), "stage": stage})

    def count_recovered_workflows(self, kinds: Iterable[str]) -> None:
        """Count workflows that did not run although the rows require them."""
        self._count(_WORKFLOWS_RECOVERED, "kind", kinds)

    def count_retention_failure(self, work: RetentionWork) -> None:
        """Count a tenant that a run of the retention skipped after a failure; the next run tries it again."""
        self._counters[_RETENTION_FAILURES].add(1, {"work": work})

    def count_expired_rows(self, table: str, rows: int) -> None:
        """Count rows that were deleted after their retention."""
        self._counters[_ROWS_EXPIRED].add(rows, {"table": table})

    def count_archived_records(self, records: int) -> None:
        """Count audit records that were deleted after they were archived."""
        self._counters[_RECORDS_ARCHIVED].add(records)

    def _count(self, name: str, label: str, values: Iterable[str]) -> None:
        for value, number in Counter(values).items():
            self._counters[name].add(number, {label: str(value)})
