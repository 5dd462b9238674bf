import asyncio
import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crypto.registry import Bounds
from tenancy import errors
from tenancy.lifecycle import State
from tests.crypto.https.authority import root, tenant_authority
from tests.crypto.https.stage import BODY_LIMIT, OTHER_TENANT, SERVICE, TENANT, Stage
from tests.crypto.https.wire import Reply, Wire, encrypt_body, get, post


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


def test_what_was_encrypted_opens_under_the_same_resource_only(ask: Callable[..., Reply]):
    sealed = ask("/v1/encrypt", {"plaintext": _text(b"card"), "resource": "orders/1"}).json["ciphertext"]
    assert ask("/v1/decrypt", {"ciphertext": sealed, "resource": "orders/1"}).json == {"plaintext": _text(b"card")}
    moved = ask("/v1/decrypt", {"ciphertext": sealed, "resource": "orders/2"})
    assert (moved.status, moved.json["code"]) == (422, "ciphertext_refused")


def test_a_data_key_is_answered_plain_and_wrapped_or_wrapped_only(ask: Callable[..., Reply]):
    made = ask("/v1/data-keys", {"resource": "orders"}).json
    opened = ask("/v1/data-keys/open", {"wrapped": made["wrapped"], "resource": "orders"}).json
    assert opened == {"plaintext": made["plaintext"]}
    assert set(ask("/v1/data-keys", {"resource": "orders", "wrapped_only": True}).json) == {"wrapped"}


def test_rewrapping_keeps_the_plaintext(ask: Callable[..., Reply], stage: Stage):
    sealed = ask("/v1/encrypt", {"plaintext": _text(b"card"), "resource": "a"}).json["ciphertext"]
    stage.on_loop(lambda: stage.core.rotate(stage.caller))
    again = ask("/v1/rewrap", {"ciphertext": sealed, "resource": "a"}).json["ciphertext"]
    assert again != sealed
    assert ask("/v1/decrypt", {"ciphertext": again, "resource": "a"}).json == {"plaintext": _text(b"card")}


@pytest.mark.parametrize(
    ("fields", "said"),
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
def test_a_wrong_field_is_named_and_its_value_is_not(ask: Callable[..., Reply], fields: object, said: str):
    refused = ask("/v1/encrypt", fields)
    assert refused.status == 400
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json["detail"] == said
    assert b"hunter2" not in refused.body


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 5000, b'{"resource": "\\ud800"}'])
def test_what_is_not_json_is_refused_and_the_connection_goes_on(wire: Wire, body: bytes):
    wire.send(post("/v1/encrypt", body))
    assert wire.reply().json["detail"] == "the body is not JSON"
    wire.send(get("/healthz"))
    assert wire.reply().json == {"status": "ok"}


def test_paths_methods_and_types_that_do_not_exist_are_told_apart(wire: Wire):
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


def test_head_answers_what_get_would_without_the_body(wire: Wire):
    wire.send(get("/healthz") + get("/healthz", method="HEAD") + get("/healthz"))
    expected = wire.reply()
    headed = wire.reply(bodiless=True)
    assert (headed.status, headed.headers["content-length"]) == (200, expected.headers["content-length"])
    assert wire.reply().json == {"status": "ok"}


def test_pipelined_requests_are_answered_in_order_while_the_first_waits(wire: Wire, stage: Stage):
    gate = stage.on_loop(lambda: _install_gate(stage))
    wire.send(post("/v1/encrypt", encrypt_body()) + get("/v1/secrets") + get("/healthz"))
    assert wire.quiet(0.05)
    stage.on_loop(gate.set)
    assert [wire.reply().status for _ in range(3)] == [200, 404, 200]


def test_many_pipelined_requests_are_all_answered_in_order(wire: Wire):
    wire.send(b"".join(get("/healthz", f"X-Request-Id: {number}") for number in range(300)))
    assert [wire.reply().headers["x-request-id"] for _ in range(300)] == [f"{number}" for number in range(300)]


def _install_gate(stage: Stage) -> asyncio.Event:
    stage.core.gate = asyncio.Event()
    return stage.core.gate


def test_a_request_that_waits_does_not_hold_up_another_connection(wire: Wire, stage: Stage):
    gate = stage.on_loop(lambda: _install_gate(stage))
    wire.send(post("/v1/encrypt", encrypt_body()))
    with Wire(stage.dial()) as other:
        other.send(get("/healthz"))
        assert other.reply().status == 200
    stage.on_loop(gate.set)
    assert wire.reply().status == 200


def test_connection_close_is_honoured(wire: Wire):
    wire.send(get("/healthz", "Connection: close"))
    assert wire.reply().headers["connection"] == "close"
    assert wire.closed()


def test_a_client_that_expects_100_is_told_to_go_on(wire: Wire):
    head, _, body = post("/v1/encrypt", encrypt_body(), "Expect: 100-continue").partition(b"\r\n\r\n")
    wire.send(head + b"\r\n\r\n")
    assert wire.reply().status == 100
    wire.send(body)
    assert wire.reply().status == 200


def test_a_client_that_expects_100_hears_the_refusal_before_it_sends(wire: Wire):
    wire.send(post("/v1/nothing", b"x" * 10, "Expect: 100-continue").partition(b"xxx")[0])
    assert wire.reply().status == 404


def test_a_body_over_the_limit_is_refused_and_the_answer_arrives_although_it_is_still_being_sent(wire: Wire):
    wire.send(post("/v1/encrypt", b" " * (2 * BODY_LIMIT)))
    refused = wire.reply()
    assert (refused.status, refused.headers["connection"]) == (413, "close")


def test_a_client_whose_body_was_refused_is_not_waited_for_long(wire: Wire):
    wire.send(post("/v1/encrypt", b" " * (2 * BODY_LIMIT))[:1000])
    assert wire.reply().status == 413
    wire.send(b" " * 1000)
    wire.socket.settimeout(5.0)
    assert wire.closed()


def test_a_chunked_body_over_the_limit_is_refused(wire: Wire):
    wire.send(b"POST /v1/encrypt HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n")
    wire.send(b"Transfer-Encoding: chunked\r\n\r\n")
    chunk = b"8000\r\n" + b" " * 0x8000 + b"\r\n"
    wire.send(chunk * 3)
    assert wire.reply().status == 413


def test_a_chunked_body_is_taken(wire: Wire):
    body = encrypt_body()
    wire.send(
        b"POST /v1/encrypt HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"".join(b"1\r\n%c\r\n" % byte for byte in body)
        + b"0\r\n\r\n"
    )
    assert wire.reply().status == 200


def test_slow_clients_are_cut_off_and_others_are_served(tmp_path: Path):
    with Stage(tmp_path, Bounds(message_seconds=0.2, look_seconds=0.05)) as stage, Wire(stage.dial()) as slow:
        slow.send(post("/v1/encrypt", encrypt_body())[:-3])
        with Wire(stage.dial()) as other:
            other.send(get("/healthz"))
            assert other.reply().status == 200
            assert slow.closed()
            other.send(get("/healthz"))
            assert other.reply().status == 200


def test_a_slow_client_buys_no_time_with_single_bytes(tmp_path: Path):
    with Stage(tmp_path, Bounds(message_seconds=0.3, look_seconds=0.05)) as stage, Wire(stage.dial()) as slow:
        for byte in post("/v1/encrypt", encrypt_body()):
            slow.send(bytes([byte]))
            if not slow.quiet(0.02):
                break
        assert slow.closed()


def test_an_idle_connection_is_closed(tmp_path: Path):
    with Stage(tmp_path, Bounds(idle_seconds=0.2, look_seconds=0.05)) as stage, Wire(stage.dial()) as idle:
        idle.send(get("/healthz"))
        assert idle.reply().status == 200
        assert idle.closed()


def test_a_request_id_that_may_stand_in_a_log_is_kept_and_any_other_is_replaced(wire: Wire, stage: Stage):
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


def test_a_revoked_caller_is_told_so_and_the_connection_ends(wire: Wire, stage: Stage):
    wire.send(get("/healthz"))
    assert wire.reply().status == 200
    stage.on_loop(lambda: stage.core.revoke(stage.leaf.serial))
    wire.send(post("/v1/encrypt", encrypt_body()))
    refused = wire.reply()
    assert (refused.status, refused.json["code"]) == (403, "caller_refused")
    assert wire.closed()
    assert stage.on_loop(lambda: stage.core.asked) == []


def test_a_new_connection_of_a_revoked_caller_is_told_so_and_ends(stage: Stage):
    stage.on_loop(lambda: stage.core.revoke(stage.leaf.serial))
    with Wire(stage.dial()) as wire:
        wire.send(get("/healthz"))
        refused = wire.reply()
        assert (refused.status, refused.json["code"]) == (403, "caller_refused")
        assert wire.closed()


def test_a_suspended_tenant_decrypts_only_and_a_locked_one_does_nothing(ask: Callable[..., Reply], stage: Stage):
    sealed = ask("/v1/encrypt", {"plaintext": _text(b"card"), "resource": "a"}).json["ciphertext"]
    stage.on_loop(lambda: stage.core.move(TENANT, State.SUSPENDED))
    assert ask("/v1/encrypt", {"plaintext": "", "resource": "a"}).json["code"] == "tenant_closed"
    assert ask("/v1/decrypt", {"ciphertext": sealed, "resource": "a"}).status == 200
    stage.on_loop(lambda: stage.core.move(TENANT, State.LOCKED))
    refused = ask("/v1/decrypt", {"ciphertext": sealed, "resource": "a"})
    assert (refused.status, refused.json["code"]) == (403, "tenant_closed")


@pytest.mark.parametrize("state", [State.LOCKED, State.LEAVING])
def test_a_locked_tenants_service_fetches_its_certificate_on_a_new_connection_and_nothing_else(
    stage: Stage, state: State
):
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
            assert (refused.status, refused.json["code"]) == (403, "tenant_closed")
            assert wire.closed()
    with Wire(stage.dial()) as wire:
        wire.send(get("/v1/certificate") + get("/v1/certificate") + post("/v1/encrypt", encrypt_body()))
        answered = wire.reply()
        if state is State.LOCKED:
            assert (answered.status, answered.json["certificate"]) == (200, stage.leaf.pem)
        else:
            assert (answered.status, answered.json["code"]) == (403, "tenant_closed")
        assert wire.closed()
    assert stage.certificates.asked == ([SERVICE] if state is State.LOCKED else [])
    assert stage.on_loop(lambda: stage.core.asked) == []


@pytest.mark.parametrize(("tenant_id", "service"), [(OTHER_TENANT, SERVICE), (TENANT, "billing")])
def test_another_tenant_or_service_opens_nothing(stage: Stage, ask: Callable[..., Reply], tenant_id: str, service: str):
    sealed = ask("/v1/encrypt", {"plaintext": _text(b"card"), "resource": "a"}).json["ciphertext"]
    _, folder = stage.service(tenant_id, service)
    with Wire(stage.dial(folder)) as thief:
        thief.send(post("/v1/decrypt", json.dumps({"ciphertext": sealed, "resource": "a"}).encode()))
        assert thief.reply().json["code"] == "ciphertext_refused"


def test_too_many_requests_are_told_when_to_come_back(tmp_path: Path):
    with Stage(tmp_path, rate=2) as stage, Wire(stage.dial()) as wire:
        for _ in range(2):
            wire.send(get("/healthz"))
            assert wire.reply().status == 200
        wire.send(get("/healthz"))
        refused = wire.reply()
        assert (refused.status, refused.json["code"], refused.headers["retry-after"]) == (429, "too_many_requests", "1")


def test_what_is_refused_costs_too(tmp_path: Path):
    with Stage(tmp_path, rate=2) as stage, Wire(stage.dial()) as wire:
        wire.send(get("/v1/secrets") * 2 + get("/healthz"))
        assert [wire.reply().status for _ in range(3)] == [404, 404, 429]


def test_a_batch_costs_its_items_and_one_place(tmp_path: Path):
    with Stage(tmp_path, rate=10, places=1) as stage, Wire(stage.dial()) as wire:
        item = {"plaintext": "aGk=", "resource": "a"}
        for expected in (200, 429):
            wire.send(post("/v1/encrypt:batch", json.dumps({"items": [item] * 8}).encode()))
            assert wire.reply().status == expected


def test_a_refused_or_failed_request_gives_its_place_back(tmp_path: Path):
    with Stage(tmp_path, places=1) as stage, Wire(stage.dial()) as wire:
        stage.on_loop(lambda: stage.core.failing.extend([errors.VaultUnavailable(), RuntimeError("broken")]))
        wire.send(post("/v1/encrypt", encrypt_body()) * 2 + post("/v1/encrypt", b"{}") + get("/healthz"))
        assert [wire.reply().status for _ in range(4)] == [503, 500, 400, 200]


def test_an_error_of_ours_shows_a_reference_and_nothing_else(wire: Wire, stage: Stage):
    stage.on_loop(lambda: stage.core.failing.append(RuntimeError("password=hunter2")))
    wire.send(post("/v1/encrypt", encrypt_body()))
    refused = wire.reply()
    assert (refused.status, refused.json["code"]) == (500, "internal")
    assert len(refused.json["reference"]) == 32
    assert b"hunter2" not in refused.body


def test_a_batch_answers_each_item_in_order(ask: Callable[..., Reply]):
    items = [{"plaintext": _text(b"one"), "resource": "a"}, {"plaintext": "?", "resource": "a"}, 7]
    answered = ask("/v1/encrypt:batch", {"items": [*items, {"plaintext": _text(b"two"), "resource": "b"}]}).json
    assert answered["refused"] == 2
    first, second, third, fourth = answered["items"]
    assert second["problem"]["detail"].startswith("plaintext must be base64")
    assert third["problem"]["code"] == "invalid_request"
    sealed = [{"ciphertext": one["ciphertext"], "resource": where} for one, where in ((first, "a"), (fourth, "b"))]
    opened = ask("/v1/decrypt:batch", {"items": sealed}).json
    assert opened == {"items": [{"plaintext": _text(b"one")}, {"plaintext": _text(b"two")}], "refused": 0}


def test_a_batch_of_the_most_items_is_answered_whole(ask: Callable[..., Reply]):
    answered = ask("/v1/data-keys:batch", {"items": [{"resource": f"r{n}", "wrapped_only": True} for n in range(1000)]})
    assert len({item["wrapped"] for item in answered.json["items"]}) == 1000


@pytest.mark.parametrize(("count", "said"), [(0, "must not be empty"), (1001, "must have at most 1000 items")])
def test_a_batch_of_none_or_too_many_items_is_refused(ask: Callable[..., Reply], count: int, said: str):
    assert ask("/v1/rewrap:batch", {"items": [1] * count}).json["detail"] == f"items {said}"


def test_a_batch_stops_asking_a_server_that_is_down(ask: Callable[..., Reply], stage: Stage):
    item = {"plaintext": "aGk=", "resource": "a"}
    stage.on_loop(lambda: stage.core.failing.append(errors.VaultUnavailable()))
    whole = ask("/v1/encrypt:batch", {"items": [item] * 3})
    assert (whole.status, whole.json["code"]) == (503, "vault_unavailable")
    assert stage.on_loop(lambda: len(stage.core.asked)) == 1


def test_a_batch_that_was_begun_keeps_what_was_done(ask: Callable[..., Reply], stage: Stage):
    item = {"plaintext": "aGk=", "resource": "a"}
    stage.on_loop(lambda: stage.core.failing.extend([None, errors.VaultUnavailable()]))
    answered = ask("/v1/encrypt:batch", {"items": [item] * 3})
    assert (answered.status, answered.json["refused"]) == (200, 2)
    assert [set(one) for one in answered.json["items"]] == [{"ciphertext"}, {"problem"}, {"problem"}]
    assert stage.on_loop(lambda: len(stage.core.asked)) == 2


def test_the_callers_own_newest_certificate_is_answered(wire: Wire, stage: Stage):
    wire.send(get("/v1/certificate"))
    answered = wire.reply().json
    assert answered["certificate"] == stage.leaf.pem
    assert answered["chain"] == tenant_authority(TENANT).pem + root().pem
    assert stage.certificates.asked == [SERVICE]


def test_the_discovery_document_says_who_is_asking(wire: Wire):
    wire.send(get("/.well-known/openkcm"))
    assert wire.reply().json["caller"] == {"tenant_id": TENANT, "service": SERVICE, "region": "eu-west-1"}
