import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors.platform import VaultUnavailable
from core.tracing.spans import TraceContext, child_span, current, error_of, note_error, outgoing, parse

CONTEXT = TraceContext("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", sampled=True)
HEADER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_a_traceparent_is_read_and_written_as_the_standard_shows():
    assert parse(HEADER) == parse(HEADER.encode()) == CONTEXT
    assert CONTEXT.header == HEADER
    assert parse(HEADER[:-1] + "0") == CONTEXT._replace(sampled=False)


@pytest.mark.parametrize(
    "malformed",
    [
        *(None, "", b"", "garbage", HEADER[:-1], HEADER + "0", HEADER + "-00", HEADER.upper(), " " + HEADER),
        HEADER + "\n",
        "ff" + HEADER[2:],
        HEADER.replace(CONTEXT.trace_id, "0" * 32),
        HEADER.replace(CONTEXT.span_id, "0" * 16),
        HEADER.encode() + b"\xff",
        HEADER + "a" * 100_000,
    ],
)
def test_a_malformed_traceparent_is_no_parent(malformed):
    assert parse(malformed) is None


@given(st.text(max_size=80) | st.binary(max_size=80))
def test_no_header_makes_the_reader_fail(header):
    found = parse(header)
    assert found is None or parse(found.header) == found


def test_the_context_of_a_run_is_the_same_in_each_replay_and_differs_between_runs():
    assert CONTEXT.child("run-1") == CONTEXT.child("run-1")
    assert len({CONTEXT.span_id, CONTEXT.child("run-1").span_id, CONTEXT.child("run-2").span_id}) == 3
    assert parse(CONTEXT.child("run-1").header) == CONTEXT.child("run-1")


def test_without_a_trace_nothing_is_sent_or_recorded():
    with child_span("root key unwrap"):
        note_error("internal")
        assert current.get() is None
    assert outgoing() == ""


@pytest.mark.parametrize(
    ("failed", "code"),
    [
        (VaultUnavailable(), "vault_unavailable"),
        (ValueError("hvs.secret"), "ValueError"),
        (asyncio.CancelledError("hvs.secret"), "cancelled"),
    ],
)
def test_an_error_is_named_by_its_code_or_class_and_never_by_its_text(failed, code):
    assert error_of(failed) == code
