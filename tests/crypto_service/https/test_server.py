import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.errors import platform as errors
from core.tenants.lifecycle import State
from tests.concurrency import wait_until
from tests.crypto_service.authority import root, tenant_authority
from tests.crypto_service.https.stage import BODY_LIMIT, SERVICE, TENANT, Stage
from tests.crypto_service.https.wire import CHUNKED, Reply, Wire, encrypt_body, get, post
from tests.crypto_service.reference_cycles import fewer_objects_in_cycles_than

pytestmark = pytest.mark.integration


@pytest.fixture
def wire(stage: Stage) -> Iterator[Wire]:
    with Wire(stage.dial()) as one:
        yield one


@pytest.fixture
def ask(wire: Wire) -> Callable[..., Reply]:
    def ask(path: str, fields: object) -> Reply:
        wire.send(post(path, json.dumps(fields).encode()))
        return wire.reply()

    return ask


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        ({"plaintext": "aGk="}, "resource is missing"),
        ({"plaintext": "aGk=", "resource": "a", "tenant": "x"}, "tenant is not a field of this operation"),
        ({"plaintext": "hunter2!", "resource": "a"}, "plaintext must be base64 (RFC 4648, section 4)"),
        ({"plaintext": "aGk", "resource": "a"}, "plaintext must be base64 (RFC 4648, section 4)"),
        ({"plaintext": 5, "resource": "a"}, "plaintext must be base64 (RFC 4648, section 4)"),
        ({"plaintext": "aGk=", "resource": ""}, "resource must not be empty"),
        ({"plaintext": "aGk=", "resource": "hunter2" * 100}, "resource must have at most 512 characters"),
        ({"plaintext": "aGk=", "resource": ["hunter2"]}, "resource must be text"),
        (["hunter2"], "the body or item must be a JSON object"),
    ],
)
def test_error_names_the_invalid_field_but_not_its_value(ask: Callable[..., Reply], fields: object, detail: str):
    refused = ask("/v1/encrypt", fields)
    assert refused.status == 400
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json["detail"] == detail
    assert b"hunter2" not in refused.body


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 5000, b'{"resource": "\\ud800"}'])
def test_invalid_json_is_rejected_and_the_connection_continues(wire: Wire, body: bytes):
    wire.send(post("/v1/encrypt", body))
    assert wire.reply().json["detail"] == "the body is not JSON"
    wire.send(get("/healthz"))
    assert wire.reply().json == {"status": "ok"}


def test_unknown_path_method_and_media_type_have_distinct_errors(wire: Wire):
    wire.send(get("/v1/secrets"))
    assert wire.reply().json["code"] == "no_such_path"
    wire.send(get("/v1/encrypt"))
    refused = wire.reply()
    assert (refused.status, refused.headers["allow"]) == (405, "POST")
    wire.send(post("/healthz", b""))
    refused = wire.reply()
    assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")
    wire.send(post("/v1/encrypt", encrypt_body()).replace(b"application/json", b"text/plain"))
    assert wire.reply().status == 415
    wire.send(post("/v1/encrypt", encrypt_body(), "Content-Encoding: gzip"))
    assert wire.reply().status == 415
    wire.send(post("/v1/encrypt", encrypt_body()).replace(b"json", b"json; charset=utf-8"))
    assert wire.reply().status == 200


def test_head_returns_the_head_of_get(wire: Wire):
    wire.send(get("/healthz") + get("/healthz", method="HEAD") + get("/healthz"))
    expected = wire.reply()
    headed = wire.reply(bodiless=True)
    assert (headed.status, headed.headers["content-length"]) == (200, expected.headers["content-length"])
    assert wire.reply().json == {"status": "ok"}


def test_response_to_head_never_has_a_body(wire: Wire):
    for path, status in (("/healthz", 200), ("/v1/encrypt", 405), ("/v1/nothing", 404)):
        head = get(path, "Content-Length: 0", method="HEAD")
        for sent in (head, head, head + head):
            wire.send(sent)
            for _ in range(sent.count(b"HEAD")):
                assert wire.reply(bodiless=True).status == status
    for refused in (
        get("/healthz", "Host: b", method="HEAD"),
        get("/v1/nothing", "Expect: 100-continue", method="HEAD"),
    ):
        wire.send(refused)
        assert wire.reply(bodiless=True).status in {400, 404}
    wire.send(get("/healthz"))
    assert wire.closed()


def test_pipelined_requests_are_answered_in_order(wire: Wire, stage: Stage):
    gate = stage.on_loop(stage.core.hold)
    wire.send(post("/v1/encrypt", encrypt_body()) + get("/v1/secrets") + get("/healthz") * 100)
    assert wire.quiet(0.05)
    stage.on_loop(gate.set)
    assert [wire.reply().status for _ in range(102)] == [200, 404, *[200] * 100]


def test_pipelined_requests_are_parsed_when_they_can_be_answered(wire: Wire, stage: Stage):
    """The attack: thousands of requests at once, whose parsing alone would delay all tenants."""
    gate = stage.on_loop(stage.core.hold)
    wire.send(post("/v1/encrypt", encrypt_body()) + get("/healthz") * 3000)
    assert wire.quiet(0.05)
    assert 0 < max(stage.on_loop(lambda: [len(one._queue) for one in stage.connections._open])) < 200
    stage.on_loop(gate.set)
    assert [wire.reply().status for _ in range(3001)] == [200] * 3001


def test_connection_that_ends_before_its_response_holds_no_bytes_afterwards(stage: Stage):
    """The attack: bytes that stay counted would fill the limit of the tenant, and then that of the process."""
    gate = stage.on_loop(stage.core.hold)
    with Wire(stage.dial()) as wire:
        incomplete = post("/v1/encrypt", bytes(60_000))[:50_000]
        wire.send(post("/v1/encrypt", encrypt_body()) + incomplete)
        wait_until(lambda: stage.connections.held > 40_000, seconds=10)
    wait_until(lambda: len(stage.connections) == 0, seconds=10)
    stage.on_loop(gate.set)
    wait_until(lambda: not stage.on_loop(lambda: stage.connections.tasks), seconds=10)
    assert stage.connections.held == 0


def test_expect_100_gets_continue_or_the_rejection_before_the_body(wire: Wire):
    head, _, body = post("/v1/encrypt", encrypt_body(), "Expect: 100-continue").partition(b"\r\n\r\n")
    wire.send(head + b"\r\n\r\n")
    assert wire.reply().status == 100
    wire.send(body)
    assert wire.reply().status == 200
    wire.send(post("/v1/nothing", b"x" * 10, "Expect: 100-continue").partition(b"xxx")[0])
    assert wire.reply().status == 404


@pytest.mark.parametrize(
    "sent",
    [
        post("/v1/encrypt", b" " * (2 * BODY_LIMIT)),
        post("/v1/encrypt", b" " * (2 * BODY_LIMIT))[:1000],
        CHUNKED + 3 * (b"8000\r\n" + b" " * 0x8000 + b"\r\n"),
    ],
    ids=["whole", "announced", "chunked"],
)
def test_body_over_the_limit_is_rejected_before_it_is_complete(wire: Wire, sent: bytes):
    wire.send(sent)
    refused = wire.reply()
    assert (refused.status, refused.headers["connection"]) == (413, "close")
    assert wire.closed()


def test_chunked_body_is_accepted_and_connection_close_obeyed(wire: Wire):
    wire.send(CHUNKED + b"".join(b"1\r\n%c\r\n" % byte for byte in encrypt_body()) + b"0\r\n\r\n")
    assert wire.reply().status == 200
    wire.send(get("/healthz", "Connection: close"))
    assert wire.reply().headers["connection"] == "close"
    assert wire.closed()


def test_valid_request_id_is_kept_and_any_other_is_replaced(wire: Wire, stage: Stage):
    trace = "0af7651916cd43dd8448eb211c80319c"
    wire.send(post("/v1/encrypt", encrypt_body(), "X-Request-Id: order-7"))
    assert wire.reply().headers["x-request-id"] == "order-7"
    wire.send(post("/v1/encrypt", encrypt_body(), f"traceparent: 00-{trace}-b7ad6b7169203331-01"))
    assert wire.reply().headers["x-request-id"] == trace
    wire.send(post("/v1/encrypt", encrypt_body(), "X-Request-Id: a b\tc"))
    made = wire.reply().headers["x-request-id"]
    assert len(made) == 32
    entries = stage.on_loop(lambda: stage.core.entries)
    assert [(entry.operation, entry.correlation_id) for entry in entries] == [
        ("encrypt", "order-7"),
        ("encrypt", trace),
        ("encrypt", made),
    ]


def test_revoked_caller_is_rejected_and_its_connection_closed(wire: Wire, stage: Stage):
    wire.send(get("/healthz"))
    assert wire.reply().status == 200
    stage.on_loop(lambda: stage.core.revoke(stage.leaf.serial))
    wire.send(post("/v1/encrypt", encrypt_body()))
    refused = wire.reply()
    assert (refused.status, refused.json["code"]) == (403, "client_not_authorized")
    assert wire.closed()
    with Wire(stage.dial()) as again:
        again.send(get("/healthz"))
        assert again.reply().json["code"] == "client_not_authorized"
        assert again.closed()
    with Wire(stage.dial()) as again:
        again.send(get("/healthz", method="HEAD"))
        assert again.reply(bodiless=True).status == 403
        assert again.closed()
    assert stage.on_loop(lambda: stage.core.asked) == []


@pytest.mark.parametrize("state", [State.LOCKED, State.LEAVING])
def test_locked_tenant_can_fetch_only_its_certificate_on_a_new_connection(stage: Stage, state: State):
    stage.on_loop(lambda: stage.core.move(TENANT, state))
    others = [
        *(get(path) for path in ("/healthz", "/openapi.json", "/.well-known/openkcm", "/.well-known/openkcm/crl")),
        *(post(path, encrypt_body()) for path in ("/v1/encrypt", "/v1/certificate", "/v1/data-keys")),
        get("/v1/certificate?service=billing"),
        b"GET /v1/certificate HTTP/1.1\r\n",
    ]
    for request in others:
        with Wire(stage.dial()) as wire:
            wire.send(request)
            refused = wire.reply()
            assert (refused.status, refused.json["code"]) == (403, "tenant_not_operational")
            assert wire.closed()
    with Wire(stage.dial()) as wire:
        wire.send(get("/v1/certificate") + get("/v1/certificate") + post("/v1/encrypt", encrypt_body()))
        answered = wire.reply()
        if state is State.LOCKED:
            assert (answered.status, answered.json["certificate"]) == (200, stage.leaf.pem)
        else:
            assert (answered.status, answered.json["code"]) == (403, "tenant_not_operational")
        assert wire.closed()
    assert stage.certificates.asked == ([SERVICE] if state is State.LOCKED else [])
    assert stage.on_loop(lambda: stage.core.asked) == []


@pytest.mark.parametrize("state", [State.LOCKED, State.LEAVING])
def test_locked_tenant_can_fetch_only_its_certificate_on_an_open_connection(wire: Wire, stage: Stage, state: State):
    wire.send(get("/healthz"))
    assert wire.reply().status == 200
    stage.on_loop(lambda: stage.core.move(TENANT, state))
    for request in (get("/healthz"), post("/v1/encrypt", encrypt_body()), post("/v1/certificate", b"{}")):
        wire.send(request)
        refused = wire.reply()
        assert (refused.status, refused.json["code"]) == (403, "tenant_not_operational")
    wire.send(get("/v1/certificate") + post("/v1/encrypt", encrypt_body()))
    answered, refused = wire.reply(), wire.reply()
    if state is State.LOCKED:
        assert (answered.status, answered.json["certificate"]) == (200, stage.leaf.pem)
    else:
        assert (answered.status, answered.json["code"]) == (403, "tenant_not_operational")
    assert (refused.status, refused.json["code"]) == (403, "tenant_not_operational")
    assert stage.on_loop(lambda: stage.core.asked) == []


def test_lock_answers_pending_requests_with_an_error_and_ends_connections(wire: Wire, stage: Stage):
    """A client that holds an idle connection is notified by its end; nothing that was decrypted before is sent."""
    with Wire(stage.dial()) as idle:
        idle.send(get("/healthz"))
        assert idle.reply().status == 200
        gate = stage.on_loop(stage.core.hold)
        wire.send(post("/v1/encrypt", encrypt_body()) + post("/v1/encrypt", encrypt_body()))
        wait_until(lambda: len(stage.on_loop(lambda: list(stage.core.asked))) == 1)
        stage.on_loop(lambda: stage.core.move(TENANT, State.LOCKED))
        stage.on_loop(lambda: stage.connections.forget(None))
        assert idle.closed()
        stage.on_loop(gate.set)
        for _ in range(2):
            refused = wire.reply()
            assert (refused.status, refused.json["code"]) == (403, "tenant_not_operational")
        assert wire.closed()
        assert len(stage.on_loop(lambda: list(stage.core.asked))) == 1


def test_result_that_waits_for_its_audit_entry_is_not_sent_after_a_lock(wire: Wire, stage: Stage):
    wire.send(get("/healthz"))
    assert wire.reply().status == 200
    gate = stage.on_loop(stage.core.hold_journal)
    wire.send(post("/v1/encrypt", encrypt_body()))
    wait_until(lambda: len(stage.on_loop(lambda: list(stage.core.entries))) == 1)
    stage.on_loop(lambda: stage.core.move(TENANT, State.LOCKED))
    stage.on_loop(lambda: stage.connections.forget(None))
    wait_until(lambda: stage.on_loop(lambda: stage.connections.refused) == 1)
    stage.on_loop(gate.set)
    refused = wire.reply()
    assert (refused.status, refused.json["code"]) == (403, "tenant_not_operational")
    assert wire.closed()


@pytest.mark.parametrize("cause", ["failing journal", "stop"])
def test_connection_ends_with_the_response_before_the_client_needs_another_instance(
    wire: Wire, stage: Stage, cause: str
):
    wire.send(get("/healthz"))
    assert "connection" not in wire.reply().headers
    if cause == "stop":
        stage.on_loop(stage.connections.end_after_responses)
    else:
        stage.on_loop(lambda: setattr(stage.core, "is_failing", True))
    wire.send(post("/v1/encrypt", encrypt_body()))
    assert wire.reply().headers["connection"] == "close"
    assert wire.closed()


def test_too_many_requests_get_retry_after(tmp_path: Path):
    with Stage(tmp_path, rate=2) as stage, Wire(stage.dial()) as wire:
        wire.send(get("/healthz") + get("/v1/secrets") + get("/healthz"))  # a rejected request counts too
        assert [wire.reply().status for _ in range(2)] == [200, 404]
        refused = wire.reply()
        assert (refused.status, refused.json["code"], refused.headers["retry-after"]) == (429, "too_many_requests", "1")


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (post("/v1/encrypt", encrypt_body()), 200),
        (get("/v1/secrets"), 404),
        (post("/v1/encrypt", b"{"), 400),
        (post("/v1/decrypt", b'{"ciphertext": "okcm:v1:AAAA", "resource": "a"}'), 422),
        (post("/v1/encrypt:batch", b'{"items": [{"plaintext": "?", "resource": "a"}, 7]}'), 200),
    ],
)
def test_requests_leave_no_reference_cycles(wire: Wire, request_bytes: bytes, status: int):
    with fewer_objects_in_cycles_than(100):
        for _ in range(100):
            wire.send(request_bytes)
            assert wire.reply().status == status


@pytest.mark.parametrize("sent", [b"", b"GET /", get("/v1/secrets"), post("/v1/encrypt", encrypt_body())])
def test_ended_connections_leave_no_reference_cycles(stage: Stage, sent: bytes):
    def connect() -> None:
        with Wire(stage.dial()) as wire:
            wire.send(sent)
            if sent.endswith(b"}"):
                wire.reply()
        wait_until(lambda: stage.on_loop(lambda: not len(stage.connections)))

    connect()
    with fewer_objects_in_cycles_than(20):
        for _ in range(20):
            connect()


def test_requests_of_a_locked_tenant_leave_no_reference_cycles(wire: Wire, stage: Stage):
    wire.send(get("/healthz"))
    assert wire.reply().status == 200
    stage.on_loop(lambda: stage.core.move(TENANT, State.LOCKED))
    with fewer_objects_in_cycles_than(100):
        for _ in range(100):
            wire.send(get("/healthz"))
            assert wire.reply().status == 403


def test_requests_above_the_rate_leave_no_reference_cycles(tmp_path: Path):
    with Stage(tmp_path, rate=1) as stage, Wire(stage.dial()) as wire:
        wire.send(get("/healthz"))
        assert wire.reply().status == 200
        with fewer_objects_in_cycles_than(100):
            wire.send(get("/healthz") * 100)
            assert 429 in {wire.reply().status for _ in range(100)}


def test_batch_counts_its_items_and_one_concurrent_request(tmp_path: Path):
    with Stage(tmp_path, rate=10, places=1) as stage, Wire(stage.dial()) as wire:
        item = {"plaintext": "aGk=", "resource": "a"}
        for expected in (200, 429):
            wire.send(post("/v1/encrypt:batch", json.dumps({"items": [item] * 8}).encode()))
            assert wire.reply().status == expected


@pytest.mark.parametrize(("rate", "seconds"), [(5, 200), (50, 20), (500, 2)])
def test_largest_batch_is_admitted_at_a_low_rate_and_the_next_after_its_cost(tmp_path: Path, rate: int, seconds: int):
    batch = json.dumps({"items": [{"resource": "a", "wrapped_only": True}] * 1000}).encode()
    with Stage(tmp_path, rate=rate) as stage, Wire(stage.dial()) as wire:
        wire.send(post("/v1/data-keys:batch", batch))
        assert wire.reply().status == 200
        wire.send(post("/v1/data-keys:batch", batch))
        refused = wire.reply()
        assert (refused.status, int(refused.headers["retry-after"]) in {seconds - 1, seconds}) == (429, True)


def test_rejected_or_failed_request_releases_its_concurrency(tmp_path: Path):
    with Stage(tmp_path, places=1) as stage, Wire(stage.dial()) as wire:
        stage.on_loop(lambda: stage.core.failing.extend([errors.VaultUnavailable(), RuntimeError("broken")]))
        wire.send(post("/v1/encrypt", encrypt_body()) * 2 + post("/v1/encrypt", b"{}") + get("/healthz"))
        assert [wire.reply().status for _ in range(4)] == [503, 500, 400, 200]


def test_batch_returns_each_item_in_order(ask: Callable[..., Reply]):
    items = [{"plaintext": _text(b"one"), "resource": "a"}, {"plaintext": "?", "resource": "a"}, 7]
    answered = ask("/v1/encrypt:batch", {"items": [*items, {"plaintext": _text(b"two"), "resource": "b"}]}).json
    assert answered["refused"] == 2
    first, second, third, fourth = answered["items"]
    assert second["problem"]["detail"].startswith("plaintext must be base64")
    assert third["problem"]["code"] == "invalid_request"
    ciphertexts = [{"ciphertext": one["ciphertext"], "resource": where} for one, where in ((first, "a"), (fourth, "b"))]
    plaintexts = ask("/v1/decrypt:batch", {"items": ciphertexts}).json
    assert plaintexts == {"items": [{"plaintext": _text(b"one")}, {"plaintext": _text(b"two")}], "refused": 0}


def test_batch_accepts_1_to_1000_items(ask: Callable[..., Reply]):
    answered = ask("/v1/data-keys:batch", {"items": [{"resource": f"r{n}", "wrapped_only": True} for n in range(1000)]})
    assert len({item["wrapped"] for item in answered.json["items"]}) == 1000
    for count, detail in ((0, "must not be empty"), (1001, "must have at most 1000 items")):
        assert ask("/v1/rewrap:batch", {"items": [1] * count}).json["detail"] == f"items {detail}"


def test_batch_stops_at_an_unavailable_server_and_keeps_earlier_results(ask: Callable[..., Reply], stage: Stage):
    items = {"items": [{"plaintext": "aGk=", "resource": "a"}] * 3}
    stage.on_loop(lambda: stage.core.failing.extend([errors.VaultUnavailable(), None, errors.VaultUnavailable()]))
    whole = ask("/v1/encrypt:batch", items)
    assert (whole.status, whole.json["code"]) == (503, "vault_unavailable")
    answered = ask("/v1/encrypt:batch", items)
    assert (answered.status, answered.json["refused"]) == (200, 2)
    assert [set(one) for one in answered.json["items"]] == [{"ciphertext"}, {"problem"}, {"problem"}]
    assert stage.on_loop(lambda: len(stage.core.asked)) == 3


def test_caller_gets_its_newest_certificate_and_name(wire: Wire, stage: Stage):
    wire.send(get("/v1/certificate") + get("/.well-known/openkcm"))
    answered = wire.reply().json
    assert answered["certificate"] == stage.leaf.pem
    assert answered["chain"] == tenant_authority(TENANT).pem + root().pem
    assert stage.certificates.asked == [SERVICE]
    assert wire.reply().json["caller"] == {"tenant_id": TENANT, "service": SERVICE, "region": "eu-west-1"}
