"""Reports to render: of a busy tenant, of a new one, of one with findings, and of one with hostile texts."""

import random
from datetime import UTC, datetime, timedelta

from openkcm.verification.isolation_controls import CLAUSES
from openkcm.verification.reports.model import (
    ClauseRuns,
    CoveredService,
    DerivedFigures,
    EventCounts,
    Evidence,
    Finding,
    InventoryKey,
    LatestCheck,
    Report,
    ReportedEvent,
    RootKeyEvent,
    ServiceAccess,
    Snapshot,
    StreamPosition,
)

SINCE, UNTIL = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
MADE = datetime(2027, 1, 4, 9, 30, 12, 345678, tzinfo=UTC)
SIGNED = b'{"report": {"organization": "ACME <Corporation> & Sons", "records": [%s]}}' % b", ".join(
    [b'"<record>"'] * 99
)
KINDS = ("mongodb", "postgresql", "microservice")
FRAMEWORKS = ("SOC 2", "ISO 27001:2022", "PCI DSS v4.0.1", "NIST", "GDPR", "CSA CCM v4")
HOSTILE = (
    '#import "@preview/x:0.1.0": * #panic()',
    '#read("/etc/passwd") $ x^2 $ *bold* _it_ `raw` <label> @ref = Heading',
    "<script>alert(1)</script><img src=x onerror=alert(1)>\"'>",
    "{{ 7 * 7 }} {% raw %} {# x #}",
    "\u202egnp.exe\u202c \u2066left\u2069 \u200e\u200f\ufeff",
    "\\u003c/script\\u003e \\ \\\\ \" ' \x00 \x1b[31m \r\n\t",
    "株式会社アクメ مرحبا שלום नमस्ते Ωμέγα Ёлка 😀 \U000e0041",
    "Z̴̛̬͓̥̘̪̈́͗̅̕a̸̢͕͔̤̎͌̔l̵̨̛̰̬̓͒̕g̷̜̱̏̽͝ǫ̵̺̪̰̍͂",
    "x" * 300,
    "a-very-long/name.of@something:" * 10,
    "]] ]#{}[]()//*/* */ --- ~ ''' \"\"\"",
)


def a_moment(seq: int, at: datetime, **changed: object) -> ReportedEvent:
    fields = {
        "actor": "ada@acme.example",
        "actor_kind": "human",
        "name": "keys.rotated",
        "subject": "L2-acme-corp-12345-primary",
        "outcome": "success",
        "words": "Keys rotated: version: 4",
    }
    return ReportedEvent(seq=seq, at=at, **(fields | changed))


def a_key(level: str, name: str, version: int = 1, **changed: object) -> InventoryKey:
    fields = {
        "state": "active",
        "algorithm": "AES-256-GCM",
        "holder": "OpenKCM key server, eu-west-1",
        "purpose": "wraps service keys",
        "created_at": SINCE + timedelta(days=300),
        "cryptoperiod_days": 90,
        "due_at": SINCE + timedelta(days=390),
        "overdue": False,
        "last_used_at": MADE - timedelta(minutes=3),
    }
    return InventoryKey(level=level, name=name, version=version, **(fields | changed))


def a_service(name: str, kind: str = "mongodb", **changed: object) -> CoveredService:
    fields = {
        "state": "connected",
        "protected": ("crm.customers.email", "crm.customers.address.street"),
        "ways": ("its programs encrypt fields themselves",),
        "under": f"{name} (L3), L2-acme-corp-12345-primary (L2), AWS KMS 1234abcd (L1)",
        "operations_30_days": 38_250,
        "last_used": "today",
        "complete": True,
        "gaps": (),
    }
    return CoveredService(service=name, kind=kind, **(fields | changed))


def a_report(counted: DerivedFigures, stated: Snapshot, **changed: object) -> Report:
    fields = {
        "report_id": "7c1f5e0a9b3d4c6e8f102a3b4c5d6e7f",
        "tenant_id": "acme-corp-12345",
        "organization": "ACME Corporation",
        "region": "eu-west-1",
        "since": SINCE,
        "until": UNTIL,
        "made_at": MADE,
        "made_for": "Uma Auditor",
        "stream": StreamPosition(seq=1_204_311, chain_hash="5f" * 32),
        "summary": (),
        "counted": counted,
        "stated": stated,
        "stated_sha256": "ab" * 32,
        "evidence": (),
        "limits": ("Backups and the recovery of keys are the platform operator's.",),
    }
    return Report(**(fields | changed))


def an_empty_report(**changed: object) -> Report:
    """Return the report of a tenant that was enabled today and has no events."""
    counted = DerivedFigures(
        records=0, first_seq=0, last_seq=0, events=(), access=(), denied=(), denied_total=0, isolation=(),
        isolation_runs=0, root_key=(), changes=(), changes_total=0, approvals=(),
    )  # fmt: skip
    subjects = ("Encryption coverage", "Keys and cryptoperiods", "Isolation", "Audit stream")
    summary = tuple(
        Finding(subject=subject, status="missing", words="No record lies in this period.") for subject in subjects
    )
    return a_report(counted, a_standing(), **({"summary": summary} | changed))


def a_standing(**changed: object) -> Snapshot:
    fields = {
        "state": "active",
        "root_key_mode": "platform",
        "root_key_holder": "",
        "tenant_key_days": 90,
        "service_key_days": 90,
        "four_eyes": (),
        "coverage": (),
        "keys": (),
        "checks": (),
        "certificates": 0,
        "next_certificate_expiry": None,
    }
    return Snapshot(**(fields | changed))


def a_busy_report(**changed: object) -> Report:
    """Return the report of a busy year with everything in order."""
    chance = random.Random("a year")  # noqa: S311 - the same report each time
    services = [f"{chance.choice(('orders', 'billing', 'crm', 'ledger'))}-{n:02}" for n in range(60)]
    counted = DerivedFigures(
        records=1_187_204,
        first_seq=17_107,
        last_seq=1_204_310,
        events=tuple(EventCounts(name=f"crypto.event_{n}", success=chance.randrange(90_000)) for n in range(60)),
        access=tuple(
            ServiceAccess(service=name, answered=chance.randrange(2_000_000), refused=chance.choice((0, 0, 0, 12)))
            for name in services
        ),
        denied=_moments(chance, 200, name="crypto.refused", outcome="refused", words="Key refused: reason: not yours"),
        denied_total=412,
        isolation=tuple(
            ClauseRuns(clause=clause, held=chance.randrange(700, 1500), breached=0, not_checked=chance.randrange(3))
            for clause in CLAUSES
        ),
        isolation_runs=371,
        root_key=tuple(
            RootKeyEvent(moment=moment, seconds=chance.choice((None, 1.4, 2.9)))
            for moment in _moments(chance, 24, name="root_key.unavailable", words="Root key does not do its part")
        ),
        root_key_total=24,
        changes=_moments(chance, 500),
        changes_total=731,
        approvals=_moments(chance, 40, name="approval.granted", words="Approved by a second person: action: lock"),
        approvals_total=40,
    )
    stated = a_standing(
        root_key_mode="aws-kms",
        root_key_holder="arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
        four_eyes=("lock", "root key back to the platform", "policy", "leaving"),
        coverage=tuple(a_service(name, KINDS[n % 3]) for n, name in enumerate(services)),
        keys=(
            a_key("L1", "AWS KMS 1234abcd-12ab-34cd-56ef-1234567890ab", purpose="wraps service keys over L2",
                  holder="ACME Corporation, AWS KMS"),
            a_key("L2", "L2-acme-corp-12345-primary", 4),
            *(a_key("L3", name, version) for name in services for version in (1, 2)),
            a_key("CA", "CA-acme-corp-12345", algorithm="ECDSA P-256", purpose="signs service certificates"),
        ),
        checks=tuple(
            LatestCheck(clause=clause, name=f"open-foreign-{n}", outcome="held", at=MADE - timedelta(hours=7),
                        evidence="refused: object not found; control: the attacker's own object opens")
            for clause in CLAUSES for n in range(3)
        ),
        certificates=60,
        next_certificate_expiry=MADE + timedelta(hours=21),
    )  # fmt: skip
    fields = {"summary": a_summary(), "evidence": some_evidence()}
    return a_report(counted, stated, **(fields | changed))


def a_report_with_findings() -> Report:
    """Return a report with a finding in every section."""
    busy = a_busy_report()
    counted, stated = busy.counted, busy.stated
    keys = tuple(key.model_copy(update={"overdue": n in {1, 3, 8}}) for n, key in enumerate(stated.keys))
    coverage = (
        a_service("legacy-files", "microservice", complete=False, protected=(), ways=(),
                  gaps=("no field of it is listed", "it was not seen in the last 30 days")),
        *stated.coverage[:4],
    )  # fmt: skip
    checks = tuple(
        check.model_copy(update={"outcome": {0: "breached", 7: "not-checked"}.get(n, check.outcome)})
        for n, check in enumerate(stated.checks)
    )
    runs = (counted.isolation[0].model_copy(update={"breached": 2}), *counted.isolation[1:])
    return busy.model_copy(
        update={
            "counted": counted.model_copy(update={"isolation": runs}),
            "stated": stated.model_copy(update={"keys": keys, "coverage": coverage, "checks": checks}),
            "summary": a_summary("attention"),
            "evidence": some_evidence("attention"),
        }
    )


def a_hostile_report() -> Report:
    """Return a report in which every externally chosen text is hostile."""
    moments = tuple(
        a_moment(n, SINCE, actor=text, subject=text, words=text, name=text) for n, text in enumerate(HOSTILE, 1)
    )
    busy = a_busy_report()
    counted = busy.counted.model_copy(
        update={
            "denied": moments,
            "changes": moments,
            "approvals": moments,
            "events": tuple(EventCounts(name=text, success=1) for text in HOSTILE),
            "access": tuple(ServiceAccess(service=text, answered=1, refused=1) for text in HOSTILE),
            "isolation": tuple(ClauseRuns(clause=text, held=1, breached=1) for text in HOSTILE),
        }
    )
    stated = busy.stated.model_copy(
        update={
            "root_key_holder": HOSTILE[0],
            "four_eyes": HOSTILE,
            "coverage": tuple(
                a_service(text, text, protected=HOSTILE, ways=(text,), under=text, gaps=(text,)) for text in HOSTILE
            ),
            "keys": tuple(a_key(text[:40], text, holder=text, purpose=text, state=text[:40]) for text in HOSTILE),
            "checks": tuple(
                LatestCheck(clause=text, name=text, outcome=text, evidence=text, at=MADE) for text in HOSTILE
            ),
        }
    )
    evidence = tuple(
        Evidence(evidence=text, section=text, status="missing", controls={text: (text,)}) for text in HOSTILE
    )
    return busy.model_copy(
        update={
            "organization": " ".join(HOSTILE[:7]),
            "made_for": HOSTILE[2],
            "counted": counted,
            "stated": stated,
            "evidence": evidence,
            "summary": tuple(Finding(subject=text, status="attention", words=text) for text in HOSTILE),
            "limits": HOSTILE,
        }
    )


def a_summary(status: str = "in order") -> tuple[Finding, ...]:
    """Return a line for each of nine subjects, three of them with a status."""
    subjects = (
        "Encryption coverage",
        "Keys and cryptoperiods",
        "Isolation",
        "Access and refused attempts",
        "Root key and revocation",
        "Changes",
        "Two people",
        "Certificates",
        "Audit stream",
    )
    words = "1,187,204 records, 17,107 to 1,204,310, chained, and signed past the last."
    return tuple(
        Finding(subject=subject, status=status if n < 3 else "in order", words=words)
        for n, subject in enumerate(subjects)
    )


def some_evidence(status: str = "in order") -> tuple[Evidence, ...]:
    sections = ("Keys and cryptoperiods", "Isolation", "Audit stream", "Encryption coverage", "Two people")
    return tuple(
        Evidence(
            evidence=f"Evidence of {section}",
            section=section,
            status=status if n == 1 else "in order",
            controls={framework: (f"{3 + n}.{place}.1", f"{3 + n}.10") for place, framework in enumerate(FRAMEWORKS)},
        )
        for n, section in enumerate(sections)
    )


def _moments(chance: random.Random, number: int, **changed: object) -> tuple[ReportedEvent, ...]:
    places = sorted(chance.sample(range(17_107, 1_204_310), number))
    step = (UNTIL - SINCE) / (number + 1)
    return tuple(a_moment(seq, SINCE + step * n, **changed) for n, seq in enumerate(places, 1))
