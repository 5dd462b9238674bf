import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors.requests import MalformedEvent
from core.tenants.provisioning import EventKind, MarketplaceEvent
from marketplace.events.parse import read_event
from openkcm.errors import CallerError
from tests.marketplace.conftest import an_event

REGIONS = ("eu-west-1",)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
KNOWN = st.sampled_from([*an_event(), "specversion", "data", "id", "type", "source", "time", "data_base64"])
EVENTLIKE = st.dictionaries(KNOWN, JSON | st.sampled_from(["1.0", "0.3", an_event(), *an_event().values()]))
HEADERS = st.dictionaries(st.sampled_from(["ce-specversion", "ce-type", "ce-id", "ce-time", "content-type"]), st.text())


def read(body: bytes, headers: dict[str, str] | None = None) -> MarketplaceEvent:
    return read_event(body, headers or {}, "msg_1", REGIONS)


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()), HEADERS)
def test_any_bytes_are_parsed_or_raise_caller_error(body, headers):
    with suppress(CallerError):
        read(body, headers)


@given(EVENTLIKE, HEADERS)
def test_any_event_like_object_is_parsed_or_raises_caller_error(fields, headers):
    try:
        event = read(json.dumps(fields).encode(), headers)
    except CallerError:
        return
    assert event.organization.isprintable()
    assert event.timestamp.tzinfo is not None


def test_unknown_fields_are_ignored():
    assert read(json.dumps(an_event(invoice=7)).encode()).kind is EventKind.SERVICE_ENABLED


def test_structured_event_may_have_kind_and_time_in_its_attributes():
    envelope = {
        "specversion": "1.0",
        "id": "1",
        "source": "/m",
        "type": "io.openkcm.marketplace.service_disabled",
        "time": "2026-01-15T10:30:00Z",
        "data": an_event(event=None, timestamp=None),
    }
    assert read(json.dumps(envelope).encode()).kind is EventKind.SERVICE_DISABLED


def test_structured_event_with_contradicting_kinds_is_rejected():
    envelope = {"specversion": "1.0", "id": "1", "source": "/m", "type": "service_disabled", "data": an_event()}
    with pytest.raises(MalformedEvent, match="different kinds"):
        read(json.dumps(envelope).encode())


def test_binary_event_must_repeat_its_kind_in_the_signed_body():
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/m", "ce-type": "service_enabled"}
    with pytest.raises(MalformedEvent, match="not signed"):
        read(json.dumps(an_event(event=None)).encode(), headers)
