import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compliance.audit import ocsf
from compliance.audit.ocsf import ACTIVITIES, OCSF, REQUIRED, REQUIRED_OF_ALL, EventClass
from openkcm.contract.audit_events import UPSTREAM_NAME, ActorKind, AuditEvent, AuditName, Outcome, StoredRecord


def stored(name: AuditName, outcome: Outcome = "success", kind: ActorKind = "human", **more: Any) -> StoredRecord:
    event = AuditEvent(
        event_id="e1",
        name=name,
        actor_kind=kind,
        actor="pat@acme.example",
        subject="L2-acme-primary",
        outcome=outcome,
        correlation_id="tenant/acme/rotate/7",
        source="203.0.113.9",
        **more,
    )
    fields = json.loads(event.as_json()) | {"tenant_id": "acme", "seq": 7, "time": "2026-01-15T10:30:00.250000Z"}
    return StoredRecord(7, json.dumps(fields), bytes(32))


def test_every_name_is_mapped() -> None:
    assert set(OCSF) == set(AuditName)


@pytest.mark.parametrize("name", list(AuditName))
def test_an_event_has_what_its_class_requires_whatever_its_outcome_and_actor(name: AuditName) -> None:
    for outcome in get_args(Outcome):
        for kind in get_args(ActorKind):
            told = ocsf.event(stored(name, outcome, kind))
            event_class = EventClass(told["class_uid"])
            for required in (*REQUIRED_OF_ALL, *REQUIRED[event_class]):
                assert told[required] not in ({}, "", None), required
            assert told["type_uid"] == told["class_uid"] * 100 + told["activity_id"]
            assert told["category_uid"] == told["class_uid"] // 1000 != 0
            assert told["activity_id"] in {*ACTIVITIES[event_class], 99}
            assert {"name", "vendor_name"} <= told["metadata"]["product"].keys()
            assert told["metadata"]["version"] == "1.6.0"
            assert told["unmapped"].get("upstream_event_type") == UPSTREAM_NAME.get(name)
            json.dumps(told)


def test_nothing_that_identifies_a_record_is_lost() -> None:
    told = ocsf.event(stored(AuditName.CRYPTO_REFUSED, "refused", "service", details={"code": "tenant_closed"}))
    assert told["metadata"] | {"product": {}} == {
        "version": "1.6.0",
        "product": {},
        "uid": "e1",
        "correlation_uid": "tenant/acme/rotate/7",
        "sequence": 7,
        "event_code": "crypto.refused",
        "original_time": "2026-01-15T10:30:00.250000Z",
        "tenant_uid": "acme",
        "log_name": "audit",
        "log_provider": "openkcm",
    }
    assert (told["time"], told["status"], told["status_code"]) == (1768473000250, "Failure", "tenant_closed")
    assert told["src_endpoint"] == {"ip": "203.0.113.9", "svc_name": "pat@acme.example"}
    assert told["actor"]["user"]["type"] == "Service"
    assert told["unmapped"]["details"] == {"code": "tenant_closed"}


def test_a_breach_is_critical_and_a_check_that_held_is_not() -> None:
    severities = [
        ocsf.event(stored(AuditName.BOUNDARY_CHECKED, outcome))["severity"] for outcome in ("success", "failure")
    ]
    assert severities == ["Informational", "Critical"]


@pytest.mark.parametrize("source", ["203.0.113.9:5696", "[2001:db8::1]:443", "2001:db8::1"])
def test_an_address_is_an_address_with_or_without_its_port(source: str) -> None:
    record = json.dumps(json.loads(stored(AuditName.SIGNED_IN).record) | {"source": source})
    assert ocsf.event(StoredRecord(7, record, bytes(32)))["src_endpoint"]["ip"] in {"203.0.113.9", "2001:db8::1"}


@given(
    st.text() | st.dictionaries(st.text(), st.none() | st.text() | st.integers() | st.lists(st.text())).map(json.dumps)
)
def test_whatever_lies_in_a_stream_becomes_an_event(text: str) -> None:
    told = ocsf.event(StoredRecord(1, text, bytes(32)))
    assert all(required in told for required in REQUIRED_OF_ALL)


def test_a_line_of_an_event_is_its_json() -> None:
    record = stored(AuditName.SIGNED_IN)
    assert json.loads(ocsf.ocsf_line(record)) == ocsf.event(record)
