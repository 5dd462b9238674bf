"""Invalid bytes at the HTTPS server: it responds or closes, within the time limits, and serves the next client."""

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crypto_service.server.connection_registry import ConnectionLimits
from tests.crypto_service.https.stage import Stage
from tests.crypto_service.https.test_parser import SMUGGLED
from tests.crypto_service.https.wire import RECEIVE, Wire, encrypt_body, get, post

pytestmark = pytest.mark.integration

_VALID = post("/v1/encrypt", encrypt_body())


@pytest.fixture(scope="module")
def short_limits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Start a server whose time limits are a tenth of a second."""
    folder: Path = tmp_path_factory.mktemp("short_limits")
    with Stage(folder, ConnectionLimits(message_seconds=0.1, idle_seconds=0.1, check_seconds=0.02)) as running:
        yield running


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """Return a valid request in which a few bytes are changed, removed or doubled."""
    data = bytearray(_VALID)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.integers(0, 2)):
            case 0:
                data[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case 1:
                del data[at : at + draw(st.integers(1, 20))]
            case _:
                data[at:at] = data[at : at + draw(st.integers(1, 40))]
    return bytes(data)


def _send_all(stage: Stage, data: bytes) -> bytes:
    """Send bytes on a new connection and return all that is received until it ends."""
    found = b""
    with Wire(stage.dial()) as wire:
        wire.socket.settimeout(30.0)
        try:
            wire.send(data)
            while part := wire.socket.recv(RECEIVE):
                found += part
        except (ConnectionError, ssl.SSLError):
            pass
    return found


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.one_of(mutations(), st.binary(min_size=1, max_size=200), st.sampled_from(sorted(SMUGGLED.values()))))
def test_arbitrary_bytes_get_a_response_or_a_close_and_the_next_client_is_served(short_limits: Stage, data: bytes):
    found = _send_all(short_limits, data)
    assert not found or found.startswith(b"HTTP/1.1 ")
    assert b" 500 " not in found.partition(b"\r\n")[0]
    with Wire(short_limits.dial()) as wire:
        wire.send(get("/healthz"))
        assert wire.reply().status == 200


def test_request_after_a_smuggled_one_is_never_served(short_limits: Stage):
    for name in set(SMUGGLED) - {"no host", "two hosts"}:
        short_limits.on_loop(short_limits.core.asked.clear)
        _send_all(short_limits, SMUGGLED[name] + _VALID)
        assert short_limits.on_loop(lambda: short_limits.core.asked) == [], name
