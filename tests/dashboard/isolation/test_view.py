"""The isolation of a tenant: what passed, what failed and what was not checked, each with its age."""

from datetime import datetime, timedelta

import pytest

from core.isolation import CheckResult
from dashboard.components.tenant_status import Severity
from dashboard.isolation import view as isolation
from database.isolation import BoundaryRunRow
from openkcm.verification.isolation_controls import CLAUSES
from tests.dashboard.held import DAY, HOUR, NOW
from tests.database import builders

AT = NOW - 3 * HOUR


def a_result(clause: str = "M2", outcome: str = "held") -> CheckResult:
    return builders.a_result("read-foreign-row", clause=clause, outcome=outcome, evidence="none")


def a_check(*results: CheckResult, at: datetime = AT) -> isolation.Check:
    found = isolation.check(BoundaryRunRow(at, results))
    assert found is not None
    return found


def every_clause(at: datetime = AT, **outcomes: str) -> isolation.Check:
    return a_check(*(a_result(clause, outcomes.get(clause, "held")) for clause in CLAUSES), at=at)


def test_checks_are_grouped_by_clause_and_counted() -> None:
    check = a_check(a_result("Z9"), a_result("M2"), a_result("M2", "breached"), a_result("U2"))
    assert [(control.clause, control.held, control.passed) for control in check.controls] == [
        ("U2", 1, True),
        ("M2", 1, False),
        ("Z9", 1, True),
    ]
    assert (check.attacks, check.held, check.passed) == (4, 3, False)
    assert check.controls[2].meaning == "Z9"
    assert isolation.attack(a_result()) == "read foreign row"
    assert isolation.check(None) is None


def test_a_check_that_was_not_completed_neither_fails_nor_passes() -> None:
    check = a_check(a_result("U2"), a_result("U2", "not-checked"), a_result("A2", "not-checked"))
    assert [(control.clause, control.passed, isolation.summary(control)) for control in check.controls] == [
        ("U2", True, "1 check passed, 1 not checked"),
        ("A2", True, "1 not checked"),
    ]
    assert (check.attacks, check.held, check.passed, len(check.not_checked)) == (1, 1, True, 2)
    assert not a_check(a_result("U2", "not-checked")).passed
    assert isolation.pending(check) == ("Not checked: U2, A2: none",)


@pytest.mark.parametrize(
    ("check", "tone", "words", "detail"),
    [
        (None, Severity.WARNING, "Not checked", "No isolation check is recorded."),
        (
            every_clause(),
            Severity.GOOD,
            "18 of 18 clauses checked, all passed",
            "18 checks passed. Last checked 3 hours",
        ),
        (every_clause(U3="not-checked"), Severity.GOOD, "17 of 18 clauses checked", "17 checks passed, 1 not checked."),
        (every_clause(U1="not-checked"), Severity.WORKING, "17 of 18 clauses checked, all passed", "1 not checked"),
        (
            every_clause(U2="breached", C1="breached"),
            Severity.BAD,
            "Check failed",
            "A check of U2 and C1 failed 3 hours",
        ),
        (every_clause(NOW - 9 * DAY), Severity.WARNING, "Checks overdue", "18 of 18 clauses checked, all passed."),
        (a_check(a_result("U1"), a_result("U2")), Severity.WORKING, "2 of 18 clauses checked, all passed", "2 checks"),
        (a_check(a_result("U1", "not-checked")), Severity.WORKING, "0 of 18 clauses checked", "1 not checked."),
        (a_check(), Severity.WORKING, "0 of 18 clauses checked", "Last checked 3 hours ago."),
    ],
)
def test_isolation_is_good_only_when_every_required_clause_was_checked_recently_and_passed(
    check: isolation.Check | None, tone: Severity, words: str, detail: str
) -> None:
    found = isolation.verdict(check, NOW)
    assert found.tone is tone
    assert found.words.startswith(words)
    assert detail in found.detail
    assert (found.advice == "") == (tone is Severity.GOOD)


def test_a_clause_of_which_a_check_is_open_is_not_good() -> None:
    check = a_check(*(a_result(clause) for clause in CLAUSES), a_result("U2", "not-checked"))
    assert isolation.verdict(check, NOW).tone is Severity.WORKING
    rows = {row.clause: row for row in isolation.clauses(check, NOW)}
    assert (rows["U2"].tone, rows["U2"].how) == (Severity.WORKING, "1 check passed, 1 not checked, 3 hours ago")


def test_each_clause_is_listed_with_its_age_and_an_unchecked_one_has_not_passed() -> None:
    rows = isolation.clauses(a_check(a_result("U1"), a_result("U2", "breached"), a_result("U3", "not-checked")), NOW)
    assert [row.clause for row in rows] == list(CLAUSES)
    how = {row.clause: (row.tone, row.how) for row in rows}
    assert how["U1"] == (Severity.GOOD, "1 check passed, 3 hours ago")
    assert how["U2"] == (Severity.BAD, "0 of 1 check passed, 3 hours ago")
    assert how["U3"] == (Severity.WORKING, "1 not checked, 3 hours ago")
    assert how["A1"] == (Severity.WORKING, "not checked")
    [old] = [row for row in isolation.clauses(a_check(a_result("U1"), at=NOW - 9 * DAY), NOW) if row.clause == "U1"]
    assert old.tone is Severity.WARNING


def test_a_missing_probe_of_another_tenant_is_pending() -> None:
    probe = a_result("U2", "not-checked").model_copy(
        update={"name": "open-others-probes", "evidence": "no other tenant has a probe yet"}
    )
    assert isolation.pending(a_check(probe)) == ("Cross-tenant probe pending (U2): no other tenant has a probe yet",)


def test_the_age_of_each_kind_of_check_is_shown() -> None:
    check = a_check(a_result())
    [before] = isolation.ages(check, None, None, NOW)
    assert before.startswith("Shown: checks before activation, 25 Nov 2026, 09:00 UTC (3 hours ago).")
    assert isolation.ages(check, AT, AT - DAY, NOW) == (
        "Shown: full assessment, 25 Nov 2026, 09:00 UTC (3 hours ago).",
    )
    shown, daily = isolation.ages(check, AT - DAY, NOW - timedelta(hours=1), NOW)
    assert "Last full assessment 24 Nov 2026, 09:00 UTC (1 day ago)." in shown
    assert daily == "Daily checks, a part of them, last passed 25 Nov 2026, 11:00 UTC (1 hour ago)."
