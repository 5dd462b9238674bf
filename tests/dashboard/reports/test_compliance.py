"""The compliance status of a tenant: each subject in order, not in order, and what to do."""

from datetime import UTC, datetime, timedelta

import pytest

from dashboard.audit import view as audit
from dashboard.components.tenant_status import Severity
from dashboard.reports import view as compliance
from openkcm.verification.isolation_controls import CLAUSES
from openkcm.verification.reports.model import LatestCheck, Snapshot
from tests.compliance.reports.render.builders import a_key, a_service, a_standing

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
SIGNED = audit.Status(audit.Chain.SIGNED, "9", "9", "ab", "Signed up to record 9.", alarming=False)
BROKEN = audit.Status(audit.Chain.TRUNCATED, "8", "9", "ab", "Records are missing at the end.", alarming=True)
LABELS = [
    "Isolation",
    "Root key custody",
    "Key rotation",
    "Encryption coverage",
    "Audit stream",
    "Two-person approval",
]


def checks(at: datetime = NOW - timedelta(hours=3), **outcomes: str) -> tuple[LatestCheck, ...]:
    return tuple(
        LatestCheck(clause=clause, name="x", outcome=outcomes.get(clause, "held"), evidence="", at=at)
        for clause in CLAUSES
    )


def well() -> Snapshot:
    return a_standing(
        root_key_mode="aws-kms",
        keys=(a_key("L1", "kms"), a_key("L2", "L2-acme-corp-12345-primary")),
        coverage=(a_service("orders"),),
        checks=checks(),
        four_eyes=("leave", "change-root-key"),
    )


def line(label: str, chain: audit.Status = SIGNED, **changed: object) -> compliance.Line:
    stated = well().model_copy(update=changed)
    return next(one for one in compliance.lines(stated, chain, NOW) if one.label == label)


def test_a_compliant_tenant_has_no_advice():
    lines = compliance.lines(well(), SIGNED, NOW)
    assert [one.label for one in lines] == LABELS
    assert {one.tone for one in lines} == {Severity.GOOD}
    assert [one.advice for one in lines if one.advice] == []
    assert line("Two-person approval").detail == "Leave and change root key."


@pytest.mark.parametrize(
    ("label", "changed", "tone", "said"),
    [
        ("Isolation", {"checks": ()}, Severity.WARNING, "No isolation check"),
        (
            "Isolation",
            {"checks": checks(U2="breached", C1="breached")},
            Severity.BAD,
            "A check of C1 and U2 failed",
        ),
        ("Isolation", {"checks": checks(NOW - timedelta(days=9))}, Severity.WARNING, "18 of 18 clauses"),
        ("Isolation", {"checks": checks(U3="not-checked")}, Severity.GOOD, "17 of 18 clauses"),
        ("Isolation", {"checks": checks(U1="not-checked")}, Severity.WORKING, "17 of 18 clauses"),
        ("Isolation", {"checks": checks()[:3]}, Severity.WORKING, "3 of 18 clauses"),
        ("Root key custody", {"root_key_mode": "platform"}, Severity.WORKING, "no kill switch"),
        ("Root key custody", {"state": "locked"}, Severity.BAD, "Nothing can be decrypted"),
        (
            "Root key custody",
            {"keys": (a_key("L1", "kms", state="unavailable"),)},
            Severity.BAD,
            "Nothing can be decrypted",
        ),
        ("Key rotation", {"keys": (a_key("L3", "or*ders", overdue=True),)}, Severity.WARNING, "`or*ders`"),
        ("Key rotation", {"keys": ()}, Severity.WORKING, "provisioning"),
        ("Encryption coverage", {"coverage": ()}, Severity.WORKING, "No service"),
        (
            "Encryption coverage",
            {"coverage": (a_service("a", complete=False),)},
            Severity.WARNING,
            "1 of 1 service: `a`",
        ),
        ("Two-person approval", {"four_eyes": ()}, Severity.WARNING, "One person alone"),
    ],
)
def test_a_subject_that_is_not_in_order_shows_the_reason(label, changed, tone, said):
    found = line(label, **changed)
    assert found.tone is tone
    assert said in found.detail
    assert (found.advice == "") == (tone is Severity.GOOD or found.value == "No tenant key yet")


def test_an_incomplete_stream_is_alarming():
    found = line("Audit stream", BROKEN)
    assert (found.tone, found.detail) == (Severity.BAD, "Records are missing at the end.")
    assert "Do not repair anything" in found.advice


def test_each_clause_is_listed_and_an_unchecked_one_has_not_passed():
    rows = compliance.clauses(checks(U2="breached", U3="not-checked"))
    assert [row.clause for row in rows] == list(CLAUSES)
    how = {row.clause: (row.tone, row.how) for row in rows}
    assert how["U1"] == (Severity.GOOD, "1 check passed")
    assert how["U2"] == (Severity.BAD, "1 check failed")
    assert how["U3"] == (Severity.WORKING, "not checked")
    assert compliance.clauses(()) == ()
