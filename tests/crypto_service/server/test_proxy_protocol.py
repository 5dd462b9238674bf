"""Connections through a load balancer that reports the address of the client, with the PROXY protocol, version 2."""

import asyncio
import os
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from crypto_service.server.connection_registry import ConnectionLimits
from crypto_service.server.proxy_protocol import Networks, ProxyHeaderInvalid, is_within, read_client_address
from tests.concurrency import wait_until_async
from tests.crypto_service.echo import ACME, Place, ask, client_context, on_uvloop, place
from tests.ports import free_port
from tests.programs import program

pytestmark = pytest.mark.integration
MISMATCH = "PROXY protocol does not match"
SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
LOOPBACK = [ip_network("127.0.0.0/8")]
ELSEWHERE = [ip_network("192.0.2.0/24")]


def header(client: str = "203.0.113.9", *, command: int = 0x21, family: int | None = None, more: bytes = b"") -> bytes:
    address = ip_address(client)
    family = family if family is not None else 0x11 if address.version == 4 else 0x21
    body = address.packed + ip_address("::1" if address.version == 6 else "127.0.0.1").packed
    body += (51234).to_bytes(2, "big") + (18443).to_bytes(2, "big") + more
    return SIGNATURE + bytes([command, family]) + len(body).to_bytes(2, "big") + body


async def connect(here: Place, *pieces: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return a TLS connection that begins with these bytes."""
    plain = await asyncio.to_thread(socket.create_connection, ("127.0.0.1", here.port), 10)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    plain.settimeout(0)
    loop = asyncio.get_running_loop()
    for piece in pieces:
        await loop.sock_sendall(plain, piece)
        await asyncio.sleep(0.01)
    streams = await asyncio.open_connection(sock=plain, ssl=client_context(ACME), server_hostname="127.0.0.1")
    here.streams.append(streams[1])
    return streams


async def parsed(*pieces: bytes) -> tuple[str | None, bytes]:
    """Return the address, and what is left to read."""
    near, far = socket.socketpair()
    with near, far:
        near.settimeout(0)
        far.sendall(b"".join(pieces))
        far.shutdown(socket.SHUT_WR)
        address = await read_client_address(near)
        return address, near.recv(100)


_CONFIGURATION = """
defaults
    mode tcp
    timeout connect 10s
    timeout client 10s
    timeout server 10s
listen crypto
    bind 127.0.0.1:{listening}
    server one 127.0.0.1:{port} send-proxy-v2 check check-send-proxy
"""


@asynccontextmanager
async def haproxy(folder: Path, port: int) -> AsyncIterator[int]:
    """Run a HAProxy before a port; yield the port on which it listens."""
    command, environment = program("haproxy", "usr/sbin/haproxy")
    file, listening = folder / "haproxy.cfg", free_port()
    file.write_text(_CONFIGURATION.format(listening=listening, port=port))
    running = await asyncio.create_subprocess_exec(
        command, "-f", file, env=os.environ | environment, stderr=subprocess.DEVNULL
    )
    try:
        yield listening
    finally:
        running.kill()
        await running.wait()


def test_haproxy_reports_the_address_of_its_client(tmp_path: Path) -> None:
    @on_uvloop
    async def run() -> None:
        async with place(proxies=LOOPBACK) as here, haproxy(tmp_path, here.port) as port:
            tls = client_context(ACME)
            for source in ("127.0.0.5", "127.0.0.6"):
                async with asyncio.timeout(30):
                    while True:
                        try:
                            streams = await asyncio.open_connection("127.0.0.1", port, ssl=tls, local_addr=(source, 0))
                            break
                        except OSError:  # it has not started
                            await asyncio.sleep(0.05)
                here.streams.append(streams[1])
                assert await ask(streams, b"hello") == b"acme-corp-12345 hello\n"
                assert here.made[-1].caller.address == source

    run()


@pytest.mark.parametrize("client", ["203.0.113.9", "2001:db8::7"])
def test_address_of_the_client_is_that_in_the_header(client: str) -> None:
    @on_uvloop
    async def run() -> None:
        async with place(proxies=LOOPBACK) as here:
            whole = header(client, more=b"\x04\x00\x01x")
            for pieces in ((whole,), (whole[:5], whole[5:20], whole[20:])):
                assert await ask(await connect(here, *pieces), b"hello") == b"acme-corp-12345 hello\n"
                assert here.made[-1].caller.address == client

    run()


@on_uvloop
async def test_check_of_the_load_balancer_itself_has_its_address() -> None:
    async with place(proxies=LOOPBACK) as here:
        for own in (header(command=0x20), header(family=0), SIGNATURE + b"\x20\x00\x00\x00"):
            assert await ask(await connect(here, own), b"hello") == b"acme-corp-12345 hello\n"
            assert here.made[-1].caller.address == "127.0.0.1"


@on_uvloop
async def test_client_cannot_choose_its_address() -> None:
    """A header from an address that is no load balancer is not TLS; the log names the setting once a minute."""
    async with place(proxies=ELSEWHERE) as here:
        with capture_logs() as logs:
            for number, first in enumerate((header(), b"PROXY TCP4 203.0.113.9 127.0.0.1 1 2\r\n"), start=1):
                with pytest.raises(OSError):  # noqa: PT011 - several, by the moment of the end
                    await connect(here, first)
                await wait_until_async(lambda number=number: here.listener.refused == number)
        assert [log["event"] for log in logs] == [MISMATCH, "handshake failed", "handshake failed"]
        assert "their address is not in crypto_proxy_networks" in logs[0]["hint"]
        assert "203.0.113.9" not in str(logs)
        assert here.listener.proxy_mismatches == 2
        assert await ask(await here.connect(), b"hello") == b"acme-corp-12345 hello\n"


@on_uvloop
async def test_connection_of_a_load_balancer_without_a_header_is_refused() -> None:
    async with place(proxies=LOOPBACK) as here:
        with capture_logs() as logs, pytest.raises(OSError):  # noqa: PT011 - the same
            await here.connect()
        await wait_until_async(lambda: here.listener.refused == 1)
        assert [log["event"] for log in logs] == [MISMATCH, "handshake failed"]
        assert "crypto_proxy_networks have no PROXY header" in logs[0]["hint"]
        assert here.listener.proxy_mismatches == 1
        assert here.made == []


@pytest.mark.parametrize(
    ("proxies", "first"),
    [(LOOPBACK, header() + header()), (ELSEWHERE, b"GET / HTTP/1.1\r\n\r\n"), (LOOPBACK, b"")],
    ids=["a client behind the load balancer sends a header", "no TLS", "a check without data"],
)
def test_other_failures_are_no_mismatch(proxies: Networks, first: bytes) -> None:
    @on_uvloop
    async def run() -> None:
        async with place(proxies=proxies) as here:
            plain = await asyncio.to_thread(socket.create_connection, ("127.0.0.1", here.port), 10)
            plain.sendall(first)
            plain.shutdown(socket.SHUT_WR)
            await wait_until_async(lambda: here.listener.refused == 1)
            plain.close()
            assert here.listener.proxy_mismatches == 0

    run()


@on_uvloop
async def test_load_balancer_that_sends_nothing_is_ended() -> None:
    async with place(ConnectionLimits(handshake_seconds=0.1, check_seconds=0.02), proxies=LOOPBACK) as here:
        silent = await asyncio.to_thread(socket.create_connection, ("127.0.0.1", here.port), 10)
        await wait_until_async(lambda: (here.listener.refused, here.listener.handshakes) == (1, 0))
        assert await asyncio.to_thread(silent.recv, 1) == b""
        silent.close()


@pytest.mark.parametrize(
    "wrong",
    [
        b"PROXY TCP4 203.0.113.9 127.0.0.1 1 2\r\n",
        SIGNATURE + b"\x11\x11\x00\x00",
        SIGNATURE + b"\x21\x11\x00\x04abcd",
        SIGNATURE + b"\x21\x11\xff\xff",
        header()[:-1],
        b"",
    ],
)
async def test_invalid_header_is_rejected(wrong: bytes) -> None:
    with pytest.raises(ProxyHeaderInvalid):
        await parsed(wrong)


async def test_no_byte_after_the_header_is_read() -> None:
    assert await parsed(header(), b"\x16\x03\x01") == ("203.0.113.9", b"\x16\x03\x01")


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=60), st.binary(max_size=60).map(lambda rest: SIGNATURE + rest)))
def test_any_bytes_are_an_address_or_a_rejection(data: bytes) -> None:
    try:
        address, _ = asyncio.run(parsed(data))
    except ProxyHeaderInvalid:
        return
    assert address is None or ip_address(address)


def test_networks_of_both_families_are_compared() -> None:
    networks = [ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")]
    assert is_within("10.1.2.3", networks)
    assert is_within("2001:db8::1", networks)
    assert not is_within("192.0.2.1", networks)
    assert not is_within("::1", networks)
    assert not is_within("10.1.2.3", ())
