"""How a tenant stands at a glance: each subject in order, not in order, and what to do then."""

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
LABELS = ["Isolation", "Custody of the root key", "Ages of keys", "Encryption coverage", "Audit stream", "Two people"]


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


def test_a_tenant_in_order_has_every_subject_in_order_and_nothing_to_do():
    lines = compliance.lines(well(), SIGNED, NOW)
    assert [one.label for one in lines] == LABELS
    assert {one.tone for one in lines} == {Severity.GOOD}
    assert [one.advice for one in lines if one.advice] == []
    assert line("Two people").detail == "Leave and change root key."


@pytest.mark.parametrize(
    ("label", "changed", "tone", "said"),
    [
        ("Isolation", {"checks": ()}, Severity.WARNING, "No attack"),
        (
            "Isolation",
            {"checks": checks(U2="breached", C1="breached")},
            Severity.BAD,
            "An attack on C1 and U2 succeeded",
        ),
        ("Isolation", {"checks": checks(NOW - timedelta(days=3))}, Severity.WARNING, "18 of 18 clauses"),
        ("Isolation", {"checks": checks(U3="not-checked")}, Severity.GOOD, "17 of 18 clauses"),
        ("Isolation", {"checks": checks(U1="not-checked")}, Severity.WORKING, "17 of 18 clauses"),
        ("Isolation", {"checks": checks()[:3]}, Severity.WORKING, "3 of 18 clauses"),
        ("Custody of the root key", {"root_key_mode": "platform"}, Severity.WORKING, "no kill switch"),
        ("Custody of the root key", {"state": "locked"}, Severity.BAD, "Nothing of the tenant opens"),
        ("Custody of the root key", {"keys": (a_key("L1", "kms", state="unavailable"),)}, Severity.BAD, "Nothing"),
        ("Ages of keys", {"keys": (a_key("L3", "or*ders", overdue=True),)}, Severity.WARNING, "`or*ders`"),
        ("Ages of keys", {"keys": ()}, Severity.WORKING, "provisioned"),
        ("Encryption coverage", {"coverage": ()}, Severity.WORKING, "No service"),
        (
            "Encryption coverage",
            {"coverage": (a_service("a", complete=False),)},
            Severity.WARNING,
            "1 of 1 service: `a`",
        ),
        ("Two people", {"four_eyes": ()}, Severity.WARNING, "One person alone"),
    ],
)
def test_what_is_not_in_order_says_what_it_is(label, changed, tone, said):
    found = line(label, **changed)
    assert found.tone is tone
    assert said in found.detail
    assert (found.advice == "") == (tone is Severity.GOOD or found.value == "No tenant key yet")


def test_a_stream_that_is_not_whole_is_alarming():
    found = line("Audit stream", BROKEN)
    assert (found.tone, found.detail) == (Severity.BAD, "Records are missing at the end.")
    assert "Repair nothing" in found.advice


def test_each_clause_is_told_and_one_that_was_not_attacked_is_not_passed_off_as_held():
    rows = compliance.clauses(checks(U2="breached", U3="not-checked"))
    assert [row.clause for row in rows] == list(CLAUSES)
    how = {row.clause: (row.tone, row.how) for row in rows}
    assert how["U1"] == (Severity.GOOD, "1 attack refused")
    assert how["U2"] == (Severity.BAD, "1 attack succeeded")
    assert how["U3"] == (Severity.WORKING, "not checked")
    assert compliance.clauses(()) == ()
