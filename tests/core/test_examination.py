"""Signed results of an isolation assessment: verification detects each change of a line or a result."""

from datetime import UTC, datetime, timedelta

import pytest

from core.isolation import CheckResult, SignedClause, by_clause, clause_message, flaw, run_of, summed_up
from tests.core.proving import KEYS
from tests.database.signing import SIGNER, Signer

ACME, RUN, AT = "acme-corp-12345", run_of("0199"), datetime(2026, 11, 26, 9, tzinfo=UTC)


def a_result(clause: str, name: str = "read", outcome: str = "held", **changed: object) -> CheckResult:
    result = CheckResult(clause=clause, name=name, outcome=outcome, seconds=0.1 + 0.2, evidence="answered 403")
    return result.model_copy(update=changed)


RESULTS = (a_result("M2"), a_result("U2"), a_result("M2", "write"), a_result("A2", outcome="not-checked"))


def signed(results=RESULTS, tenant_id: str = ACME, run: str = RUN, signer: Signer = SIGNER) -> list[SignedClause]:
    lines = [summed_up(clause, found) for clause, found in by_clause(results).items()]
    signatures = signer.sign_all([clause_message(tenant_id, run, AT, line) for line in lines])
    return [
        SignedClause(**line.model_dump(), run=run, examined_at=AT, signature=signature, key=key)
        for line, (signature, key) in zip(lines, signatures, strict=True)
    ]


def test_signed_lines_have_no_flaw_with_and_without_results() -> None:
    assert flaw(ACME, signed(), KEYS.check, RESULTS) == ""
    assert flaw(ACME, signed(), KEYS.check) == ""
    counted = [(line.clause, line.held, line.not_checked) for line in signed()]
    assert counted == [("M2", 2, 0), ("U2", 1, 0), ("A2", 0, 1)]


@pytest.mark.parametrize(
    "change",
    [
        {"clause": "U3"},
        {"held": 3},
        {"breached": 1},
        {"not_checked": 1},
        {"digest": bytes(32)},
        {"run": run_of("0200")},
        {"examined_at": AT + timedelta(microseconds=1)},
        {"key": "audit:2"},
        {"signature": signed()[1].signature},
    ],
    ids=lambda change: next(iter(change)),
)
def test_flaw_reports_edited_or_moved_line(change) -> None:
    first, *others = signed()
    assert "the line of" in flaw(ACME, [first.model_copy(update=change), *others], KEYS.check)


def test_flaw_reports_line_of_another_tenant_or_key() -> None:
    assert flaw("beta-corp", signed(), KEYS.check)
    assert flaw(ACME, signed(tenant_id="beta-corp"), KEYS.check)
    assert flaw(ACME, signed(signer=Signer()), KEYS.check)


@pytest.mark.parametrize(
    "change", [{"name": "other"}, {"outcome": "breached"}, {"evidence": "answered 200"}, {"seconds": 0.3}], ids=str
)
def test_flaw_reports_edited_result(change) -> None:
    edited = [RESULTS[0].model_copy(update=change), *RESULTS[1:]]
    assert flaw(ACME, signed(), KEYS.check, edited) == "the check results of M2 differ from the signed ones"


def test_flaw_reports_removed_added_or_moved_result() -> None:
    assert "M2" in flaw(ACME, signed(), KEYS.check, RESULTS[1:])
    assert "M2" in flaw(ACME, signed(), KEYS.check, (*RESULTS, a_result("M2", "more")))
    assert "M2" in flaw(ACME, signed(), KEYS.check, (RESULTS[2], *RESULTS[1:2], RESULTS[0], RESULTS[3]))
    assert flaw(ACME, signed(), KEYS.check, (*RESULTS, a_result("E1"))) == "the check results of E1 are not signed"


@pytest.mark.parametrize("name", ["a b", "", " a", "a\n", "ä"])
def test_clause_message_rejects_names_with_spaces_or_non_ascii(name: str) -> None:
    line = summed_up("M2", RESULTS[:1])
    with pytest.raises(ValueError, match="one word"):
        clause_message(ACME, name, AT, line)
    assert "one word" in flaw(ACME, [signed()[0].model_copy(update={"run": name})], KEYS.check)
