"""The summary is never better than its figures: an empty section is missing, and a bad figure requires attention."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openkcm.contract.audit_events import AuditName
from openkcm.verification.isolation_controls import CLAUSES
from openkcm.verification.reports.controls import CONTROLS, FRAMEWORKS
from openkcm.verification.reports.counters import counted
from openkcm.verification.reports.evaluation import evidence, findings, limits
from openkcm.verification.reports.model import ClauseRuns, DerivedFigures, EventCounts
from tests.compliance.reports.sample import MADE, SINCE, UNTIL, a_busy_report, a_standing

BUSY, _ = a_busy_report()
COUNTED = BUSY.counted
EMPTY = counted([], SINCE, UNTIL)


def a_good_standing():
    stated = a_standing()
    keys = tuple(one.model_copy(update={"overdue": False}) for one in stated.keys)
    services = tuple(one.model_copy(update={"complete": True, "gaps": ()}) for one in stated.coverage)
    return stated.model_copy(update={"keys": keys, "coverage": services})


GOOD = a_good_standing()


def statuses(figures=COUNTED, stated=GOOD, at=MADE) -> dict[str, str]:
    return {one.subject: one.status for one in findings(figures, stated, at)}


def test_good_figures_are_in_order_in_all_sections():
    assert set(statuses().values()) == {"in order"}


def test_empty_figures_are_never_in_order():
    nothing = GOOD.model_copy(
        update={
            **dict.fromkeys(("coverage", "keys", "checks", "four_eyes"), ()),
            "certificates": 0,
            "next_certificate_expiry": None,
            "root_key_mode": "platform",
        }
    )
    assert set(statuses(EMPTY, nothing).values()) == {"missing"}
    assert "in order" not in {one.status for one in evidence(EMPTY, nothing, MADE)}


SECTIONS = {
    "Encryption coverage": ("stated", "coverage", ()),
    "Keys and cryptoperiods": ("stated", "keys", ()),
    "Isolation": ("stated", "checks", ()),
    "Two people": ("stated", "four_eyes", ()),
    "Certificates": ("stated", "certificates", 0),
    "Access and refused attempts": ("counted", "access", ()),
    "Root key and revocation": ("counted", "root_key", ()),
    "Changes": ("counted", "changes_total", 0),
    "Audit stream": ("counted", "records", 0),
}


@given(st.sets(st.sampled_from(sorted(SECTIONS))))
def test_empty_section_is_never_in_order_independent_of_others(emptied):
    parts = {"stated": GOOD, "counted": COUNTED}
    for subject in emptied:
        where, name, nothing = SECTIONS[subject]
        also = {"denied_total": 0} if name == "access" else {}
        parts[where] = parts[where].model_copy(update={name: nothing, **also})
    found = statuses(parts["counted"], parts["stated"])
    assert {subject for subject, status in found.items() if status != "in order"} == emptied
    by_section = {one.section for one in evidence(parts["counted"], parts["stated"], MADE) if one.status == "in order"}
    assert not by_section & emptied


def bad(**stated: object):
    return COUNTED, GOOD.model_copy(update=stated)


def changed(name: str, at: int, **fields: object):
    items = list(getattr(GOOD, name))
    items[at] = items[at].model_copy(update=fields)
    return bad(**{name: tuple(items)})


@given(st.integers(0, len(GOOD.checks) - 1), st.sampled_from(["breached", "not-checked"]))
def test_isolation_is_in_order_only_if_each_control_held(at, outcome):
    figures, stated = changed("checks", at, outcome=outcome)
    alone = [one for one in stated.checks if one.clause == stated.checks[at].clause and one.outcome == "held"]
    assert alone, "the other check of the clause still held"
    assert (statuses(figures, stated)["Isolation"] == "in order") is (outcome == "not-checked")
    clause = stated.checks[at].clause
    without = tuple(one for one in stated.checks if one.clause != clause)
    expected = "in order" if CLAUSES[clause].optional else "attention"
    assert statuses(*bad(checks=without))["Isolation"] == expected


def test_one_overdue_key_or_incomplete_service_requires_attention():
    for at in range(len(GOOD.keys)):
        assert statuses(*changed("keys", at, overdue=True))["Keys and cryptoperiods"] == "attention", at
    for at in range(len(GOOD.coverage)):
        assert statuses(*changed("coverage", at, complete=False))["Encryption coverage"] == "attention", at


def counting(**figures: object) -> DerivedFigures:
    return COUNTED.model_copy(update=figures)


@pytest.mark.parametrize(
    ("subject", "figures", "stated", "at"),
    [
        ("Isolation", counting(isolation=(ClauseRuns(clause="A1", held=3, breached=1),)), GOOD, MADE),
        ("Isolation", counting(events=(EventCounts(name=AuditName.BOUNDARY_CHECKED, failure=1),)), GOOD, MADE),
        ("Isolation", COUNTED, GOOD, MADE + timedelta(days=9)),
        ("Access and refused attempts", counting(denied_total=10**9), GOOD, MADE),
        ("Root key and revocation", counting(root_key=COUNTED.root_key[:1]), GOOD, MADE),
        ("Root key and revocation", COUNTED, GOOD.model_copy(update={"state": "locked"}), MADE),
        ("Two people", counting(events=(EventCounts(name=AuditName.APPROVAL_EXECUTED, failure=1),)), GOOD, MADE),
        ("Certificates", COUNTED, GOOD, MADE + timedelta(days=1)),
        ("Certificates", counting(events=(EventCounts(name=AuditName.EXPIRY_LAPSED, failure=1),)), GOOD, MADE),
        ("Audit stream", counting(is_complete=False), GOOD, MADE),
    ],
)
def test_bad_figure_requires_attention(subject, figures, stated, at):
    assert statuses(figures, stated, at)[subject] == "attention"


def test_root_key_held_by_the_platform_counts_as_missing_revocation():
    assert statuses(*bad(root_key_mode="platform"))["Root key and revocation"] == "missing"
    assert "does not exclude the platform" in " ".join(limits(GOOD.model_copy(update={"root_key_mode": "platform"})))


def test_every_row_has_ids_of_every_framework_and_claims_no_compliance():
    found = evidence(COUNTED, GOOD, MADE)
    assert [one.evidence for one in found] == list(CONTROLS)
    for one in found:
        assert tuple(one.controls) == FRAMEWORKS
        assert all(ids and all(ids) for ids in one.controls.values())
    assert "no attestation" in " ".join(limits(GOOD))


def test_backups_are_reported_as_missing():
    found = {one.evidence: one.status for one in evidence(COUNTED, GOOD, MADE)}
    assert found["Availability, backup and recovery of keys"] == "missing"


def test_breached_control_and_failed_destruction_require_attention():
    breached = tuple(one.model_copy(update={"outcome": "breached"}) for one in GOOD.checks)
    assert "attention" in {one.status for one in evidence(*bad(checks=breached), MADE)}
    failed = counting(events=(EventCounts(name=AuditName.KEY_DESTROYED, failure=1),))
    before, after = (
        {one.evidence for one in evidence(figures, GOOD, MADE) if one.status == "attention"}
        for figures in (COUNTED, failed)
    )
    assert after - before
