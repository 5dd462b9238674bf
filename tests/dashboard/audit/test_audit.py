import json
from dataclasses import replace
from datetime import UTC, date, datetime

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
    "details": {"operation": "get", "count": 7},
}


def found(text: str | None = None, previous: bytes | None = GENESIS, **changed: object) -> FoundRecord:
    text = json.dumps(FIELDS | changed) if text is None else text
    return FoundRecord(StoredRecord(1, text, link(GENESIS, text)), previous)


def test_a_record_is_said_in_words_and_with_its_code():
    assert view.row(found(), NOW) == view.Row(
        seq=1,
        time="2026-11-25 11:57:00",
        ago="2 minutes ago",
        what="Use of a key refused",
        code="crypto.refused",
        outcome="Refused",
        actor="orders (service)",
        subject="service/orders",
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
def test_a_record_that_does_not_fit_the_chain_says_so(text, previous):
    assert not view.row(found(text, previous), NOW).linked
    assert not view.details(found(text, previous), NOW).linked


def test_what_is_no_record_is_shown_as_none():
    row = view.row(found("gone"), NOW)
    assert (row.what, row.time, row.ago, row.outcome, row.actor) == ("Not a record", "unknown", "", "", "")
    details = view.details(found("gone", None), NOW)
    assert details.raw == "gone"
    assert details.fields == (
        ("Time", "unknown"),
        ("What happened", "Not a record"),
        ("Chain hash", link(GENESIS, "gone").hex()),
        ("Hash before", "missing"),
    )


def test_fields_of_another_kind_than_ours_are_shown_as_they_are():
    row = view.row(found(name=7, actor=["x"], actor_kind="robot", outcome="odd", time="2026-11-25T11:57:00"), NOW)
    assert (row.what, row.code, row.actor, row.outcome, row.time) == ("7", "7", '["x"] (robot)', "odd", "unknown")
    assert dict(view.details(found(details="x", actor_kind=""), NOW).fields)["Who"] == "orders"


def test_a_record_is_told_whole():
    details = view.details(found(), NOW)
    assert (details.title, details.raw, details.linked) == ("Record 1", json.dumps(FIELDS), True)
    assert details.fields == (
        ("Time", "2026-11-25 11:57:00.000001 UTC (2 minutes ago)"),
        ("What happened", "Use of a key refused"),
        ("Code", "crypto.refused"),
        ("Upstream's word", "unauthorizedRequest"),
        ("Outcome", "Refused"),
        ("Who", "orders (service)"),
        ("Object", "service/orders"),
        ("From", "192.0.2.1"),
        ("Correlation id", "c-1"),
        ("Event id", "e-1"),
        ("Detail: operation", "get"),
        ("Detail: count", "7"),
        ("Chain hash", link(GENESIS, json.dumps(FIELDS)).hex()),
        ("Hash before", GENESIS.hex()),
    )


def test_every_event_can_be_chosen_and_reads_as_words():
    choices = view.choices()
    assert set(map(str, AuditName)) <= set(choices)
    assert len(choices) == len(set(choices))
    for choice in choices:
        label = view.choice_label(choice)
        assert "_" not in label
        assert "." not in label
    assert view.choice_label("crypto.") == "Use of keys: all"
    assert view.choice_label("crypto.key_released") == "Use of keys: key handed to a service"
    assert view.choice_label("marketplace.enable_accepted") == "Marketplace: OpenKCM enabled in the marketplace"


def test_links_are_told_together_and_broken_ones_by_their_numbers():
    row = view.row(found(), NOW)
    assert view.links([row]) == (True, "The link of the shown record to the one before it was checked and holds.")
    whole, said = view.links([row, row])
    assert whole
    assert said == "The links of 2 shown records to the one before each were checked and hold."
    whole, said = view.links([row, replace(row, seq=1234, linked=False)])
    assert not whole
    assert said.startswith("The chain is broken at record 1,234:")
    whole, said = view.links([replace(row, linked=False), replace(row, seq=2, linked=False)])
    assert said.startswith("The chain is broken at records 1 and 2:")


LAST = StoredRecord(10, "x", b"l" * 32)
HEAD = SignedCheckpoint(8, b"s" * 32, "MEUC", "audit:1")
VALID = CheckedSignature("audit:1", "f" * 64)
THERE = StoredRecord(8, "y", b"s" * 32)


@pytest.mark.parametrize(
    ("ends", "chain", "said"),
    [
        (StreamBounds(None, None, None, None), view.Chain.EMPTY, "Nothing is recorded"),
        (StreamBounds(LAST, None, None, None), view.Chain.UNSIGNED, "10 records will be signed within a minute"),
        (
            StreamBounds(LAST, HEAD, NOW, THERE),
            view.Chain.SIGNED,
            "8 on 25 Nov 2026, 12:00 UTC (just now), by the key audit:1; the 2 records after it will be signed within",
        ),
        (StreamBounds(THERE, HEAD, NOW, THERE), view.Chain.SIGNED, "nothing came after it."),
        (StreamBounds(replace(LAST, seq=7), HEAD, NOW, None), view.Chain.TRUNCATED, "the last is 7"),
        (StreamBounds(None, HEAD, NOW, None), view.Chain.TRUNCATED, "the last is 0"),
        (StreamBounds(LAST, HEAD, NOW, replace(THERE, chain_hash=b"?" * 32)), view.Chain.REPLACED, "is not the one"),
        (StreamBounds(LAST, HEAD, NOW, None), view.Chain.REPLACED, "is not the one"),
    ],
)
def test_the_newest_signed_head_says_how_the_chain_stands(ends, chain, said):
    status = view.status(ends, None if ends.signed is None else VALID, NOW)
    assert status.chain is chain
    assert said in status.said
    assert status.alarming is (chain in {view.Chain.TRUNCATED, view.Chain.REPLACED})
    assert (status.signature, status.fingerprint) == (("Verified", "f" * 64) if ends.signed else ("", ""))


def test_a_head_whose_signature_does_not_verify_is_alarming_and_says_why():
    ends = StreamBounds(LAST, HEAD, NOW, THERE)
    status = view.status(ends, replace(VALID, problem="the signature is not by the public key"), NOW)
    assert (status.chain, status.alarming, status.signature) == (view.Chain.FORGED, True, "Not verified")
    assert "over record 8 does not verify: the signature is not by the public key." in status.said


def test_the_status_counts_for_people():
    status = view.status(StreamBounds(replace(LAST, seq=1_000_000), HEAD, NOW, THERE), VALID, NOW)
    assert (status.records, status.signed, status.head) == ("1,000,000", "8", (b"l" * 32).hex())


def test_a_verification_says_what_was_found_and_what_it_cannot_show():
    assert view.verdict(1_000, 990, 2.04, NOW) == (
        "1,000 records verified in 2.0 s, 25 Nov 2026, 12:00 UTC: nothing is missing, altered or out of order."
        " The newest signed head, of record 990, is in its place, and its signature is verified."
    )
    assert "a missing end would not show" in view.verdict(1, 0, 0.1, NOW)


@pytest.mark.parametrize(
    ("shown", "rest", "backwards", "said"),
    [
        (2, range(1, 101), True, "2 records fit so far; looked back to record 101, 100 older records not looked at."),
        (1, range(50, 51), False, "1 record fits so far; looked forward to record 49, 1 newer record not looked at."),
        (0, range(1, 2), True, "No record fits so far; looked back to record 2, 1 older record not looked at."),
    ],
)
def test_a_look_that_was_not_whole_says_how_far_it_went(shown, rest, backwards, said):
    assert view.looked(shown, rest, backwards=backwards) == said


def test_days_are_whole_and_in_utc():
    day = date(2026, 11, 25)
    assert view.day_begins(day) == datetime(2026, 11, 25, tzinfo=UTC)
    assert view.day_ends(day) == datetime(2026, 11, 26, tzinfo=UTC)
    assert (view.day_begins(None), view.day_ends(None), view.day_ends(date.max)) == (None, None, None)
