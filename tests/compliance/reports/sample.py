"""Deterministic sample data: one year of audit records of a busy tenant, and its report."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from compliance.reports.builder import Request, assemble
from core.isolation import CheckResult, tally
from openkcm.contract.audit_events import GENESIS, AuditName, StoredRecord, link
from openkcm.verification.isolation_controls import CLAUSES
from openkcm.verification.reports.counters import counted
from openkcm.verification.reports.model import CoveredService, InventoryKey, LatestCheck, Report, Snapshot
from openkcm.verification.reports.signed_file import ReportFormat, report_message, report_text, stated_digest
from openkcm.verification.reports.verify import binding
from openkcm.verification.signed_document import SignedText, write_document
from tests.database.signing import SIGNER, Signer

TENANT = "acme-corp-12345"
SINCE, UNTIL = datetime(2025, 11, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)
MADE = datetime(2026, 11, 2, 9, 30, tzinfo=UTC)
REPORT_ID = "6f2c0c6d5f1e4a0d9f4be1a1f8f0a7c3"
SERVICES = (
    ("customer-db", "mongodb"),
    ("orders", "postgresql"),
    ("payments", "postgresql"),
    ("ledger", "microservice"),
    ("invoices", "microservice"),
    ("identity", "microservice"),
    ("documents", "microservice"),
    ("search-index", "mongodb"),
    ("archive", "microservice"),
    ("analytics", "postgresql"),
    ("notifications", "microservice"),
    ("support-desk", "microservice"),
)
ROOT_KEY = "arn:aws:kms:eu-west-1:111122223333:key/5f0c0f5e-6a1d-4a57-9c39-8f3c5f2f4d10"
CHECKS = tuple(
    CheckResult(
        clause=clause,
        name=f"by-tenant/{clause.lower()}-{number}",
        outcome="held",
        seconds=0.01,
        evidence="refused: permission denied; control: opened its own",
    )
    for clause in CLAUSES
    for number in (1, 2)
)

Event = tuple[datetime, AuditName, str, str, str, str, Mapping[str, str]]
"""Time, event name, kind of actor, actor, subject, outcome, details."""


def a_year(uses_a_day: int = 2, since: datetime = SINCE, until: datetime = UNTIL) -> list[StoredRecord]:
    """Return the stream of a tenant; `uses_a_day` is the number of usage records for each service and day."""
    return chained([_text(seq, one) for seq, one in enumerate(sorted(_events(uses_a_day, since, until), key=_at), 1)])


def chained(texts: list[str]) -> list[StoredRecord]:
    previous, records = GENESIS, []
    for seq, text in enumerate(texts, start=1):
        previous = link(previous, text)
        records.append(StoredRecord(seq, text, previous))
    return records


def made_record(seq: int, stated: Snapshot, report_id: str = REPORT_ID, at: datetime = MADE) -> str:
    """Return the text of the record with the digest of the report's snapshot."""
    details = binding(SINCE, UNTIL, MADE, stated_digest(stated))
    return _text(seq, (at, AuditName.REPORT_MADE, "system", "worker", report_id, "success", details))


def a_report(records: list[StoredRecord], stated: Snapshot | None = None, **changed: object) -> Report:
    """Return the report of a stream whose last record contains the digest of the snapshot."""
    stated, place = stated or a_standing(), records[-1]
    request = Request(REPORT_ID, TENANT, "ACME Corporation", "eu-west-1", SINCE, UNTIL, "ada@acme.example")
    report = assemble(request, counted(records[:-1], SINCE, UNTIL), stated, MADE, place, "0.1.0")
    return report.model_copy(update=changed)


def a_busy_report(uses_a_day: int = 2) -> tuple[Report, list[StoredRecord]]:
    """Return the report of a busy year with its audit stream."""
    stated = a_standing()
    texts = [one.record for one in a_year(uses_a_day)]
    records = chained([*texts, made_record(len(texts) + 1, stated)])
    return a_report(records, stated), records


def a_document(report: Report, signer: Signer = SIGNER) -> str:
    """Return the report's JSON file."""
    text = report_text(report)
    signature, key = signer.sign(report_message(report.tenant_id, ReportFormat.JSON, text.encode()))
    return write_document(SignedText(text, signature, key))


def a_standing(**changed: object) -> Snapshot:
    """Return the snapshot of a tenant with everything in order."""
    stated = Snapshot(
        state="active",
        root_key_mode="aws-kms",
        root_key_holder="AWS KMS of account 111122223333",
        tenant_key_days=365,
        service_key_days=90,
        four_eyes=("change-policy", "change-root-key", "leave", "lock"),
        coverage=tuple(_covered(number, name, kind) for number, (name, kind) in enumerate(SERVICES)),
        keys=tuple(_keys()),
        checks=tuple(
            LatestCheck(
                clause=one.clause,
                name=one.name,
                outcome=one.outcome,
                evidence=one.evidence,
                at=MADE - timedelta(hours=7),
            )
            for one in CHECKS
        ),
        certificates=len(SERVICES),
        next_certificate_expiry=MADE + timedelta(hours=19),
    )
    return stated.model_copy(update=changed)


def _covered(number: int, name: str, kind: str) -> CoveredService:
    protected = {
        "postgresql": ("public.customers.ssn", "public.customers.iban"),
        "mongodb": ("crm.customers.email",),
    }
    return CoveredService(
        service=name,
        kind=kind,
        state="connected",
        protected=protected.get(kind, ()),
        ways=("programs",) if kind in protected else ("requests", "data-keys"),
        under=f"{name} version 4 (L3), L2-{TENANT}-primary version 2 (L2), {ROOT_KEY} (L1)",
        operations_30_days=120_000 + 17_321 * number,
        last_used="2026-11-02",
        complete=name != "analytics",
        gaps=() if name != "analytics" else ("public.events.ip_address is on the list and was not seen for 30 days",),
    )


def _key(level: str, name: str, state: str, made: datetime, **more: Any) -> InventoryKey:
    """Return a key that wraps service keys at the platform's key server; `more` overrides fields."""
    usual = {
        "version": 1,
        "algorithm": "AES-256-GCM",
        "holder": "the platform's key server",
        "purpose": "wraps service keys",
        "cryptoperiod_days": None,
        "due_at": None,
        "overdue": False,
        "last_used_at": None,
    }
    return InventoryKey(level=level, name=name, state=state, created_at=made, **(usual | more))


def _keys() -> Iterator[InventoryKey]:
    customers = {"holder": "AWS KMS of account 111122223333", "purpose": "wraps service keys, outermost"}
    yield _key("L1", ROOT_KEY, "ok", SINCE + timedelta(days=40), algorithm="", **customers)
    for version, state in ((1, "retired"), (2, "active")):
        made = SINCE + timedelta(days=200 * (version - 1))
        due = made + timedelta(days=365) if state == "active" else None
        yield _key("L2", f"L2-{TENANT}-primary", state, made, version=version, cryptoperiod_days=365, due_at=due)
    for number, (name, _) in enumerate(SERVICES):
        for version in (1, 2, 3, 4):
            made, active = SINCE + timedelta(days=90 * (version - 1) + number), version == 4
            yield _key(
                *("L3", name, "active" if active else "deactivated", made),
                version=version,
                algorithm="AES-256",
                holder="database, wrapped by L2 and L1",
                purpose="encrypts data keys and values",
                cryptoperiod_days=90,
                due_at=made + timedelta(days=90) if active else None,
                overdue=active and number == 0,
                last_used_at=MADE if active else made + timedelta(days=90),
            )
    signs = {"algorithm": "ECDSA P-256", "purpose": "signs service certificates", "cryptoperiod_days": 730}
    yield _key("CA", f"ca-{TENANT}", "current", SINCE, due_at=SINCE + timedelta(days=730), **signs)


def _events(uses_a_day: int, since: datetime, until: datetime) -> Iterator[Event]:
    yield (since, AuditName.ENABLE_ACCEPTED, "system", "marketplace", TENANT, "success", {})
    yield (since, AuditName.TENANT_KEY_CREATED, "system", "worker", f"L2-{TENANT}-primary", "success", {})
    for number, (name, _) in enumerate(SERVICES):
        at = since + timedelta(hours=1 + number)
        yield (at, AuditName.SERVICE_CONNECT_REQUESTED, "human", "ada@acme.example", name, "success", {})
        yield (at, AuditName.SERVICE_CONNECTED, "system", "worker", name, "success", {})
    for day in range((until - since).days):
        yield from _day(day, since + timedelta(days=day), uses_a_day)
    yield from _root_key(since + timedelta(days=40), until)


def _day(day: int, begins: datetime, uses_a_day: int) -> Iterator[Event]:
    clauses = {"held": str(len(CHECKS)), "clauses": tally(CHECKS)}
    yield (begins + timedelta(hours=3), AuditName.BOUNDARY_CHECKED, "system", "worker", TENANT, "success", clauses)
    yield (begins + timedelta(hours=8), AuditName.SIGNED_IN, "human", "ada@acme.example", "session", "success", {})
    for number, (name, _) in enumerate(SERVICES):
        for use in range(uses_a_day):
            at = begins + timedelta(seconds=use * 86_400 // uses_a_day + number + 10)
            count = str(900 + (day * 37 + number * 101 + use * 13) % 800)
            details = {"operation": "encrypt" if use % 2 else "decrypt", "count": count, "bytes": "48000"}
            yield (at, AuditName.CRYPTO_USED, "service", name, name, "success", details)
    if day % 11 == 5:
        at, name = begins + timedelta(hours=14), SERVICES[day % len(SERVICES)][0]
        refused = {"operation": "decrypt", "code": "key_unknown"}
        yield (at, AuditName.CRYPTO_REFUSED, "service", name, "ledger", "refused", refused)
    if day % 45 == 20:
        at, code = begins + timedelta(hours=15), {"code": "not_permitted"}
        yield (at, AuditName.ACCESS_REFUSED, "human", "mallory@beta.example", "keys", "refused", code)
    if day % 90 == 88:
        at = begins + timedelta(hours=2)
        yield (at, AuditName.KEYS_ROTATED, "system", "worker", TENANT, "success", {"service": "all"})
    if day % 60 == 30:
        yield from _two_people(begins + timedelta(hours=10), f"{day:032x}")


def _two_people(at: datetime, approval: str) -> Iterator[Event]:
    request = {"action": "change-policy", "argument": "service_key_days: 90", "requested_by": "ada@acme.example"}
    decided, minute = {**request, "decided_by": "grace@acme.example"}, timedelta(minutes=9)
    yield (at, AuditName.APPROVAL_REQUESTED, "system", "worker", approval, "success", request)
    yield (at + minute, AuditName.APPROVAL_GRANTED, "system", "worker", approval, "success", decided)
    words = {"after": "tenant key 365 d, service keys 90 d, two people for leave, lock"}
    yield (at + minute, AuditName.POLICY_CHANGED, "system", "worker", TENANT, "success", words)
    yield (at + 2 * minute, AuditName.APPROVAL_EXECUTED, "system", "worker", approval, "success", decided)


def _root_key(at: datetime, until: datetime) -> Iterator[Event]:
    yield (at, AuditName.ROOT_KEY_CHANGED, "system", "worker", ROOT_KEY, "success", {"provider": "aws-kms"})
    while (at := at + timedelta(days=90)) < until:
        gone, again = {"before": "ok", "after": "root_key_disabled"}, {"before": "root_key_disabled", "after": "ok"}
        lock = {"before": "active", "after": "locked", "root_key": ROOT_KEY, "health": "root_key_disabled"}
        lock["health_since"] = at.isoformat()
        yield (at, AuditName.ROOT_KEY_UNAVAILABLE, "system", "worker", ROOT_KEY, "failure", gone)
        yield (at + timedelta(seconds=0.4), AuditName.TENANT_LOCKED, "system", "worker", TENANT, "success", lock)
        back, opened = at + timedelta(minutes=12), {"before": "locked", "after": "active", "root_key": ROOT_KEY}
        yield (back, AuditName.ROOT_KEY_AVAILABLE, "system", "worker", ROOT_KEY, "success", again)
        yield (
            back + timedelta(seconds=0.7),
            *(AuditName.TENANT_UNLOCKED, "system", "worker", TENANT, "success"),
            {**opened, "health": "ok"},
        )


def _at(event: Event) -> datetime:
    return event[0]


def _text(seq: int, event: Event) -> str:
    """Return an event as the database writes it."""
    at, name, kind, actor, subject, outcome, details = event
    fields = {
        "seq": seq,
        "name": name,
        "time": f"{at:%Y-%m-%dT%H:%M:%S.%fZ}",
        "actor": actor,
        "source": "10.20.30.40" if kind != "system" else "",
        "details": details,
        "outcome": outcome,
        "subject": subject,
        "event_id": f"sample/{seq}",
        "tenant_id": TENANT,
        "actor_kind": kind,
        "correlation_id": f"tenant/{TENANT}",
    }
    return json.dumps(fields, ensure_ascii=False)
