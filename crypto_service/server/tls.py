"""The service's own certificates, and the TLS requirements for clients.

There are two, because some KMIP clients have no ECDSA: one with an EC and one with an RSA key. The private keys are
generated here and never leave the memory of this service; Vault signs the requests. New certificates are loaded into
the existing contexts, so the next handshake uses them and open connections remain.
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
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from openkcm.contract.csr import CsrRefused
from openkcm.errors import OpenKcmError
from vault.pki.server_certificates import PkiServerCertificates

LIFETIME = timedelta(hours=24)
_RENEWED_AFTER = 2 / 3
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 15.0
_SHARED_BYTES = 65_536

# TLS 1.2 with forward secrecy only. The CBC suites (with encrypt-then-MAC) are for KMIP clients without AEAD; TLS 1.3
# has separate suites. ECDSA first: its signature takes a tenth of the time.
_CIPHERS = (
    "ECDHE-ECDSA+AESGCM:ECDHE-ECDSA+CHACHA20:ECDHE+AESGCM:ECDHE+CHACHA20"
    ":ECDHE-ECDSA-AES256-SHA384:ECDHE-ECDSA-AES128-SHA256:ECDHE-RSA-AES256-SHA384:ECDHE-RSA-AES128-SHA256:!aNULL"
)
_RSA_BITS = 2048

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class CertifiedKey:
    """A certificate and its key, both PEM."""

    certificate_pem: str
    key_pem: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """The server certificates, and the root at which client certificate chains must end, as PEM.

    `with_rsa` is None if the key server's role is older and signs only EC keys.
    """

    root_pem: str
    not_after: datetime
    with_ec: CertifiedKey
    with_rsa: CertifiedKey | None


def new_identity(certificates: PkiServerCertificates, names: Sequence[str]) -> ServerCertificate:
    """Generate keys and obtain certificates for `names`; blocks. Raises VaultUnavailable, VaultRefused."""
    with_ec, root = _certified(certificates, names, ec.generate_private_key(ec.SECP256R1()))
    with_rsa = None
    try:
        with_rsa, _ = _certified(certificates, names, rsa.generate_private_key(65537, _RSA_BITS))
    except CsrRefused:
        log.warning("no server certificate for clients without ECDSA", hint="run openkcmctl setup vault")
    ends = [x509.load_pem_x509_certificate(one.certificate_pem.encode()) for one in (with_ec, with_rsa) if one]
    return ServerCertificate(root, min(one.not_valid_after_utc for one in ends), with_ec, with_rsa)


def _certified(
    certificates: PkiServerCertificates, names: Sequence[str], key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
) -> tuple[CertifiedKey, str]:
    """Return the key with a new certificate, and the root."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    csr = request.public_bytes(serialization.Encoding.PEM).decode()
    certificate, root = certificates.sign(csr, names, LIFETIME)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return CertifiedKey(certificate, private), root


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
    """Use these certificates in the next handshakes. MUST run on the loop's thread: between handshakes, not in one."""
    for certified in filter(None, (identity.with_ec, identity.with_rsa)):
        # OpenSSL reads keys only from files; these keys exist only in memory.
        with os.fdopen(os.memfd_create("server-certificate", os.MFD_CLOEXEC), "wb") as memory:
            memory.write(certified.key_pem + certified.certificate_pem.encode())
            memory.flush()
            context.load_cert_chain(f"/proc/self/fd/{memory.fileno()}")


class SharedTlsIdentity:
    """Memory that the parent shares with its children: the newest certificates, for a child that is restarted.

    A process that died while Vault is unavailable can therefore serve immediately. The memory is never a file. A reader
    during a concurrent write finds a wrong digest, and requests certificates from Vault.
    """

    def __init__(self) -> None:
        """Map the memory; MUST run before the fork."""
        self._memory = mmap.mmap(-1, _SHARED_BYTES)

    def put(self, identity: ServerCertificate) -> None:
        keys = [one and [one.certificate_pem, one.key_pem.decode()] for one in (identity.with_ec, identity.with_rsa)]
        text = json.dumps([identity.root_pem, identity.not_after.isoformat(), *keys]).encode()
        self._memory.seek(0)
        self._memory.write(hashlib.sha256(text).digest() + len(text).to_bytes(4, "big") + text)

    def get(self) -> ServerCertificate | None:
        """Return the certificates if they are stored and need not be renewed yet."""
        digest, length = self._memory[:32], int.from_bytes(self._memory[32:36], "big")
        text = self._memory[36 : 36 + length]
        if not length or hashlib.sha256(text).digest() != digest:
            return None
        root, not_after, *keys = json.loads(text)
        with_ec, with_rsa = (one and CertifiedKey(one[0], one[1].encode()) for one in keys)
        identity = ServerCertificate(root, datetime.fromisoformat(not_after), with_ec, with_rsa)
        return identity if _until_renewal(identity) > 0 else None


class ServerTls:
    """The TLS contexts of both servers and their certificates."""

    def __init__(
        self, certificates: PkiServerCertificates, names: Sequence[str], shared: SharedTlsIdentity, authorities: Path
    ) -> None:
        """`authorities` is the folder of the clients' CAs."""
        self._certificates, self._names, self._shared, self._authorities = certificates, names, shared, authorities
        self._contexts: list[ssl.SSLContext] = []
        self.identity: ServerCertificate | None = None

    async def obtain(self) -> ServerCertificate:
        """Return server certificates, however long Vault takes to sign them.

        Also where it refuses: an operator changes that while this process waits, and a restart would change nothing.
        """
        self.identity = self._shared.get()
        if self.identity is not None:
            return self.identity
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                self.identity = await asyncio.to_thread(new_identity, self._certificates, self._names)
            except OpenKcmError as failed:
                reason = {"code": failed.code, "message": failed.message, "hint": failed.hint}
                log.warning("server certificate not signed", **reason, seconds=pause)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            else:
                self._shared.put(self.identity)
                return self.identity

    def context(self, identity: ServerCertificate, protocols: Sequence[str] = ()) -> ssl.SSLContext:
        """Return a context whose certificates `keep` will renew."""
        context = server_context(identity, protocols, self._authorities)
        self._contexts.append(context)
        return context

    async def keep(self, identity: ServerCertificate) -> None:
        """Renew the certificates after two thirds of their lifetime; never returns."""
        while True:
            await asyncio.sleep(max(_until_renewal(identity), 0.0))
            identity = await self.obtain()
            for context in self._contexts:
                install(context, identity)
            log.info("server certificate renewed", not_after=identity.not_after.isoformat())


def _until_renewal(identity: ServerCertificate) -> float:
    left = identity.not_after - datetime.now(UTC)
    return left.total_seconds() - LIFETIME.total_seconds() * (1 - _RENEWED_AFTER)
