"""TLS connections to the doors, bounded in time, with what is presented held in memory alone."""

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
    """The other side ended the connection, in the handshake or instead of an answer."""


class TlsConnection:
    """One connection and what was received on it and not yet read."""

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
        """Whether nothing has come that nobody asked for, the other side's end least of all."""
        coming = select.poll()
        coming.register(self._stream, select.POLLIN)
        return not self._received and not self._stream.pending() and not coming.poll(0)

    def send(self, data: bytes) -> None:
        """Send; raises HandshakeRejected, CryptoApiFailing."""
        try:
            self._stream.sendall(data)
        except (ssl.SSLError, ConnectionError) as ended:
            raise HandshakeRejected from ended
        except OSError as failed:
            raise CryptoApiFailing(f"sending took too long: {type(failed).__name__}") from failed

    def take(self, size: int) -> bytes:
        """Return the next `size` bytes; raises HandshakeRejected when they never come, CryptoApiFailing."""
        if size > LARGEST_ANSWER:
            raise CryptoApiFailing("the answer is larger than any that was asked for")
        while len(self._received) < size:
            self._receive()
        taken = bytes(self._received[:size])
        del self._received[:size]
        return taken

    def take_until(self, end: bytes) -> bytes:
        """Return what comes up to `end`, with it; raises as `take`."""
        while (found := self._received.find(end)) < 0:
            if len(self._received) > LARGEST_ANSWER:
                raise CryptoApiFailing("the answer is larger than any that was asked for")
            self._receive()
        return self.take(found + len(end))

    def _receive(self) -> None:
        try:
            data = self._stream.recv(_RECEIVE)
        except (ssl.SSLError, ConnectionError) as ended:
            raise HandshakeRejected from ended
        except OSError as failed:
            raise CryptoApiFailing(f"no answer came: {type(failed).__name__}") from failed
        if not data:
            raise HandshakeRejected
        self._received += data


def trust(identity: Identity) -> ssl.SSLContext:
    """Return what presents an identity and trusts the root that customers are told to trust, and nothing else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=identity.root_pem)
    # The library reads keys from files only; this one is in memory and nowhere else.
    with os.fdopen(os.memfd_create("probe", os.MFD_CLOEXEC), "wb") as memory:
        memory.write(identity.key_pem + identity.presented_pem.encode())
        memory.flush()
        context.load_cert_chain(f"/proc/self/fd/{memory.fileno()}")
    return context


def dial(host: str, port: int, context: ssl.SSLContext) -> TlsConnection:
    """Open a connection; raises CryptoApiUnreachable, HandshakeRejected, and CryptoApiFailing for an impostor."""
    try:
        plain = socket.create_connection((host, port), CONNECT_SECONDS)
    except OSError as away:
        raise CryptoApiUnreachable from away
    plain.settimeout(ANSWER_SECONDS)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        return TlsConnection(context.wrap_socket(plain, server_hostname=host))
    except ssl.SSLCertVerificationError as impostor:
        plain.close()
        raise CryptoApiFailing("its certificate is not one of the platform's for this name") from impostor
    except (ssl.SSLError, ConnectionError) as ended:
        plain.close()
        raise HandshakeRejected from ended
    except OSError as slow:
        plain.close()
        raise CryptoApiFailing("the handshake took too long") from slow
