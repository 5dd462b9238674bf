import json
from datetime import UTC, datetime

import pytest

from core.audit import AuditFilter
from openkcm.contract.audit_events import fields_of

RECORD = json.dumps(
    {"seq": 1, "name": "crypto.refused", "outcome": "refused", "actor": "Orders", "subject": "service/orders"}
)


MATCHING = [
    AuditFilter(),
    AuditFilter(names=frozenset({"crypto.refused", "tenant.failed"})),
    AuditFilter(names=frozenset({"crypto."})),
    AuditFilter(outcomes=frozenset({"refused", "failure"})),
    AuditFilter(actor="oRD"),
    AuditFilter(text="ACTOR"),
    AuditFilter(subject="/ORDERS"),
    AuditFilter(names=frozenset({"crypto."}), outcomes=frozenset({"refused"}), actor="orders", subject="service"),
]
NOT_MATCHING = [
    AuditFilter(names=frozenset({"crypto.used"})),
    AuditFilter(names=frozenset({"crypto"})),
    AuditFilter(names=frozenset({"tenant."})),
    AuditFilter(outcomes=frozenset({"success"})),
    AuditFilter(actor="service"),
    AuditFilter(text="nowhere"),
    AuditFilter(text='"actor"'),
    AuditFilter(subject="orders/"),
    AuditFilter(names=frozenset({"crypto."}), outcomes=frozenset({"success"})),
]


def test_filter_matches_only_if_all_conditions_match():
    assert [one for one in MATCHING if not one.wants(RECORD)] == []
    assert [one for one in NOT_MATCHING if one.wants(RECORD)] == []


@pytest.mark.parametrize("text", ["no json", "[]", "7"])
def test_damaged_record_matches_a_filter_without_field_conditions(text):
    assert fields_of(text) == {}
    assert AuditFilter().wants(text)
    assert AuditFilter(text=text).wants(text)
    assert not AuditFilter(actor="ada").wants(text)


def test_words_return_only_the_set_conditions():
    assert AuditFilter().words() == {}
    moment = datetime(2026, 11, 25, tzinfo=UTC)
    chosen = AuditFilter(
        names=frozenset({"b.", "a.x"}),
        outcomes=frozenset({"refused"}),
        actor="ada",
        subject="L2",
        text="%",
        since=moment,
        until=moment,
    )
    at = "2026-11-25T00:00:00+00:00"
    assert chosen.words() == {
        "names": "a.x, b.",
        "outcomes": "refused",
        "actor": "ada",
        "object": "L2",
        "text": "%",
        "since": at,
        "until": at,
    }
