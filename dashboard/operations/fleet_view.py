"""The health of the platform's components, from the reports of the running processes and from counts; pure.

A component is operational only if the present read measured it, or a process reported it within `REPORT_SECONDS`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from core.errors.platform import TemporalUnavailable
from core.tenants.locks import HEALTHY
from core.tenants.status import REPORT_SECONDS, ProcessKind, Status
from dashboard.components import formatting as words
from database.audit import HourCount
from database.platform.operators import AUTHORITY_DAYS, Backlog
from database.platform.processes import ProcessReport, watch_name

DELIVERY_SECONDS = 60.0
"""The age of a waiting notification from which its delivery is delayed."""
RECONCILED = timedelta(hours=26)
"""The greatest age of an audit reconciliation, which runs daily."""

DATABASE = "Database (PostgreSQL)"
TEMPORAL = "Temporal"
WORKERS = "Workers"
KEY_SERVER = "Key server (OpenBao or Vault)"
CRYPTO_SERVICE = "Crypto service"
SHIPPERS = "Audit shippers"
ROOT_KEYS = "Root key monitoring"
NOTIFICATIONS = "Notifications"
AUTHORITIES = "Certificate authorities"
RECONCILIATION = "Audit reconciliation"
_MEASURED = (TEMPORAL, WORKERS, KEY_SERVER, CRYPTO_SERVICE, SHIPPERS, ROOT_KEYS, NOTIFICATIONS, AUTHORITIES)
_ORDER = (Status.STOPPED, Status.DEGRADED, Status.UNKNOWN, Status.OPERATIONAL)
_NAMES = {
    ProcessKind.WORKER: "worker",
    ProcessKind.CRYPTO: "crypto service",
    ProcessKind.SHIPPER: "audit shipper",
}


@dataclass(frozen=True, slots=True)
class FleetFacts:
    """What was read at `now`: `regions` are those with a tenant, `shards` is the setting `root_key_shards`."""

    now: datetime
    reports: Sequence[ProcessReport]
    backlog: Backlog
    regions: Sequence[str]
    shards: int
    reconciliations: Sequence[HourCount] = ()
    """Recorded reconciliations of the platform, the oldest first."""


@dataclass(frozen=True, slots=True)
class Component:
    """A component with its status; `words` state it in a few words, `detail` what to do, as sentences or empty."""

    name: str
    status: Status
    words: str
    detail: str = ""


def components(facts: FleetFacts) -> tuple[Component, ...]:
    """Return the status of each component."""
    key_server = _key_server(facts)
    found = (
        Component(DATABASE, Status.OPERATIONAL, "Responds"),
        _temporal(facts),
        _workers(facts),
        key_server,
        _crypto_service(facts),
        _shippers(facts),
        _root_keys(facts, key_server),
        _notifications(facts),
        _authorities(facts),
    )
    return (*found, *_reconciliation(facts))


def unreadable() -> tuple[Component, ...]:
    """Return the status while the database does not respond: nothing else is known."""
    database = Component(
        DATABASE,
        Status.STOPPED,
        "Does not respond",
        "Check that PostgreSQL runs, responds and accepts the dashboard's login. The page recovers automatically.",
    )
    return (database, *(Component(name, Status.UNKNOWN, "Not measured") for name in _MEASURED))


def overall(found: Sequence[Component]) -> Status:
    """Return the worst status: stopped, degraded, unknown, operational."""
    return min((one.status for one in found), key=_ORDER.index)


def process_rows(reports: Sequence[ProcessReport]) -> list[dict[str, object]]:
    """Return a row for each process that reported in the last ten minutes."""
    return [
        {
            "Process": _NAMES[one.process].capitalize(),
            "Instance": one.instance,
            "Status": _process_status(one),
            "Last report, s ago": round(one.age, 1),
            "Key server": one.key_server or "",
            "Faults": ", ".join(one.faults),
            "Monitors root keys of": ", ".join(one.watches),
            "Started, UTC": one.started_at,
        }
        for one in reports
    ]


def _process_status(one: ProcessReport) -> str:
    if not _is_current(one):
        return "Silent"
    return "Fault" if one.faults or one.key_server not in {None, HEALTHY} else "Reports"


def _is_current(one: ProcessReport) -> bool:
    return one.age <= REPORT_SECONDS


def _split(facts: FleetFacts, kind: ProcessKind) -> tuple[list[ProcessReport], list[ProcessReport]]:
    """Return the current and the silent reports of a kind."""
    ours = [one for one in facts.reports if one.process is kind]
    return [one for one in ours if _is_current(one)], [one for one in ours if not _is_current(one)]


def _silence(silent: Sequence[ProcessReport]) -> str:
    if not silent:
        return ""
    return f"No report: {', '.join(f'{one.instance} for {words.span(one.age)}' for one in silent)}."


def _faults(reports: Sequence[ProcessReport]) -> str:
    found = [f"{one.instance}: {', '.join(one.faults)}" for one in reports if one.faults]
    return f"Faults: {'; '.join(found)}." if found else ""


def _sentences(*parts: str) -> str:
    return " ".join(filter(None, parts))


def _temporal(facts: FleetFacts) -> Component:
    current, _ = _split(facts, ProcessKind.WORKER)
    failing = [one for one in current if TemporalUnavailable.code in one.faults]
    if not current:
        return Component(TEMPORAL, Status.UNKNOWN, "Not measured", "No worker reports whether Temporal responds.")
    if not failing:
        return Component(TEMPORAL, Status.OPERATIONAL, "Responds")
    instances = ", ".join(one.instance for one in failing)
    if len(failing) == len(current):
        detail = "No worker reaches it. Changes wait; services continue. Check that Temporal runs, and its address."
        return Component(TEMPORAL, Status.STOPPED, "Does not respond", detail)
    words_ = f"Responds to {len(current) - len(failing)} of {len(current)} workers"
    return Component(TEMPORAL, Status.DEGRADED, words_, f"Not reached by {instances}.")


def _workers(facts: FleetFacts) -> Component:
    current, silent = _split(facts, ProcessKind.WORKER)
    if not current:
        detail = _sentences("Changes wait; services continue. Start a worker.", _silence(silent))
        return Component(WORKERS, Status.STOPPED, "None reports", detail)
    faulty = [one for one in current if set(one.faults) - {TemporalUnavailable.code}]
    if silent or faulty:
        number = f"{len(current)} of {len(current) + len(silent)} report"
        return Component(WORKERS, Status.DEGRADED, number, _sentences(_silence(silent), _faults(faulty)))
    return Component(WORKERS, Status.OPERATIONAL, words.count(len(current), "worker reports", "workers report"))


def _key_server(facts: FleetFacts) -> Component:
    measured = [one for one in facts.reports if one.key_server is not None and _is_current(one)]
    failing = [one for one in measured if one.key_server != HEALTHY]
    if not measured:
        return Component(KEY_SERVER, Status.UNKNOWN, "Not measured", "No process reports its key server.")
    if not failing:
        return Component(
            KEY_SERVER, Status.OPERATIONAL, f"Responds to {words.count(len(measured), 'process', 'processes')}"
        )
    seen = "; ".join(f"{_NAMES[one.process]} {one.instance}: {one.key_server}" for one in failing)
    if len(failing) == len(measured):
        detail = f"Cached keys serve for a minute at most. Check that it runs and is unsealed. Seen by {seen}."
        return Component(KEY_SERVER, Status.STOPPED, "Does not respond", detail)
    number = f"Responds to {len(measured) - len(failing)} of {len(measured)} processes"
    return Component(KEY_SERVER, Status.DEGRADED, number, f"Not by {seen}.")


def _crypto_service(facts: FleetFacts) -> Component:
    current, silent = _split(facts, ProcessKind.CRYPTO)
    ready = [one for one in current if not one.faults]
    detail = _sentences(_faults(current), _silence(silent))
    if not current and not silent:
        return Component(CRYPTO_SERVICE, Status.UNKNOWN, "No report", "No process of the crypto service is running.")
    if not ready:
        state = "Not ready" if current else "None reports"
        return Component(CRYPTO_SERVICE, Status.STOPPED, state, _sentences("No process is ready for requests.", detail))
    if detail:
        number = f"{len(ready)} of {len(current) + len(silent)} processes ready"
        return Component(CRYPTO_SERVICE, Status.DEGRADED, number, detail)
    number = words.count(len(ready), "process ready", "processes ready")
    return Component(CRYPTO_SERVICE, Status.OPERATIONAL, number)


def _shippers(facts: FleetFacts) -> Component:
    current, silent = _split(facts, ProcessKind.SHIPPER)
    serving, _ = _split(facts, ProcessKind.CRYPTO)
    missing = sorted({one.host for one in serving} - {one.host for one in current})
    if missing:
        detail = (
            f"No shipper reports on {', '.join(missing)}: audit records and counters of that host are not delivered."
        )
        status = Status.DEGRADED if current else Status.STOPPED
        return Component(SHIPPERS, status, f"Missing on {words.count(len(missing), 'host')}", detail)
    if not current:
        return Component(SHIPPERS, Status.UNKNOWN, "No report", "No shipper is running.")
    if detail := _sentences(_faults(current), _silence(silent)):
        return Component(SHIPPERS, Status.DEGRADED, f"{len(current)} of {len(current) + len(silent)} report", detail)
    return Component(SHIPPERS, Status.OPERATIONAL, words.count(len(current), "shipper reports", "shippers report"))


def _root_keys(facts: FleetFacts, key_server: Component) -> Component:
    wanted = [watch_name(region, n, facts.shards) for region in facts.regions for n in range(facts.shards)]
    current, _ = _split(facts, ProcessKind.WORKER)
    watched = {name for one in current for name in one.watches}
    missing = [name for name in wanted if name not in watched]
    if not wanted:
        return Component(ROOT_KEYS, Status.UNKNOWN, "No tenants")
    if missing:
        status = Status.STOPPED if len(missing) == len(wanted) else Status.DEGRADED
        parts = ", ".join(missing[:10]) + (f" and {len(missing) - 10} more" if len(missing) > 10 else "")
        number = f"{len(wanted) - len(missing)} of {words.count(len(wanted), 'part')} monitored"
        detail = f"No worker monitors {parts} (region/part/parts). Start a worker for the region."
        return Component(ROOT_KEYS, status, number, detail)
    if key_server.status in {Status.STOPPED, Status.UNKNOWN}:
        detail = "A check needs the key server, which decrypts the credentials."
        return Component(ROOT_KEYS, Status.UNKNOWN, "Not checked now", detail)
    return Component(ROOT_KEYS, Status.OPERATIONAL, "Active in each region")


def _notifications(facts: FleetFacts) -> Component:
    found = facts.backlog
    late = found.waiting_since is not None and (facts.now - found.waiting_since).total_seconds() > DELIVERY_SECONDS
    if not late and not found.dead:
        return Component(
            NOTIFICATIONS, Status.OPERATIONAL, f"{found.waiting:,} in delivery" if found.waiting else "All delivered"
        )
    parts = []
    if found.waiting_since is not None:
        age = words.span((facts.now - found.waiting_since).total_seconds())
        parts.append(f"{found.waiting:,} waiting, the oldest for {age}")
    if found.dead:
        parts.append(f"{found.dead:,} no longer attempted")
    detail = "Undelivered notifications below show the cause. `openkcmctl notification retry TENANT` sends them again."
    return Component(NOTIFICATIONS, Status.DEGRADED, ", ".join(parts), detail)


def _authorities(facts: FleetFacts) -> Component:
    found = facts.backlog
    if found.first_end is None:
        return Component(AUTHORITIES, Status.OPERATIONAL, f"None ends within {AUTHORITY_DAYS} days")
    detail = f"The first ends {words.moment(found.first_end, facts.now)}. A worker renews each of them months earlier."
    status = Status.STOPPED if found.first_end <= facts.now else Status.DEGRADED
    ending = f"{found.authorities:,} end{'s' if found.authorities == 1 else ''} within {AUTHORITY_DAYS} days"
    return Component(AUTHORITIES, status, ending, detail)


def _reconciliation(facts: FleetFacts) -> Iterator[Component]:
    if not facts.reconciliations:
        return
    newest = facts.reconciliations[-1]
    age = facts.now - newest.hour
    shown = words.relative(newest.hour, facts.now)
    if newest.outcome != "success":
        detail = "The audit log of the key server and the audit streams differ. Run `openkcmctl audit reconcile --all`."
        yield Component(RECONCILIATION, Status.DEGRADED, f"Differences {shown}", detail)
    elif age > RECONCILED:
        yield Component(RECONCILIATION, Status.UNKNOWN, f"Overdue, last {shown}", "It runs every day.")
    else:
        yield Component(RECONCILIATION, Status.OPERATIONAL, f"No differences {shown}")
