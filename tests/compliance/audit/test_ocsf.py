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
def test_event_has_the_required_attributes_for_each_outcome_and_actor(name: AuditName) -> None:
    for outcome in get_args(Outcome):
        for kind in get_args(ActorKind):
            event = ocsf.event(stored(name, outcome, kind))
            event_class = EventClass(event["class_uid"])
            for required in (*REQUIRED_OF_ALL, *REQUIRED[event_class]):
                assert event[required] not in ({}, "", None), required
            assert event["type_uid"] == event["class_uid"] * 100 + event["activity_id"]
            assert event["category_uid"] == event["class_uid"] // 1000 != 0
            assert event["activity_id"] in {*ACTIVITIES[event_class], 99}
            assert {"name", "vendor_name"} <= event["metadata"]["product"].keys()
            assert event["metadata"]["version"] == "1.6.0"
            assert event["unmapped"].get("upstream_event_type") == UPSTREAM_NAME.get(name)
            json.dumps(event)


def test_event_keeps_all_identifiers_of_the_record() -> None:
    event = ocsf.event(
        stored(AuditName.CRYPTO_REFUSED, "refused", "service", details={"code": "tenant_not_operational"})
    )
    assert event["metadata"] | {"product": {}} == {
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
    assert (event["time"], event["status"], event["status_code"]) == (
        1768473000250,
        "Failure",
        "tenant_not_operational",
    )
    assert event["src_endpoint"] == {"ip": "203.0.113.9", "svc_name": "pat@acme.example"}
    assert event["actor"]["user"]["type"] == "Service"
    assert event["unmapped"]["details"] == {"code": "tenant_not_operational"}


def test_only_a_breached_check_is_critical() -> None:
    severities = [
        ocsf.event(stored(AuditName.BOUNDARY_CHECKED, outcome))["severity"] for outcome in ("success", "failure")
    ]
    assert severities == ["Informational", "Critical"]


@pytest.mark.parametrize("source", ["203.0.113.9:5696", "[2001:db8::1]:443", "2001:db8::1"])
def test_source_address_is_parsed_with_and_without_port(source: str) -> None:
    record = json.dumps(json.loads(stored(AuditName.SIGNED_IN).record) | {"source": source})
    assert ocsf.event(StoredRecord(7, record, bytes(32)))["src_endpoint"]["ip"] in {"203.0.113.9", "2001:db8::1"}


@given(
    st.text() | st.dictionaries(st.text(), st.none() | st.text() | st.integers() | st.lists(st.text())).map(json.dumps)
)
def test_any_record_text_becomes_an_event(text: str) -> None:
    event = ocsf.event(StoredRecord(1, text, bytes(32)))
    assert all(required in event for required in REQUIRED_OF_ALL)


def test_ocsf_line_is_the_json_of_the_event() -> None:
    record = stored(AuditName.SIGNED_IN)
    assert json.loads(ocsf.ocsf_line(record)) == ocsf.event(record)
