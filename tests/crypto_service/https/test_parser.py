from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto_service.https.parser import HEAD_BYTES, HEADERS, HttpReader, Message
from crypto_service.https.routes import routes
from tests.crypto_service.https.wire import CHUNKED, encrypt_body, get, post

_LIMIT = 4096


def read(*parts: bytes) -> list[Message]:
    reader = HttpReader(routes(), _LIMIT)
    return [message for part in parts for message in reader.feed(part)]


def test_message_has_endpoint_and_body():
    (message,) = read(post("/v1/encrypt", b"{}"))
    assert message.endpoint is not None
    assert (message.endpoint.name, message.body, message.keep_alive) == ("encrypt", b"{}", True)


def _by_hand(*headers: str, body: bytes = b"{}") -> bytes:
    return ("\r\n".join(["POST /v1/encrypt HTTP/1.1", "Host: a", *headers]) + "\r\n\r\n").encode() + body


_CHUNKED = "Transfer-Encoding: chunked"
_NO_CHUNKS = b"0\r\n\r\n"

SMUGGLED = {
    "two equal lengths": post("/v1/encrypt", b"{}", "Content-Length: 2"),
    "two different lengths": post("/v1/encrypt", b"{}", "Content-Length: 44"),
    "a list of lengths": _by_hand("Content-Length: 2, 2"),
    "a length behind chunks": post("/v1/encrypt", _NO_CHUNKS, _CHUNKED),
    "chunks behind a length": _by_hand("Content-Length: 5", _CHUNKED, body=_NO_CHUNKS),
    "chunks that are not last": _by_hand("Transfer-Encoding: chunked, gzip", body=_NO_CHUNKS),
    "almost chunked": _by_hand("Transfer-Encoding: xchunked", body=_NO_CHUNKS),
    "chunked twice": _by_hand(_CHUNKED, _CHUNKED, body=_NO_CHUNKS),
    "a space before the colon": _by_hand("Content-Length : 2"),
    "a signed length": _by_hand("Content-Length: +2"),
    "a hexadecimal length": _by_hand("Content-Length: 0x2"),
    "a length beyond 64 bits": _by_hand("Content-Length: 99999999999999999999"),
    "bare line feeds": b"POST /v1/encrypt HTTP/1.1\nHost: a\nContent-Length: 2\n\n{}",
    "bare line feeds in chunks": _by_hand(_CHUNKED, body=b"1\na\n0\n\n"),
    "a folded header": _by_hand("Content-Length:\r\n 2"),
    "a null in a header": get("/healthz", "X: \0"),
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "two hosts": get("/healthz", "Host: b"),
    "another protocol": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a newer version": b"GET /healthz HTTP/3.0\r\nHost: a\r\n\r\n",
    "no version": b"GET /healthz\r\n\r\n",
    "a tunnel": b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
    "tls inside": b"\x16\x03\x01\x02\x00\x01",
}


@pytest.mark.parametrize("name", SMUGGLED)
def test_ambiguous_framing_is_rejected_and_nothing_after_it_is_read(name: str):
    messages = read(SMUGGLED[name] + get("/healthz"), get("/healthz"))
    refusal = messages[0].refusal
    assert refusal is not None
    assert int(refusal.status) in {400, 404, 405}
    if name not in {"no host", "two hosts"}:  # framed as one request, which is rejected
        assert messages[-1].refusal is not None
        assert not messages[-1].keep_alive


def test_nothing_is_read_after_connection_close_or_upgrade():
    for last in (get("/healthz", "Connection: upgrade", "Upgrade: h2c"), get("/healthz", "Connection: close")):
        messages = read(last + get("/healthz"), get("/healthz"))
        assert [(message.keep_alive, message.refusal) for message in messages] == [(False, None)]
    (message,) = read(b"GET /healthz HTTP/1.0\r\n\r\n")
    assert not message.keep_alive


def test_absolute_path_is_accepted_and_query_rejected():
    assert read(get("https://localhost:1/healthz"))[0].refusal is None
    for target in ("/healthz?a=b", "https://localhost", "/healthz/", "//healthz", "/%68ealthz", "*"):
        refusal = read(get(target))[0].refusal
        assert refusal is not None
        assert refusal.status == 404


@pytest.mark.parametrize(
    "pieces",
    [
        [get("/healthz", *[f"X-{n}: 1" for n in range(HEADERS)])],
        [b"GET /", *[b"a" * 1000] * (HEAD_BYTES // 1000 + 1)],
        [get("/healthz")[:-2] + b"X: ", *[b"a" * 1000] * (HEAD_BYTES // 1000 + 1)],
        [get("/healthz", "X: " + "a" * HEAD_BYTES)],
        [CHUNKED, b"2\r\n{}\r\n0\r\n", *[b"X: " + b"a" * 1000 + b"\r\n"] * 20],
    ],
    ids=["headers", "path", "header", "one piece", "trailers"],
)
def test_too_many_or_too_long_headers_are_rejected_early(pieces: list[bytes]):
    refusal = read(*pieces)[0].refusal
    assert refusal is not None
    assert refusal.status == 431


def test_maximum_of_headers_is_accepted_and_trailers_are_ignored():
    assert read(get("/healthz", *[f"X-{n}: 1" for n in range(HEADERS - 1)]))[0].refusal is None
    (message,) = read(CHUNKED + b"2\r\n{}\r\n0\r\nX-Request-Id: forged\r\nHost: b\r\n\r\n")
    assert message.refusal is None
    assert message.correlation_id != "forged"


WORKING = post("/v1/encrypt", encrypt_body(), "X-Request-Id: one") + get("/healthz", "X-Request-Id: two")


@given(st.lists(st.integers(0, len(WORKING)), max_size=8).map(sorted))
def test_requests_parse_equally_in_any_pieces(cuts: list[int]):
    pieces = [WORKING[begin:end] for begin, end in pairwise([0, *cuts, len(WORKING)])]
    assert read(*pieces) == read(WORKING)


_PIECES = st.sampled_from(
    [
        *SMUGGLED.values(),
        WORKING,
        b"\r\n",
        b"\r\n\r\n",
        b"Host: a\r\n",
        b"Content-Length: 3\r\n",
        b"Expect: 100-continue\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"POST /v1/encrypt HTTP/1.1\r\n",
        b"3\r\nabc\r\n",
        b"0\r\n\r\n",
    ]
)


@given(st.lists(st.one_of(st.binary(max_size=40), _PIECES), max_size=12))
def test_arbitrary_bytes_neither_break_the_reader_nor_pass_its_end(pieces: list[bytes]):
    reader = HttpReader(routes(), _LIMIT)
    for piece in pieces:
        ended = reader.ended
        messages = reader.feed(piece)
        assert not (ended and messages)
        assert all(message.keep_alive for message in messages[:-1])
        assert all(message.refusal or message.endpoint for message in messages)
        assert all(len(message.body) <= _LIMIT for message in messages)
        assert not reader.ended or not messages or not messages[-1].keep_alive
