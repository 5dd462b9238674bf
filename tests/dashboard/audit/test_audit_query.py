from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.audit import AuditFilter
from core.errors.services import InvalidRequest
from dashboard.audit import view as audit_query
from dashboard.audit.view import choices

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
MOMENTS = st.none() | st.datetimes(timezones=st.just(UTC))


@given(
    st.builds(
        AuditFilter,
        names=st.frozensets(st.sampled_from(choices()), max_size=4),
        outcomes=st.frozensets(st.sampled_from(["success", "refused", "failure", "intended"])),
        services=st.frozensets(TEXT, max_size=2),
        operations=st.frozensets(st.sampled_from(["encrypt", "decrypt"])),
        actor=TEXT,
        subject=TEXT,
        text=TEXT,
        since=MOMENTS,
        until=MOMENTS,
    )
)
def test_a_filter_survives_encoding_and_decoding(chosen):
    query = audit_query.encode(chosen)
    assert query.isascii()
    assert audit_query.decode(query) == chosen


def test_an_empty_query_selects_all_records():
    assert audit_query.decode("") == AuditFilter()
    assert audit_query.encode(AuditFilter()) == ""


@pytest.mark.parametrize(
    "query",
    [
        "name=nothing",
        "name=",
        "outcome=odd",
        "operation=odd",
        "since=yesterday",
        "until=2026-11-25T12:00:00",
        "since=2026-11-25T12:00:00Z&since=2026-11-25T12:00:00Z",
        "text=a&text=b",
        f"text={'x' * 201}",
        "tenant=beta",
        "tenant_id=beta",
        "x",
    ],
)
def test_an_unknown_or_invalid_query_is_rejected(query):
    with pytest.raises(InvalidRequest):
        audit_query.decode(query)


def test_a_time_in_another_zone_is_converted_to_utc():
    chosen = audit_query.decode("since=2026-11-25T13:00:00%2B01:00")
    assert chosen.since == datetime(2026, 11, 25, 12, tzinfo=UTC)
