import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from core.errors import platform as errors
from core.tenants.lifecycle import State
from tests.crypto_service.https.authority import root, tenant_authority
from tests.crypto_service.https.stage import BODY_LIMIT, SERVICE, TENANT, Stage
from tests.crypto_service.https.wire import CHUNKED, Reply, Wire, encrypt_body, get, post

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
    gate = stage.on_loop(stage.core.hold)
    wire.send(post("/v1/encrypt", encrypt_body()) + get("/v1/secrets") + get("/healthz") * 100)
    assert wire.quiet(0.05)
    stage.on_loop(gate.set)
    assert [wire.reply().status for _ in range(102)] == [200, 404, *[200] * 100]


def test_a_client_that_expects_100_gets_it_or_the_refusal_before_it_sends(wire: Wire):
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
def test_a_body_over_the_limit_is_refused_before_all_of_it_has_come(wire: Wire, sent: bytes):
    wire.send(sent)
    refused = wire.reply()
    assert (refused.status, refused.headers["connection"]) == (413, "close")
    assert wire.closed()


def test_a_chunked_body_is_taken_and_connection_close_is_honoured(wire: Wire):
    wire.send(CHUNKED + b"".join(b"1\r\n%c\r\n" % byte for byte in encrypt_body()) + b"0\r\n\r\n")
    assert wire.reply().status == 200
    wire.send(get("/healthz", "Connection: close"))
    assert wire.reply().headers["connection"] == "close"
    assert wire.closed()


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
    with Wire(stage.dial()) as again:
        again.send(get("/healthz"))
        assert again.reply().json["code"] == "caller_refused"
        assert again.closed()
    assert stage.on_loop(lambda: stage.core.asked) == []


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


@pytest.mark.parametrize("state", [State.LOCKED, State.LEAVING])
def test_a_locked_tenants_service_fetches_its_certificate_also_on_a_connection_that_is_still_open(
    wire: Wire, stage: Stage, state: State
):
    wire.send(get("/healthz"))
    assert wire.reply().status == 200
    stage.on_loop(lambda: stage.core.move(TENANT, state))
    for request in (get("/healthz"), post("/v1/encrypt", encrypt_body()), post("/v1/certificate", b"{}")):
        wire.send(request)
        refused = wire.reply()
        assert (refused.status, refused.json["code"]) == (403, "tenant_closed")
    wire.send(get("/v1/certificate") + post("/v1/encrypt", encrypt_body()))
    answered, refused = wire.reply(), wire.reply()
    if state is State.LOCKED:
        assert (answered.status, answered.json["certificate"]) == (200, stage.leaf.pem)
    else:
        assert (answered.status, answered.json["code"]) == (403, "tenant_closed")
    assert (refused.status, refused.json["code"]) == (403, "tenant_closed")
    assert stage.on_loop(lambda: stage.core.asked) == []


def test_too_many_requests_are_told_when_to_come_back(tmp_path: Path):
    with Stage(tmp_path, rate=2) as stage, Wire(stage.dial()) as wire:
        wire.send(get("/healthz") + get("/v1/secrets") + get("/healthz"))  # a refused request costs, too
        assert [wire.reply().status for _ in range(2)] == [200, 404]
        refused = wire.reply()
        assert (refused.status, refused.json["code"], refused.headers["retry-after"]) == (429, "too_many_requests", "1")


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


def test_a_batch_has_from_one_to_1000_items(ask: Callable[..., Reply]):
    answered = ask("/v1/data-keys:batch", {"items": [{"resource": f"r{n}", "wrapped_only": True} for n in range(1000)]})
    assert len({item["wrapped"] for item in answered.json["items"]}) == 1000
    for count, said in ((0, "must not be empty"), (1001, "must have at most 1000 items")):
        assert ask("/v1/rewrap:batch", {"items": [1] * count}).json["detail"] == f"items {said}"


def test_a_batch_stops_at_a_server_that_is_down_and_keeps_what_was_done(ask: Callable[..., Reply], stage: Stage):
    items = {"items": [{"plaintext": "aGk=", "resource": "a"}] * 3}
    stage.on_loop(lambda: stage.core.failing.extend([errors.VaultUnavailable(), None, errors.VaultUnavailable()]))
    whole = ask("/v1/encrypt:batch", items)
    assert (whole.status, whole.json["code"]) == (503, "vault_unavailable")
    answered = ask("/v1/encrypt:batch", items)
    assert (answered.status, answered.json["refused"]) == (200, 2)
    assert [set(one) for one in answered.json["items"]] == [{"ciphertext"}, {"problem"}, {"problem"}]
    assert stage.on_loop(lambda: len(stage.core.asked)) == 3


def test_the_callers_own_newest_certificate_and_name_are_answered(wire: Wire, stage: Stage):
    wire.send(get("/v1/certificate") + get("/.well-known/openkcm"))
    answered = wire.reply().json
    assert answered["certificate"] == stage.leaf.pem
    assert answered["chain"] == tenant_authority(TENANT).pem + root().pem
    assert stage.certificates.asked == [SERVICE]
    assert wire.reply().json["caller"] == {"tenant_id": TENANT, "service": SERVICE, "region": "eu-west-1"}
