"""The service's own certificate, and the TLS requirements for clients.

The private key is generated here and never leaves the memory of this service; Vault signs the request. A new
certificate is loaded into the existing contexts, so the next handshake uses it and open connections remain.
"""

import asyncio
import hashlib
import json
import mmap
import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from openkcm.errors import OpenKcmError
from vault.pki.server_certificates import PkiServerCertificates

LIFETIME = timedelta(hours=24)
_RENEWED_AFTER = 2 / 3
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 15.0
_SHARED_BYTES = 65_536

# TLS 1.2 with forward secrecy only. The two CBC suites (with encrypt-then-MAC) are for KMIP clients without AEAD;
# TLS 1.3 has separate suites.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:ECDHE-ECDSA-AES256-SHA384:ECDHE-ECDSA-AES128-SHA256:!aNULL"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """The server certificate, its key, and the root at which client certificate chains must end; all PEM."""

    certificate_pem: str
    root_pem: str
    not_after: datetime
    key_pem: bytes = field(repr=False)


def new_identity(certificates: PkiServerCertificates, names: Sequence[str]) -> ServerCertificate:
    """Generate a P-256 key and obtain a certificate for `names`; blocks. Raises VaultUnavailable, VaultRefused."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    csr = request.public_bytes(serialization.Encoding.PEM).decode()
    certificate, root = certificates.sign(csr, names, LIFETIME)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    not_after = x509.load_pem_x509_certificate(certificate.encode()).not_valid_after_utc
    return ServerCertificate(certificate, root, not_after, private)


def server_context(
    identity: ServerCertificate, protocols: Sequence[str] = (), authorities: Path | None = None
) -> ssl.SSLContext:
    """Return a context that admits only clients whose chain ends in our PKI root; `protocols` are ALPN names.

    An issuer that a client does not send is read from the folder `authorities` (`client_authorities`). TLS verifies the
    chain, its name constraints and the dates. The identity of the client and the revocation of its certificate are
    checked in the database for every connection, so a resumed session cannot bypass them.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = 0
    context.verify_mode = ssl.CERT_REQUIRED
    # Strict: RFC 5280 to the letter. Only the root is trusted; a tenant CA is accepted because the root signed it, also
    # one from the folder, because no partial chain is allowed.
    context.verify_flags = ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_TRUSTED_FIRST
    context.load_verify_locations(cadata=identity.root_pem, capath=authorities)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    install(context, identity)
    return context


def install(context: ssl.SSLContext, identity: ServerCertificate) -> None:
    """Use this certificate in the next handshakes. MUST run on the loop's thread: between handshakes, not in one."""
    # OpenSSL reads keys only from files; this key exists only in memory.
    with os.fdopen(os.memfd_create("server-certificate", os.MFD_CLOEXEC), "wb") as memory:
        memory.write(identity.key_pem + identity.certificate_pem.encode())
        memory.flush()
        context.load_cert_chain(f"/proc/self/fd/{memory.fileno()}")


class SharedTlsIdentity:
    """Memory that the parent shares with its children: the newest certificate, for a child that is restarted.

    A process that died while Vault is unavailable can therefore serve immediately. The memory is never a file. A reader
    during a concurrent write finds a wrong digest, and requests a certificate from Vault.
    """

    def __init__(self) -> None:
        """Map the memory; MUST run before the fork."""
        self._memory = mmap.mmap(-1, _SHARED_BYTES)

    def put(self, identity: ServerCertificate) -> None:
        fields = [
            identity.certificate_pem,
            identity.root_pem,
            identity.not_after.isoformat(),
            identity.key_pem.decode(),
        ]
        text = json.dumps(fields).encode()
        self._memory.seek(0)
        self._memory.write(hashlib.sha256(text).digest() + len(text).to_bytes(4, "big") + text)

    def get(self) -> ServerCertificate | None:
        """Return the certificate if one is stored and need not be renewed yet."""
        digest, length = self._memory[:32], int.from_bytes(self._memory[32:36], "big")
        text = self._memory[36 : 36 + length]
        if not length or hashlib.sha256(text).digest() != digest:
            return None
        certificate, root, not_after, key = json.loads(text)
        identity = ServerCertificate(certificate, root, datetime.fromisoformat(not_after), key.encode())
        return identity if _until_renewal(identity) > 0 else None


class ServerTls:
    """The TLS contexts of both servers and their certificate."""

    def __init__(
        self, certificates: PkiServerCertificates, names: Sequence[str], shared: SharedTlsIdentity, authorities: Path
    ) -> None:
        """`authorities` is the folder of the clients' CAs."""
        self._certificates, self._names, self._shared, self._authorities = certificates, names, shared, authorities
        self._contexts: list[ssl.SSLContext] = []
        self.identity: ServerCertificate | None = None

    async def obtain(self) -> ServerCertificate:
        """Return a server certificate, however long Vault takes; raise errors that a retry cannot resolve."""
        self.identity = self._shared.get()
        if self.identity is not None:
            return self.identity
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                self.identity = await asyncio.to_thread(new_identity, self._certificates, self._names)
            except OpenKcmError as failed:
                log.warning("server certificate not signed", code=failed.code, seconds=pause)
                if not failed.retryable:
                    raise
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            else:
                self._shared.put(self.identity)
                return self.identity

    def context(self, identity: ServerCertificate, protocols: Sequence[str] = ()) -> ssl.SSLContext:
        """Return a context whose certificate `keep` will renew."""
        context = server_context(identity, protocols, self._authorities)
        self._contexts.append(context)
        return context

    async def keep(self, identity: ServerCertificate) -> None:
        """Renew the certificate after two thirds of its lifetime; never returns."""
        while True:
            await asyncio.sleep(max(_until_renewal(identity), 0.0))
            identity = await self.obtain()
            for context in self._contexts:
                install(context, identity)
            log.info("server certificate renewed", not_after=identity.not_after.isoformat())


def _until_renewal(identity: ServerCertificate) -> float:
    left = identity.not_after - datetime.now(UTC)
    return left.total_seconds() - LIFETIME.total_seconds() * (1 - _RENEWED_AFTER)
