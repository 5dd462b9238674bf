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


_LINES = st.sampled_from(
    [
        "Content-Type: application/json",
        "content-type: text/plain",
        "Expect: 100-continue",
        "Connection: close",
        "Connection: keep-alive",
        "Host: b",
        "X-Request-Id: mine",
        "X: content-length: 9",
        f"X: {'x' * 1000}",
        _CHUNKED,
    ]
)


@st.composite
def _heads(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Return a head before and after the value of its Content-Length."""
    first = draw(
        st.sampled_from(
            [
                "POST /v1/encrypt HTTP/1.1",
                "POST /v1/decrypt HTTP/1.0",
                "GET /healthz HTTP/1.1",
                "HEAD /healthz HTTP/1.1",
                "\r\nPOST / HTTP/1.1",
            ]
        )
    )
    lines = ["Host: a", *draw(st.lists(_LINES, max_size=4))]
    at = draw(st.integers(0, len(lines)))
    length = draw(st.sampled_from(["Content-Length: ", "content-length:", "CONTENT-LENGTH:\t 0", "X: "]))
    before = "\r\n".join([first, *lines[:at], length])
    return before.encode(), ("\r\n".join(["", *lines[at:]]) + "\r\n\r\n").encode()


def _common(messages: list[Message]) -> list[tuple[object, ...]]:
    return [(one.endpoint, one.refusal, one.body, one.keep_alive, one.head_only, one.unread) for one in messages]


@given(
    st.lists(_heads(), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from([b"{}", b"{}" * 9, b"0\r\n\r\n"]), st.integers(-1, 1))),
)
def test_a_known_head_means_what_it_meant_when_it_was_parsed(heads, requests):
    """Also for bodies that are shorter or longer than announced, and for requests that end the connection."""
    recognising, parsing = HttpReader(routes(), _LIMIT), HttpReader(routes(), _LIMIT)
    for number, body, more in requests:
        before, after = heads[number % len(heads)]
        data = before + str(max(0, len(body) + more)).encode() + after + body
        known = recognising.recognise(data)
        found = recognising.feed(data) if known is None else [known]
        assert _common(found) == _common(parsing.feed(data))
        states = [(one.ended, one.within, one.held, one.missing, one.expected) for one in (recognising, parsing)]
        assert states[0] == states[1]


def test_a_head_is_recognised_with_another_length_of_the_body_only():
    reader = HttpReader(routes(), _LIMIT)
    first, longer = post("/v1/encrypt", b"{}"), post("/v1/encrypt", b"{ }" * 5)
    assert reader.recognise(first) is None
    assert reader.feed(first)
    message = reader.recognise(longer)
    assert message is not None
    assert message.body == b"{ }" * 5
    for other in (
        longer[:-1],
        longer + b"x",
        longer.replace(b"encrypt", b"decrypt"),
        longer.replace(b"15", b"1_5"),
        longer.replace(b"15", b"+15"),
        longer.replace(b"15", b""),
        post("/v1/encrypt", b"x" * (_LIMIT + 1)),
    ):
        assert reader.recognise(other) is None
    reader.feed(first[:20])
    assert reader.recognise(longer) is None  # within another message


def test_a_head_with_the_id_of_a_request_is_not_recognised():
    """The id is another one in each request, and the parser reads it."""
    traces = [f"traceparent: 00-{trace * 32}-{'b' * 16}-01" for trace in "a0"]
    for header in ("X-Request-Id: one", *traces):
        reader, request = HttpReader(routes(), _LIMIT), post("/v1/encrypt", b"{}", header)
        assert reader.feed(request)
        assert reader.recognise(request) is None


def test_a_head_request_is_not_recognised():
    """Its response has no body, which the parser finds out."""
    reader, request = HttpReader(routes(), _LIMIT), get("/healthz", "Content-Length: 0", method="HEAD")
    assert [message.head_only for message in reader.feed(request)] == [True]
    assert reader.recognise(request) is None


def test_few_heads_are_known_for_a_connection():
    reader = HttpReader(routes(), _LIMIT)
    requests = [post("/v1/encrypt", b"{}", f"X: {number}") for number in range(100)]
    for request in requests:
        assert reader.feed(request)
    assert sum(reader.recognise(request) is not None for request in requests) == 4
    big = post("/v1/encrypt", b"{}", f"X: {'x' * 1024}")
    assert reader.feed(big)
    assert reader.recognise(big) is None
