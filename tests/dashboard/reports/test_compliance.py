"""The compliance status of a tenant: each subject in order, not in order, and what to do."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from core.tenants.status import IsolationFacts, verdict
from dashboard.audit import view as audit
from dashboard.components.tenant_status import Severity
from dashboard.isolation import view as isolation
from dashboard.reports import view as compliance
from database.isolation import BoundaryRunRow
from openkcm.verification.isolation_controls import CLAUSES
from openkcm.verification.reports.model import Snapshot
from tests.compliance.reports.render.builders import a_key, a_service, a_standing
from tests.dashboard.held import WELL
from tests.database.builders import a_result

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


ISOLATED = isolation.check(BoundaryRunRow(NOW - timedelta(hours=3), tuple(a_result(clause=one) for one in CLAUSES)))


MEASURED = verdict(replace(WELL, measured_at=NOW, isolation=IsolationFacts(NOW, passed=True)))
SILENT = verdict(replace(WELL, measured_at=NOW, processes=(), isolation=None))


def well() -> Snapshot:
    return a_standing(
        root_key_mode="aws-kms",
        keys=(a_key("L1", "kms"), a_key("L2", "L2-acme-corp-12345-primary")),
        coverage=(a_service("orders"),),
        four_eyes=("leave", "change-root-key"),
    )


def line(label: str, chain: audit.Status = SIGNED, **changed: object) -> compliance.Line:
    isolated, measured = changed.pop("isolated", ISOLATED), changed.pop("measured", MEASURED)
    stated = well().model_copy(update=changed)
    return next(one for one in compliance.lines(stated, isolated, chain, measured) if one.label == label)


def test_a_compliant_tenant_has_no_advice():
    lines = compliance.lines(well(), ISOLATED, SIGNED, MEASURED)
    assert [one.label for one in lines] == LABELS
    assert {one.tone for one in lines} == {Severity.GOOD}
    assert [one.advice for one in lines if one.advice] == []
    assert line("Two-person approval").detail == "Leave and change root key."


def test_nothing_is_good_that_is_not_measured_now():
    assert line("Isolation", measured=SILENT).tone is Severity.WARNING
    custody = line("Root key custody", measured=SILENT)
    assert (custody.value, custody.tone) == ("Not measured", Severity.WARNING)


@pytest.mark.parametrize(
    ("label", "changed", "tone", "said"),
    [
        ("Isolation", {"isolated": None}, Severity.WARNING, "No isolation check"),
        ("Root key custody", {"root_key_mode": "platform"}, Severity.WORKING, "no kill switch"),
        ("Root key custody", {"state": "locked"}, Severity.BAD, "Every request for keys is rejected"),
        (
            "Root key custody",
            {"keys": (a_key("L1", "kms", state="unavailable"),)},
            Severity.BAD,
            "Service keys in memory work for a minute at most; no other key can be unwrapped.",
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
        (
            "Encryption coverage",
            {"coverage": (a_service("a", complete=False, protected=(), is_unknown=True),)},
            Severity.WARNING,
            "Coverage unknown, no fields listed",
        ),
        (
            "Encryption coverage",
            {"coverage": (a_service("a", complete=False, protected=(), gaps=("is not connected",)),)},
            Severity.WARNING,
            "Coverage incomplete",
        ),
        ("Two-person approval", {"four_eyes": ()}, Severity.WARNING, "One person alone"),
    ],
)
def test_a_subject_that_is_not_in_order_shows_the_reason(label, changed, tone, said):
    found = line(label, **changed)
    assert found.tone is tone
    assert said in f"{found.value}. {found.detail}"
    assert (found.advice == "") == (tone is Severity.GOOD or found.value == "No tenant key yet")


def test_an_incomplete_stream_is_alarming():
    found = line("Audit stream", BROKEN)
    assert (found.tone, found.detail) == (Severity.BAD, "Records are missing at the end.")
    assert "Do not repair anything" in found.advice
