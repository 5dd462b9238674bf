"""Validation of bodies: what a valid request may contain, and what would take long to validate."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors.services import InvalidRequest
from crypto_service.https import schemas as api

PLAIN = base64.b64encode(bytes(3_000)).decode()
resources = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=api.RESOURCE_CHARACTERS)


@given(resources, st.sampled_from(["ascii", "utf-8"]))
def test_every_resource_is_accepted_beside_a_large_plaintext(resource: str, encoding: str):
    body = json.dumps({"resource": resource, "plaintext": PLAIN}, ensure_ascii=encoding == "ascii").encode()
    assert api.parse(api.EncryptRequest, body).resource == resource


@pytest.mark.parametrize(
    ("sign", "items"), [*((sign, api.BATCH_ITEMS) for sign in "/,:{["), *((s, 60) for s in '"\\\n')]
)
def test_large_batch_is_accepted_for_every_resource(sign: str, items: int):
    item = {"resource": sign * api.RESOURCE_CHARACTERS, "plaintext": "AAAA", "wrapped_only": True}
    body = json.dumps({"items": [item] * items}).encode()
    assert api.parse(api.BatchRequest, body).items == [item] * items


def test_largest_heartbeat_is_accepted():
    counts = dict.fromkeys(("operations", "bytes", "microseconds", "requests", "request_microseconds"), 10**12)
    body = {
        "instance": "host-1",
        "agent_version": "1.0",
        "not_after": "2030-01-01T00:00:00Z",
        "uses": [counts | {"place": "p" * 200}] * api.USES,
        "backfills": [{"place": "p" * 200, "done": 1, "remaining": 1, "state": "running"}] * api.USES,
    }
    assert len(api.parse(api.HeartbeatRequest, json.dumps(body).encode()).uses) == api.USES


ATTACKS = {
    "unknown fields": b"{" + b",".join(b'"a%d":1' % number for number in range(100_000)) + b"}",
    "fewer unknown fields": b"{" + b",".join(b'"a%d" : 1' % number for number in range(9_000)) + b"}",
    "unknown fields of an item": b'{"items":[{' + b",".join(b'"%d":1' % number for number in range(500)) + b"}]}",
    "unknown fields beside objects": b'{"a":[{}],' + b",".join(b'"%d":[1]' % number for number in range(500)) + b"}",
    "numbers": b'{"items":[' + b",".join([b"1"] * 500_000) + b"]}",
    "texts": b'{"items":[' + b",".join([b'""'] * 300_000) + b"]}",
    "lists": b'{"items":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "objects behind an escaped quote": b'{"a":"\\"","items":[' + b",".join([b"{}"] * 300_000) + b"]}",
    "objects behind an escaped backslash": b'{"a":"\\\\","items":[' + b",".join([b"{}"] * 300_000) + b"]}",
    "escape sequences": b'{"resource":"' + b"\\u0041" * 170_000 + b'"}',
    "quotes": b'"' * 1_000_000,
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_bodies_that_take_long_to_validate_are_rejected_before(attack: str):
    with pytest.raises(InvalidRequest, match="too many"):
        api.parse(api.BatchRequest, ATTACKS[attack])


def a_heartbeat_until(end: str) -> bytes:
    return json.dumps({"instance": "db-1", "agent_version": "0.1.0", "not_after": end}).encode()


@pytest.mark.parametrize(
    "end",
    [
        "0001-01-01T00:00:00+01:00",  # the year 1 BC in UTC
        "0001-01-01T00:00:00Z",
        "1999-12-31T23:59:59Z",
        "2200-01-01T00:00:01Z",
        "9999-12-31T23:59:59Z",
        "9999-12-31T23:59:59-01:00",  # the year 10000 in UTC
        -(10**11),
        10**15,
    ],
)
def test_heartbeat_with_an_impossible_end_of_certificate_is_rejected(end: str):
    with pytest.raises(InvalidRequest, match=r"^not_after (must be a time from 2000-01-01 to 2200-01-01|is not valid)"):
        api.parse(api.HeartbeatRequest, a_heartbeat_until(end))


@pytest.mark.parametrize("end", ["2000-01-01T00:00:00Z", "2026-12-01T00:00:00+14:00", "2200-01-01T00:00:00Z"])
def test_heartbeat_with_a_possible_end_of_certificate_is_accepted(end: str):
    assert api.parse(api.HeartbeatRequest, a_heartbeat_until(end)).not_after is not None


def test_errors_of_a_heartbeat_end_with_the_first_place():
    with pytest.raises(InvalidRequest, match=r"^uses\.0\.place is missing"):
        api.parse(api.HeartbeatRequest, json.dumps({"uses": [{}] * api.USES}).encode())


_USE = dict.fromkeys(("operations", "bytes", "microseconds", "requests", "request_microseconds"), 1) | {"place": "p"}
_BACKFILL = {"place": "p", "done": 1, "remaining": 1, "state": "running"}


@pytest.mark.parametrize(
    ("model", "body", "message"),
    [
        (api.HeartbeatRequest, {"uses": [_USE] * 501}, "uses must have at most 500 items"),
        (api.HeartbeatRequest, {"backfills": [_BACKFILL] * 600}, "backfills must have at most 500 items"),
        (api.BatchRequest, {"items": [1] * 1001}, "items must have at most 1000 items"),
        (api.EncryptRequest, {"plaintext": "", "resource": "a" * 513}, "resource must have at most 512 characters"),
    ],
)
def test_error_states_the_limit_of_its_field(model: type[api.Request], body: object, message: str):
    with pytest.raises(InvalidRequest, match=f"^{message}$"):
        api.parse(model, json.dumps(body).encode())
