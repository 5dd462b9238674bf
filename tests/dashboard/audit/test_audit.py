import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from dashboard.audit import view
from database.audit import FoundRecord, SignedCheckpoint, StreamBounds
from openkcm.contract.audit_events import GENESIS, AuditName, StoredRecord, link
from openkcm.verification.results import CheckedSignature

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
FIELDS = {
    "seq": 1,
    "time": "2026-11-25T11:57:00.000001Z",
    "name": "crypto.refused",
    "actor": "orders",
    "actor_kind": "service",
    "subject": "service/orders",
    "outcome": "refused",
    "source": "192.0.2.1",
    "correlation_id": "c-1",
    "event_id": "e-1",
    "upstream_event_type": "unauthorizedRequest",
    "details": {"operation": "get", "count": "7", "code": "object_not_found"},
}


def found(text: str | None = None, previous: bytes | None = GENESIS, **changed: object) -> FoundRecord:
    text = json.dumps(FIELDS | changed) if text is None else text
    return FoundRecord(StoredRecord(1, text, link(GENESIS, text)), previous)


def test_a_record_is_shown_with_its_label_and_code():
    assert view.row(found(), "Europe/Berlin") == view.Row(
        seq=1,
        time="2026-11-25 11:57:00",
        local="2026-11-25 12:57:00",
        what="Use of a key rejected",
        operation="get",
        service="orders",
        subject="service/orders",
        actor="orders (service)",
        outcome="Refused",
        cause="object_not_found",
        times=7,
        code="crypto.refused",
        source="192.0.2.1",
        correlation_id="c-1",
        linked=True,
    )


@pytest.mark.parametrize(
    ("text", "previous"),
    [
        ("gone", GENESIS),
        ("[]", GENESIS),
        (None, None),
        (None, bytes(31) + b"1"),
        (json.dumps(FIELDS | {"seq": 2}), GENESIS),
    ],
)
def test_a_record_outside_the_chain_is_marked(text, previous):
    assert not view.row(found(text, previous)).linked
    assert not view.details(found(text, previous), NOW).linked


def test_an_unreadable_record_is_shown_as_such():
    row = view.row(found("gone"))
    assert (row.what, row.time, row.local, row.outcome, row.actor) == ("Unreadable record", "unknown", "", "", "")
    details = view.details(found("gone", None), NOW)
    assert details.raw == "gone"
    assert details.fields == (
        ("Time", "unknown"),
        ("Event", "Unreadable record"),
        ("Chain hash", link(GENESIS, "gone").hex()),
        ("Previous hash", "missing"),
    )


def test_fields_of_unknown_types_are_shown_unchanged():
    row = view.row(found(name=7, actor=["x"], actor_kind="robot", outcome="odd", time="2026-11-25T11:57:00"))
    assert (row.what, row.code, row.actor, row.outcome, row.time) == ("7", "7", '["x"] (robot)', "odd", "unknown")
    assert dict(view.details(found(details="x", actor_kind=""), NOW).fields)["Actor"] == "orders"


def test_the_details_of_a_record_are_complete():
    details = view.details(found(), NOW)
    assert (details.title, details.raw, details.linked) == ("Record 1", json.dumps(FIELDS), True)
    assert details.fields == (
        ("Time", "2026-11-25 11:57:00.000001 UTC (3 minutes ago)"),
        ("Event", "Use of a key rejected"),
        ("Code", "crypto.refused"),
        ("Upstream event type", "unauthorizedRequest"),
        ("Outcome", "Refused"),
        ("Actor", "orders (service)"),
        ("Object", "service/orders"),
        ("Source", "192.0.2.1"),
        ("Correlation id", "c-1"),
        ("Event id", "e-1"),
        ("Detail: operation", "get"),
        ("Detail: count", "7"),
        ("Detail: code", "object_not_found"),
        ("Chain hash", link(GENESIS, json.dumps(FIELDS)).hex()),
        ("Previous hash", GENESIS.hex()),
    )


def test_every_event_is_a_filter_option_with_a_label():
    choices = view.choices()
    assert set(map(str, AuditName)) <= set(choices)
    assert len(choices) == len(set(choices))
    for choice in choices:
        label = view.choice_label(choice)
        assert "_" not in label
        assert "." not in label
    assert view.choice_label("crypto.") == "Key use: all"
    assert view.choice_label("crypto.key_released") == "Key use: key returned to a service"
    assert view.choice_label("marketplace.enable_accepted") == "Marketplace: OpenKCM enabled in the marketplace"


def test_valid_links_are_summarized_and_broken_ones_named_by_number():
    row = view.row(found())
    assert view.links([row]) == (True, "Hash link of the shown record verified.")
    intact, said = view.links([row, row])
    assert intact
    assert said == "Hash links of 2 shown records verified."
    intact, said = view.links([row, replace(row, seq=1234, linked=False)])
    assert not intact
    assert said.startswith("The chain is broken at record 1,234:")
    intact, said = view.links([replace(row, linked=False), replace(row, seq=2, linked=False)])
    assert said.startswith("The chain is broken at records 1 and 2:")


LAST = StoredRecord(10, "x", b"l" * 32)
HEAD = SignedCheckpoint(8, b"s" * 32, "MEUC", "audit:1")
VALID = CheckedSignature("audit:1", "f" * 64)
THERE = StoredRecord(8, "y", b"s" * 32)


@pytest.mark.parametrize(
    ("ends", "chain", "said"),
    [
        (StreamBounds(None, None, None, None), view.Chain.EMPTY, "No records yet"),
        (StreamBounds(LAST, None, None, None), view.Chain.UNSIGNED, "10 records will be signed within a minute"),
        (
            StreamBounds(LAST, HEAD, NOW, THERE),
            view.Chain.SIGNED,
            "8 on 25 Nov 2026, 12:00 UTC (just now), by the key audit:1; 2 newer records will be signed within",
        ),
        (StreamBounds(THERE, HEAD, NOW, THERE), view.Chain.SIGNED, "no newer records."),
        (StreamBounds(replace(LAST, seq=7), HEAD, NOW, None), view.Chain.TRUNCATED, "the last record is 7"),
        (StreamBounds(None, HEAD, NOW, None), view.Chain.TRUNCATED, "the last record is 0"),
        (
            StreamBounds(LAST, HEAD, NOW, replace(THERE, chain_hash=b"?" * 32)),
            view.Chain.REPLACED,
            "differs from the record signed",
        ),
        (StreamBounds(LAST, HEAD, NOW, None), view.Chain.REPLACED, "differs from the record signed"),
    ],
)
def test_the_newest_checkpoint_determines_the_chain_state(ends, chain, said):
    status = view.status(ends, None if ends.signed is None else VALID, NOW)
    assert status.chain is chain
    assert said in status.said
    assert status.alarming is (chain in {view.Chain.TRUNCATED, view.Chain.REPLACED})
    assert (status.signature, status.fingerprint) == (("Verified", "f" * 64) if ends.signed else ("", ""))


def test_an_invalid_checkpoint_signature_is_alarming_with_its_reason():
    ends = StreamBounds(LAST, HEAD, NOW, THERE)
    status = view.status(ends, replace(VALID, problem="the signature is not by the public key"), NOW)
    assert (status.chain, status.alarming, status.signature) == (view.Chain.FORGED, True, "Not verified")
    assert "over record 8 does not verify: the signature is not by the public key." in status.said


def test_the_status_formats_its_numbers():
    status = view.status(StreamBounds(replace(LAST, seq=1_000_000), HEAD, NOW, THERE), VALID, NOW)
    assert (status.records, status.signed, status.head) == ("1,000,000", "8", (b"l" * 32).hex())


def test_a_verification_states_its_result_and_its_limits():
    assert view.verdict(1_000, 990, 2.04, NOW) == (
        "1,000 records verified in 2.0 s, 25 Nov 2026, 12:00 UTC: no record is missing, altered or out of order."
        " The newest checkpoint, of record 990, and its signature are verified."
    )
    assert "missing records at the end would not be detected" in view.verdict(1, 0, 0.1, NOW)


@pytest.mark.parametrize(
    ("shown", "rest", "backwards", "said"),
    [
        (
            2,
            range(1, 101),
            True,
            "2 matching records so far; searched back to record 101, 100 older records not searched.",
        ),
        (
            1,
            range(50, 51),
            False,
            "1 matching record so far; searched forward to record 49, 1 newer record not searched.",
        ),
        (0, range(1, 2), True, "No matching records so far; searched back to record 2, 1 older record not searched."),
    ],
)
def test_an_incomplete_search_shows_its_progress(shown, rest, backwards, said):
    assert view.search_progress(shown, rest, backwards=backwards) == said


def test_a_zone_that_the_browser_invents_shows_no_local_time():
    for zone in (None, "", "Nowhere/City", "../../etc/passwd", "\0"):
        assert view.row(found(), zone).local == ""


@pytest.mark.parametrize("count", ["", "x", "-1", "9" * 40, "\u0663"])
def test_a_count_that_is_no_number_counts_as_one(count):
    assert view.row(found(details={"count": count})).times == 1
