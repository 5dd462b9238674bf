"""TLS connections to the APIs with timeouts; the client key is only in memory."""

import os
import select
import socket
import ssl
from typing import Self

from compliance.isolation.crypto_api.model import CryptoApiFailing, CryptoApiUnreachable, Identity

CONNECT_SECONDS = 2.0
ANSWER_SECONDS = 10.0
LARGEST_ANSWER = 1 << 20
_RECEIVE = 1 << 16


class HandshakeRejected(Exception):
    """The server closed the connection, in the handshake or instead of an answer."""


class TlsConnection:
    """One connection with its buffer of received bytes."""

    def __init__(self, stream: ssl.SSLSocket) -> None:
        self._stream = stream
        self._received = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stream.close()

    def is_open(self) -> bool:
        """Return whether the connection is usable: the server sent no unexpected data and did not close it."""
        readable = select.poll()
        readable.register(self._stream, select.POLLIN)
        return not self._received and not self._stream.pending() and not readable.poll(0)

    def send(self, data: bytes) -> None:
        """Send; raises HandshakeRejected, CryptoApiFailing."""
        try:
            self._stream.sendall(data)
        except (ssl.SSLError, ConnectionError) as ended:
            raise HandshakeRejected from ended
        except OSError as failed:
            raise CryptoApiFailing(f"sending took too long: {type(failed).__name__}") from failed

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes; raises HandshakeRejected if the connection ends, CryptoApiFailing."""
        if size > LARGEST_ANSWER:
            raise CryptoApiFailing("the answer exceeds the maximum size")
        while len(self._received) < size:
            self._receive()
        taken = bytes(self._received[:size])
        del self._received[:size]
        return taken

    def take_until(self, end: bytes) -> bytes:
        """Return the bytes up to and including `end`; raises as `take`."""
        while (found := self._received.find(end)) < 0:
            if len(self._received) > LARGEST_ANSWER:
                raise CryptoApiFailing("the answer exceeds the maximum size")
            self._receive()
        return self.take(found + len(end))

    def _receive(self) -> None:
        try:
            data = self._stream.recv(_RECEIVE)
        except (ssl.SSLError, ConnectionError) as ended:
            raise HandshakeRejected from ended
        except OSError as failed:
            raise CryptoApiFailing(f"no answer within the timeout: {type(failed).__name__}") from failed
        if not data:
            raise HandshakeRejected
        self._received += data


def trust(identity: Identity) -> ssl.SSLContext:
    """Return a TLS context that presents the identity and trusts only the root certificate that customers trust."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=identity.root_pem)
    # The library reads keys only from files; a memory file keeps the key off the disk.
    with os.fdopen(os.memfd_create("probe", os.MFD_CLOEXEC), "wb") as memory:
        memory.write(identity.key_pem + identity.presented_pem.encode())
        memory.flush()
        context.load_cert_chain(f"/proc/self/fd/{memory.fileno()}")
    return context


def dial(host: str, port: int, context: ssl.SSLContext) -> TlsConnection:
    """Return a TLS connection.

    Raises:
        CryptoApiUnreachable: no TCP connection.
        HandshakeRejected: the server ended the handshake.
        CryptoApiFailing: the server certificate is not valid, or the handshake timed out.
    """
    try:
        plain = socket.create_connection((host, port), CONNECT_SECONDS)
    except OSError as unreachable:
        raise CryptoApiUnreachable from unreachable
    plain.settimeout(ANSWER_SECONDS)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        return TlsConnection(context.wrap_socket(plain, server_hostname=host))
    except ssl.SSLCertVerificationError as invalid:
        plain.close()
        raise CryptoApiFailing("the server certificate is not valid for this name") from invalid
    except (ssl.SSLError, ConnectionError) as ended:
        plain.close()
        raise HandshakeRejected from ended
    except OSError as slow:
        plain.close()
        raise CryptoApiFailing("the handshake took too long") from slow
