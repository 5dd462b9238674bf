"""Which spans a process records, what a client can cause, and the export to a real receiver."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from config.settings import Settings
from config.tracing import SamplingTracer, open_tracer
from core.errors.platform import VaultUnavailable
from core.tracing.spans import CLIENT, SERVER, TraceContext, child_span, note_error, outgoing
from tests.ports import free_ports
from tests.tracing.collector import Collector, tracer_into

SECRET = "hvs.CAESIJx7secret"
SENT = TraceContext("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", sampled=True)
PROCESSES = ("marketplace", "worker", "crypto_service", "dashboard")


def test_a_span_has_the_parent_that_was_sent_and_its_children_follow():
    spans = []
    with tracer_into(spans).span("https encrypt", SERVER, SENT, inherits=False) as request, child_span("unwrap"):
        assert outgoing() == f"00-{SENT.trace_id}-{outgoing().split('-')[2]}-01"
    child, recorded = spans
    assert recorded is request
    assert (recorded.context.trace_id, recorded.parent_id) == (SENT.trace_id, SENT.span_id)
    assert (child.context.trace_id, child.parent_id) == (SENT.trace_id, request.context.span_id)
    assert request.start <= child.start <= child.end <= request.end
    assert outgoing() == ""


def test_an_error_sets_a_code_and_leaves_no_text():
    spans = []
    with pytest.raises(VaultUnavailable), tracer_into(spans).span("activity", SERVER, SENT):
        raise VaultUnavailable(SECRET)
    with pytest.raises(ValueError, match=SECRET), tracer_into(spans).span("activity", SERVER, SENT):
        raise ValueError(SECRET)
    with tracer_into(spans).span("kmip get", SERVER, None):
        note_error("object_not_found")
    assert [one.error for one in spans] == ["vault_unavailable", "ValueError", "object_not_found"]
    assert SECRET not in repr(spans)


@pytest.mark.parametrize("ratio", [0.0, 0.25, 1.0])
def test_a_ratio_records_that_part_and_the_same_traces_in_each_process(ratio):
    ids = [SENT._replace(trace_id=f"{SENT.trace_id[:16]}{number * 2**50:016x}", sampled=False) for number in range(64)]
    recorded = []
    for _process in range(2):
        spans = []
        tracer = tracer_into(spans, ratio)
        for one in ids:
            with tracer.span("request", SERVER, one, inherits=False):
                pass
        recorded.append({one.context.trace_id for one in spans})
    assert recorded[0] == recorded[1]
    assert abs(len(recorded[0]) - 64 * ratio) <= 2


def test_a_sampled_flag_of_a_client_has_no_effect():
    spans = []
    tracer = tracer_into(spans, 0.0)
    with tracer.span("request", SERVER, SENT, inherits=False), child_span("unwrap"):
        assert outgoing().endswith("-00")
    assert spans == []


def test_a_flood_of_recorded_traces_is_cut_and_later_requests_are_recorded_again():
    now, spans = [0.0], []
    tracer = SamplingTracer(spans.append, lambda: None, 1.0, lambda: now[0])

    def flood() -> int:
        before = len(spans)
        for _ in range(1000):
            with tracer.span("request", SERVER, SENT, inherits=False):
                pass
        return len(spans) - before

    assert flood() == 100
    assert flood() == 0
    now[0] = 0.5
    assert flood() == 50
    with tracer.span("activity", SERVER, SENT):  # inside the platform the parent decides
        pass
    assert spans[-1].name == "activity"


def test_without_an_endpoint_there_is_no_tracer():
    assert open_tracer(Settings(), "worker") is None


@pytest.mark.parametrize(
    "address",
    [
        *("collector:4318", "ftp://collector", "http://", "https://user:secret@collector", "http://:secret@collector"),
        *("https://collector?token=secret", "https://collector#secret"),
    ],
)
def test_an_address_with_credentials_is_rejected(address):
    with pytest.raises(ValueError, match=r"an http or https address|without query"):
        Settings(otlp_endpoint=address)


@pytest.mark.integration
@pytest.mark.parametrize("process", PROCESSES)
def test_without_an_endpoint_a_process_loads_no_sdk(process):
    code = (
        "import sys; from config.settings import Settings; from config.tracing import open_tracer\n"
        f"import {process}.__main__\n"
        f"assert open_tracer(Settings(), {process!r}) is None\n"
        "loaded = [name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))]\n"
        "sys.exit(f'loaded: {loaded}' if loaded else 0)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.integration
def test_a_real_receiver_gets_the_spans_and_nothing_about_the_machine():
    prepared = []
    with Collector() as collector:
        settings = Settings(otlp_endpoint=f"{collector.url}/")
        tracer = open_tracer(settings, "worker", lambda: prepared.append(True))
        assert tracer is not None

        def fail() -> None:
            with tracer.span("activity create-keys", SERVER, SENT) as outer:
                outer.attributes["openkcm.attempt"] = 2
                with tracer.span("request", CLIENT, outer.context):
                    pass
                raise ValueError(SECRET)

        with pytest.raises(ValueError, match=SECRET):
            fail()
        tracer.close()
        inner, outer = sorted(collector.spans, key=lambda one: one.span.start_time_unix_nano, reverse=True)
    assert prepared == [True]
    assert inner.process == outer.process == "openkcm-worker"
    assert outer.trace_id == inner.trace_id == SENT.trace_id
    assert (outer.span.parent_span_id.hex(), inner.span.parent_span_id) == (SENT.span_id, outer.span.span_id)
    assert outer.attributes == {"openkcm.attempt": 2, "error.type": "ValueError"}
    assert (outer.span.status.code, outer.span.status.message, len(outer.span.events)) == (2, "", 0)
    exported = b"".join(collector.bodies)
    assert SECRET.encode() not in exported
    for private in ("process.command", "host.name", sys.executable, "Traceback", __file__):
        assert private.encode() not in exported


@pytest.mark.integration
@pytest.mark.parametrize("fault", ["refuses connections", "hangs"])
def test_a_receiver_that_is_down_costs_no_request_no_memory_and_no_long_stop(fault, caplog):
    with Collector() as collector:
        collector.hold.clear()
        address = collector.url if fault == "hangs" else f"http://127.0.0.1:{free_ports(1)[0]}"
        tracer = open_tracer(Settings(otlp_endpoint=address), "crypto")
        assert tracer is not None
        slowest = 0.0
        for _ in range(5000):  # more than the queue holds
            began = time.perf_counter()
            with tracer.span("activity", SERVER, SENT):
                pass
            slowest = max(slowest, time.perf_counter() - began)
        began = time.perf_counter()
        tracer.close()
        assert time.perf_counter() - began < 5
        assert slowest < 1  # a wait for the collector lasts its timeout of two seconds
    assert len(caplog.records) < 50
