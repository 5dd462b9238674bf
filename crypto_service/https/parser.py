"""HTTP/1.1 request parser on httptools, with all limits that bound a hostile client. Does no I/O.

httptools rejects the means of request smuggling (two lengths, a length with chunks, bare line feeds, folded headers).
This module adds the remaining checks: one Host, limits, and which rejections end the connection. After such a
rejection no further bytes are interpreted, because both sides may disagree on where a message ends.

A client sends the same head with each request, except for the length of the body. A head that was parsed once and
accepted is therefore recognised by its bytes, and not parsed again: the same bytes at the start of a message have the
same meaning.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import httptools

from crypto_service import correlation
from crypto_service.https.problems import (
    Problem,
    body_too_large,
    head_too_large,
    malformed,
    no_such_method,
    no_such_path,
    not_json,
)
from crypto_service.https.routes import Endpoint

HEAD_BYTES = 16_384
"""Request line and headers together."""
HEADERS = 64
_JSON = b"application/json"
_FRAMING = 8
"""Bytes of framing allowed per byte of body: enough for one-byte chunks, not for endless extensions or trailers."""

_ACTED_ON = frozenset(
    {
        b"content-length",
        b"content-type",
        b"host",
        b"x-request-id",
        b"traceparent",
        b"expect",
        b"content-encoding",
    }
)

_KNOWN_HEADS = 4
"""Heads that are recognised on one connection."""
_KNOWN_BYTES = 1_024
"""Bytes of the longest head that is recognised."""
_DIGITS = 9
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,%d})\r\n" % _DIGITS, re.IGNORECASE)

Routes = Mapping[bytes, Mapping[bytes, Endpoint]]


@dataclass(slots=True)
class Message:
    """One complete request. With a `refusal` the rest may be missing; without `keep_alive` no message follows."""

    correlation_id: str
    endpoint: Endpoint | None = None
    body: bytes = field(default=b"", repr=False)
    refusal: Problem | None = None
    keep_alive: bool = True
    head_only: bool = False
    traceparent: bytes = b""
    unread: bool = False
    """Whether the client may still be sending a body that is not read."""


class _KnownHead(NamedTuple):
    """An accepted head: the bytes before and after the digits of its Content-Length."""

    before: bytes
    after: bytes
    endpoint: Endpoint | None


class HttpReader:
    """Parses the bytes of one connection into messages."""

    def __init__(self, routes: Routes, body_limit: int) -> None:
        self._routes = routes
        self._body_limit = body_limit
        self._parser = httptools.HttpRequestParser(self)
        self._messages: list[Message] = []
        self._known_heads: list[_KnownHead] = []
        self.within = False
        """Whether a message is incomplete."""
        self.ended = False
        """Whether no further message can follow; the caller MUST close after the last one."""
        self.expected = False
        """Whether the client waits for `100 Continue` before it sends the body of the incomplete message."""
        self._start()

    def close(self) -> None:
        """Read nothing more. Without this, the reader and its parser would remain a reference cycle."""
        self.ended = True
        del self._parser

    @property
    def held(self) -> int:
        """Bytes of the body of the incomplete message."""
        return len(self._body) if self.within else 0

    @property
    def missing(self) -> int:
        """Announced bytes of the body of the incomplete message that have not arrived."""
        return max(0, self._length - self._size) if self.within and self._head_done else 0

    def recognise(self, data: bytes) -> Message | None:
        """Return the message if `data` is exactly one request with a known head; otherwise nothing is read."""
        if self.within or self.ended:
            return None
        for before, after, endpoint in self._known_heads:
            if data.startswith(before):
                begin = len(before)
                end = data.find(b"\r", begin, begin + _DIGITS + 1)
                digits = data[begin:end]
                if digits.isdigit() and data.startswith(after, end):
                    start = end + len(after)
                    if len(data) - start == int(digits) <= self._body_limit:
                        name = correlation.new_correlation_id()
                        return Message(name, endpoint, data[start:])
        return None

    def feed(self, data: bytes | memoryview) -> list[Message]:
        """Return the messages that are now complete, in order."""
        if self.ended:
            return []
        begins = not self.within
        self._wire += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._end(malformed("only HTTP/1.1 is supported"))
        except httptools.HttpParserCallbackError:
            raise
        except httptools.HttpParserError:
            # Bytes after a message with `connection: close` are ignored; any others are not HTTP.
            if not self.ended:
                self._end(malformed("the request is not well-formed HTTP/1.1"))
        if self.within:
            self._check_bounds()
        found, self._messages = self._messages, []
        if begins and len(found) == 1 and not self.within and not self.ended:
            self._learn_head(data, found[0])
        return found

    def _learn_head(self, data: bytes | memoryview, message: Message) -> None:
        """Recognise the head of a message that is all of `data`, if nothing in it but the length can be different."""
        size = len(data) - len(message.body)
        if size > _KNOWN_BYTES or message.refusal is not None or message.head_only:
            return
        if self._correlation is not None or self._traceparent:
            return
        head = bytes(data[:size])
        length = _CONTENT_LENGTH.search(head)
        # A head of a chunked message, and one after which another message begins, is not the first part of `data`.
        if length is None or head.find(b"\r\n\r\n") != size - 4:
            return
        known = _KnownHead(head[: length.start(1)], head[length.end(1) :], message.endpoint)
        if known not in self._known_heads:
            self._known_heads = [known, *self._known_heads[: _KNOWN_HEADS - 1]]

    def _check_bounds(self) -> None:
        if (not self._head_done and self._wire > HEAD_BYTES) or self._wire > HEAD_BYTES + (1 + _FRAMING) * self._size:
            self._end(head_too_large())

    def _start(self) -> None:
        # Bytes that arrive in one piece with the head are not counted: fewer than the loop reads at once.
        self._wire = self._size = self._head = 0
        self._target = self._method = b""
        self._headers = 0
        self._hosts = 0
        self._plain_json = self._has_encoding = False
        self._length = 0
        self._body = bytearray()
        self._head_done = False
        self._correlation: str | None = None
        self._traceparent = b""
        self._endpoint: Endpoint | None = None
        self._refusal: Problem | None = None
        self.expected = False

    def _end(self, refusal: Problem, *, unread: bool = False) -> None:
        """Reject the current message, or bytes that are no message, and read nothing more."""
        if not self.ended:
            head_only = self.within and self._method == b"HEAD"
            self.ended = True
            self.within = self.expected = False
            self._messages.append(
                Message(self._id(), refusal=refusal, keep_alive=False, head_only=head_only, unread=unread)
            )

    def _id(self) -> str:
        return self._correlation or correlation.new_correlation_id()

    # Callbacks of the parser. An exception from here would be a defect; none is expected.

    def on_message_begin(self) -> None:
        if not self.ended:
            self._start()
            self.within = True

    def on_url(self, part: bytes) -> None:
        self._target += part
        self._head += len(part)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers += 1
        self._head += len(name) + len(value)
        name = name.lower()
        if name not in _ACTED_ON or self._head_done:
            return  # not used, or a trailer: this service ignores trailers
        if name == b"content-length":
            self._length = int(value)
        elif name == b"content-type":
            self._plain_json = value == _JSON or value.split(b";", 1)[0].strip().lower() == _JSON
        elif name == b"host":
            self._hosts += 1
        elif name == b"x-request-id":
            self._correlation = correlation.from_request_id(value) or self._correlation
        elif name == b"traceparent":
            self._traceparent = value
            self._correlation = self._correlation or correlation.from_traceparent(value)
        elif name == b"expect":
            self.expected = value.lower() == b"100-continue"
        elif name == b"content-encoding":
            self._has_encoding = value.lower() != b"identity"

    def on_headers_complete(self) -> None:
        self._head_done = True
        self._method = self._parser.get_method()
        self.expected = self.expected and self._parser.get_http_version() == "1.1"
        self._refusal = self._check_head()
        if self._refusal is not None and (self.expected or self._refusal.status == 413):
            # Respond before the client sends a body that will be rejected; a body sent anyway is not read.
            self._end(self._refusal, unread=True)

    def _check_head(self) -> Problem | None:
        version = self._parser.get_http_version()
        if version not in {"1.0", "1.1"}:
            return malformed("only HTTP/1.1 is supported")
        if self._hosts != 1 and version == "1.1":
            return malformed("a request must have exactly one Host header")  # RFC 9112, section 3.2
        if self._headers > HEADERS or self._head > HEAD_BYTES:
            return head_too_large()
        if self._length > self._body_limit:
            return body_too_large(self._body_limit)
        return self._find_endpoint()

    def _find_endpoint(self) -> Problem | None:
        methods = self._routes.get(self._target)
        if methods is None:
            path, query = _path(self._target)
            methods = self._routes.get(path)
            if methods is None or query:
                return no_such_path()
        self._endpoint = methods.get(self._method)
        if self._endpoint is None:
            return no_such_method(b", ".join(methods).decode("ascii"))
        if self._endpoint.request is not None and (self._has_encoding or not self._plain_json):
            return not_json()
        return None

    def on_body(self, part: bytes) -> None:
        self._size += len(part)
        if self._size > self._body_limit:
            self._end(body_too_large(self._body_limit), unread=True)
        elif self._refusal is None:
            self._body += part

    def on_message_complete(self) -> None:
        if self.ended:
            return
        keep_alive = self._parser.should_keep_alive() and not self._parser.should_upgrade()
        self._messages.append(
            Message(
                self._id(),
                self._endpoint,
                bytes(self._body),
                self._refusal,
                keep_alive,
                head_only=self._method == b"HEAD",
                traceparent=self._traceparent,
            )
        )
        self.within = self.expected = False
        self.ended = not keep_alive


def _path(target: bytes) -> tuple[bytes, bytes]:
    """Return path and query of a request target, including the absolute form (RFC 9112, section 3.2.2)."""
    if not target.startswith(b"/"):
        scheme, _, rest = target.partition(b"://")
        if scheme.lower() == b"https":
            target = b"/" + rest.partition(b"/")[2]
    path, _, query = target.partition(b"?")
    return path, query
