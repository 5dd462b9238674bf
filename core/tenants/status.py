"""The operating status of a tenant, from measured facts: one verdict for pages, notices and commands.

Nothing counts as operational without a measurement that is at most as old as stated here. A missing or older one is
`unknown`, which is no fault and no confirmation. Any rejected request of the last minutes prevents `operational`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType

from core.isolation import LATE
from core.tenants.lifecycle import DECRYPTS, State
from core.tenants.locks import HEALTHY, OUT_OF_REACH, LockReason

REQUEST_WINDOW = timedelta(minutes=5)
"""The whole minutes before the current one whose requests count, together with the current one."""
REPORT_SECONDS = 6.0
"""The greatest age of a process's report, which is replaced every second.

A page refreshes every two seconds, so the silence of a killed process is on each page within ten seconds, also on a
busy machine.
"""
CHECK_AGE = timedelta(days=1) + LATE
"""The greatest age of isolation checks: they run daily, and an alert follows when they are later."""


class Status(StrEnum):
    OPERATIONAL = "operational"
    DEGRADED = "degraded"
    """Requests are answered, and something needs attention."""
    STOPPED = "stopped"
    """Requests are rejected or get no response."""
    UNKNOWN = "unknown"
    """Not measured, or too long ago."""


class Subject(StrEnum):
    TENANT = "tenant"
    REQUESTS = "requests"
    CRYPTO_SERVICE = "crypto-service"
    KEY_SERVER = "key-server"
    ROOT_KEY = "root-key"
    CERTIFICATES = "certificates"
    ISOLATION = "isolation"
    CHANGES = "changes"
    """Whether workers carry out what users request; services do not depend on it."""
    COVERAGE = "coverage"
    APPROVALS = "approvals"


OPERATION = (
    Subject.TENANT,
    Subject.REQUESTS,
    Subject.CRYPTO_SERVICE,
    Subject.KEY_SERVER,
    Subject.ROOT_KEY,
    Subject.CERTIFICATES,
    Subject.ISOLATION,
    Subject.CHANGES,
)
"""The subjects that decide the overall status. Coverage and approvals do not change what is answered now."""


class ProcessKind(StrEnum):
    """Processes that report what they measure.

    A shipper delivers audit records and counters of the crypto processes of its host.
    """

    WORKER = "worker"
    CRYPTO = "crypto"
    SHIPPER = "shipper"


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """The newest report of a process; `age` in seconds, `key_server` is `ok`, the code of a failure, or None."""

    kind: ProcessKind
    host: str
    age: float
    key_server: str | None = None
    faults: tuple[str, ...] = ()
    watches: tuple[str, ...] = ()

    @property
    def is_current(self) -> bool:
        return self.age <= REPORT_SECONDS


@dataclass(frozen=True, slots=True)
class RootKeyFacts:
    """The customer's root key: its recorded health, and the name of the part of the monitoring that checks it."""

    health: str
    watch: str


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """Client certificates of connected services: those that are late or expired, by service."""

    connected: int
    expired: tuple[str, ...] = ()
    late: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class IsolationFacts:
    """The newest isolation checks; `passed` only if checks were completed and none failed."""

    checked_at: datetime
    passed: bool


@dataclass(frozen=True, slots=True)
class CoverageFacts:
    """Encryption coverage, as the assessment decides it; `unlisted` services have no listed fields and no known gap."""

    protected: int
    services: int
    is_complete: bool
    unlisted: int = 0


@dataclass(frozen=True, slots=True)
class Facts:
    """What was measured of a tenant at a time; None is not measured.

    `refused` is the number of rejected requests of the window and `answered` that of the others; `causes` are the error
    codes of the rejected ones, the most frequent first.
    """

    measured_at: datetime
    state: State
    locks: frozenset[LockReason] = frozenset()
    processes: Sequence[ProcessFacts] | None = None
    answered: int | None = None
    refused: int = 0
    causes: tuple[str, ...] = ()
    root_key: RootKeyFacts | None = None
    """None if the platform holds the root key, in the key server."""
    certificates: CertificateFacts | None = None
    isolation: IsolationFacts | None = None
    coverage: CoverageFacts | None = None
    approvals: int | None = None


@dataclass(frozen=True, slots=True)
class SubjectStatus:
    """The status of one subject. `words` state it in a few words, `detail` what it means, as a sentence or empty.

    `causes` are error codes of rejected requests.
    """

    subject: Subject
    status: Status
    words: str
    detail: str = ""
    causes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """The status of every subject, in the order of `Subject`, and of all together."""

    overall: Status
    at: datetime
    subjects: tuple[SubjectStatus, ...]

    def of(self, subject: Subject) -> SubjectStatus:
        """Return the status of a subject."""
        return next(one for one in self.subjects if one.subject is subject)


_STATES: Mapping[State, tuple[Status, str, str]] = MappingProxyType(
    {
        State.REQUESTED: (Status.UNKNOWN, "Provisioning", "No request is answered before the tenant is active."),
        State.PROVISIONING: (Status.UNKNOWN, "Provisioning", "No request is answered before the tenant is active."),
        State.FAILED: (Status.STOPPED, "Provisioning failed", "No service can connect."),
        State.ACTIVE: (Status.OPERATIONAL, "Active", ""),
        State.SUSPENDED: (Status.DEGRADED, "Suspended", "Services can decrypt. New data cannot be encrypted."),
        State.LOCKED: (Status.STOPPED, "Locked", "All requests for keys are rejected."),
        State.LEAVING: (Status.STOPPED, "Offboarding", "All requests for keys are rejected."),
        State.OFFBOARDED: (Status.STOPPED, "Offboarded", "The keys are destroyed."),
    }
)


def verdict(facts: Facts) -> Verdict:
    """Return the verdict from facts. Pure: the same facts give the same verdict."""
    subjects = (
        _tenant(facts),
        _requests(facts),
        _crypto_service(facts),
        _key_server(facts),
        _root_key(facts),
        _certificates(facts),
        _isolation(facts),
        _changes(facts),
        _coverage(facts),
        _approvals(facts),
    )
    return Verdict(_overall(facts, {one.subject: one.status for one in subjects}), facts.measured_at, subjects)


def _overall(facts: Facts, found: Mapping[Subject, Status]) -> Status:
    stopping = [found[one] for one in (Subject.TENANT, Subject.REQUESTS, Subject.CRYPTO_SERVICE, Subject.ISOLATION)]
    # Without the key server or the root key, cached keys answer requests for a minute at most.
    if not facts.answered or facts.refused:
        stopping += [found[Subject.KEY_SERVER], found[Subject.ROOT_KEY]]
    if Status.STOPPED in stopping:
        return Status.STOPPED
    statuses = {found[one] for one in OPERATION}
    if statuses & {Status.STOPPED, Status.DEGRADED}:
        return Status.DEGRADED
    return Status.UNKNOWN if Status.UNKNOWN in statuses else Status.OPERATIONAL


def _tenant(facts: Facts) -> SubjectStatus:
    status, words, detail = _STATES[facts.state]
    return SubjectStatus(Subject.TENANT, status, words, detail)


def _current(facts: Facts, kind: ProcessKind) -> list[ProcessFacts]:
    return [one for one in facts.processes or () if one.kind is kind and one.is_current]


def _silent(facts: Facts, kind: ProcessKind) -> int:
    return sum(one.kind is kind and not one.is_current for one in facts.processes or ())


def _requests(facts: Facts) -> SubjectStatus:
    minutes = int(REQUEST_WINDOW.total_seconds() / 60)
    serving = {one.host for one in _current(facts, ProcessKind.CRYPTO)}
    shipping = {one.host for one in _current(facts, ProcessKind.SHIPPER)}
    if facts.refused:
        if not facts.answered:
            words = f"All {facts.refused:,} rejected in {minutes} min"
            return SubjectStatus(Subject.REQUESTS, Status.STOPPED, words, causes=facts.causes)
        words = f"{facts.refused:,} of {facts.answered + facts.refused:,} rejected in {minutes} min"
        return SubjectStatus(Subject.REQUESTS, Status.DEGRADED, words, causes=facts.causes)
    if facts.answered is None or not serving or serving - shipping:
        return SubjectStatus(
            Subject.REQUESTS, Status.UNKNOWN, "Not measured", "The counters of the last minutes are incomplete."
        )
    if not facts.answered:
        return SubjectStatus(Subject.REQUESTS, Status.OPERATIONAL, f"No requests in {minutes} min")
    return SubjectStatus(Subject.REQUESTS, Status.OPERATIONAL, f"{facts.answered:,} answered in {minutes} min")


def _crypto_service(facts: Facts) -> SubjectStatus:
    current, silent = _current(facts, ProcessKind.CRYPTO), _silent(facts, ProcessKind.CRYPTO)
    faulty = sum(bool(one.faults) for one in current)
    if not current:
        return SubjectStatus(
            Subject.CRYPTO_SERVICE, Status.UNKNOWN, "No report", "No process of the crypto service reports its health."
        )
    total = len(current) + silent
    if faulty == len(current):
        return SubjectStatus(Subject.CRYPTO_SERVICE, Status.STOPPED, "Not ready", "No process accepts requests.")
    if faulty or silent:
        words = f"{len(current) - faulty} of {total} processes ready"
        return SubjectStatus(Subject.CRYPTO_SERVICE, Status.DEGRADED, words, "The others take over the requests.")
    return SubjectStatus(Subject.CRYPTO_SERVICE, Status.OPERATIONAL, "Ready")


def _key_server(facts: Facts) -> SubjectStatus:
    states = [
        one.key_server
        for kind in (ProcessKind.CRYPTO, ProcessKind.WORKER)
        for one in _current(facts, kind)
        if one.key_server
    ]
    failing = [state for state in states if state != HEALTHY]
    if not states:
        return SubjectStatus(Subject.KEY_SERVER, Status.UNKNOWN, "Not measured", "No process reports its key server.")
    if len(failing) == len(states):
        return SubjectStatus(
            Subject.KEY_SERVER,
            Status.STOPPED,
            "Does not respond",
            "Services use keys in memory for a minute at most. No other key can be unwrapped.",
        )
    if failing:
        return SubjectStatus(
            Subject.KEY_SERVER, Status.DEGRADED, "Responds to some processes", "Some requests may be rejected."
        )
    return SubjectStatus(Subject.KEY_SERVER, Status.OPERATIONAL, "Responds")


def _root_key(facts: Facts) -> SubjectStatus:
    held = facts.root_key
    if held is None:
        server = _key_server(facts)
        words = {Status.OPERATIONAL: "Platform key", Status.UNKNOWN: "Not measured"}.get(server.status, server.words)
        return SubjectStatus(Subject.ROOT_KEY, server.status, words, server.detail)
    if held.health != HEALTHY:
        # A health that is not monitored now is still the last word: a key that failed is not assumed to work again.
        out = held.health in OUT_OF_REACH and LockReason.ROOT_KEY not in facts.locks
        status = Status.DEGRADED if out and facts.state in DECRYPTS else Status.STOPPED
        words = "Unreachable" if held.health in OUT_OF_REACH else "Not usable"
        return SubjectStatus(Subject.ROOT_KEY, status, words, "Without it no key can be unwrapped.")
    # A check needs the key server, which decrypts the credentials; without it the recorded health is the former one.
    is_checked = _key_server(facts).status in {Status.OPERATIONAL, Status.DEGRADED}
    if not is_checked or not any(held.watch in one.watches for one in _current(facts, ProcessKind.WORKER)):
        return SubjectStatus(
            Subject.ROOT_KEY, Status.UNKNOWN, "Not checked now", "The platform does not check this root key now."
        )
    return SubjectStatus(Subject.ROOT_KEY, Status.OPERATIONAL, "Works, monitored")


def _certificates(facts: Facts) -> SubjectStatus:
    found = facts.certificates
    if found is None:
        return SubjectStatus(Subject.CERTIFICATES, Status.UNKNOWN, "Not measured")
    if found.expired:
        all_of_them = len(found.expired) >= found.connected
        return SubjectStatus(
            Subject.CERTIFICATES,
            Status.STOPPED if all_of_them else Status.DEGRADED,
            f"{len(found.expired)} expired",
            f"Stopped: {_names(found.expired)}.",
        )
    if found.late:
        return SubjectStatus(
            Subject.CERTIFICATES, Status.DEGRADED, f"{len(found.late)} not renewed", f"Late: {_names(found.late)}."
        )
    return SubjectStatus(
        Subject.CERTIFICATES, Status.OPERATIONAL, "Valid" if found.connected else "No services connected"
    )


def _names(services: Sequence[str], shown: int = 5) -> str:
    rest = len(services) - shown
    return ", ".join(services[:shown]) + (f" and {rest} more" if rest > 0 else "")


def _isolation(facts: Facts) -> SubjectStatus:
    found = facts.isolation
    if LockReason.BREACH in facts.locks or (found is not None and not found.passed):
        return SubjectStatus(
            Subject.ISOLATION, Status.STOPPED, "Check failed", "The tenant is locked until all checks pass again."
        )
    if found is None:
        return SubjectStatus(Subject.ISOLATION, Status.UNKNOWN, "Not checked")
    if (
        not timedelta()
        <= facts.measured_at - found.checked_at + timedelta(minutes=1)
        <= CHECK_AGE + timedelta(minutes=1)
    ):
        return SubjectStatus(Subject.ISOLATION, Status.UNKNOWN, "Check overdue", "Isolation checks run every day.")
    age = facts.measured_at - found.checked_at
    return SubjectStatus(Subject.ISOLATION, Status.OPERATIONAL, f"Checked {_ago(age)}")


def _ago(age: timedelta) -> str:
    minutes = round(age.total_seconds() / 60)
    if minutes < 1:
        return "just now"
    return f"{minutes} min ago" if minutes < 120 else f"{round(minutes / 60)} h ago"


def _changes(facts: Facts) -> SubjectStatus:
    current = _current(facts, ProcessKind.WORKER)
    if not current:
        unknown = facts.processes is None
        return SubjectStatus(
            Subject.CHANGES,
            Status.UNKNOWN if unknown else Status.STOPPED,
            "Not measured" if unknown else "Delayed",
            "Changes that you request are queued and continue automatically. Services continue to work.",
        )
    faulty = sum(bool(one.faults) for one in current)
    if faulty == len(current):
        return SubjectStatus(
            Subject.CHANGES,
            Status.STOPPED,
            "Delayed",
            "Changes that you request are queued and continue automatically. Services continue to work.",
        )
    if faulty:
        return SubjectStatus(Subject.CHANGES, Status.DEGRADED, "Slower", "Changes can take longer.")
    return SubjectStatus(Subject.CHANGES, Status.OPERATIONAL, "Carried out")


def _coverage(facts: Facts) -> SubjectStatus:
    found = facts.coverage
    if found is None:
        return SubjectStatus(Subject.COVERAGE, Status.UNKNOWN, "Not assessed")
    if not found.services:
        return SubjectStatus(Subject.COVERAGE, Status.UNKNOWN, "No services")
    words = f"{found.protected:,} of {found.services:,} services"
    complete = found.is_complete and found.protected == found.services
    return SubjectStatus(Subject.COVERAGE, Status.OPERATIONAL if complete else Status.DEGRADED, words)


def _approvals(facts: Facts) -> SubjectStatus:
    if facts.approvals is None:
        return SubjectStatus(Subject.APPROVALS, Status.UNKNOWN, "Not measured")
    if facts.approvals:
        return SubjectStatus(Subject.APPROVALS, Status.DEGRADED, f"{facts.approvals:,} pending")
    return SubjectStatus(Subject.APPROVALS, Status.OPERATIONAL, "None pending")
