"""Client certificates that must be rejected, each wrong in one way, made with everything an attacker might get.

What the tenant's own authority signs here is signed through Vault with the worker's role, so it is as genuine as a
certificate can be that the platform did not mean to issue.
"""

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from crypto_service.kmip.codec import ttlv
from database.services.repository import ServiceCertificateRow
from openkcm.contract.names import TENANT_DOMAIN, service_spiffe, tenant_dns
from tests.stories.assault import same, unchanging
from tests.stories.connected import Service
from tests.stories.kmip_wire import receive
from tests.stories.stack import Stack
from tests.stories.wires import HttpsWire, dial
from vault.pki.certificates import Issuer, LeafNames, build_leaf, hex_serial, load_issuer

_HOUR = timedelta(hours=1)
_BOTH = (True, False)
"""TLS 1.3 and 1.2: in one the client learns of the refusal after its handshake, in the other within."""
Key = ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Forgery:
    """`fault` is what OpenSSL refuses it for, empty where only our records can tell; `why` is what the audit stream of
    the tenant says, empty where nobody can be blamed.
    """

    name: str
    tls: ssl.SSLContext
    fault: str = ""
    why: str = ""
    serial: str = ""


class Forger:
    """Makes certificates for `service` with the authority of its tenant and without."""

    def __init__(self, stack: Stack, service: Service, folder: Path) -> None:
        self._stack, self._service, self._folder = stack, service, folder
        with stack.database().tenant_tx(service.tenant_id) as tx:
            authority = tx.certificates.authority()
        assert authority is not None
        self._authority, self._chain = authority.serial, authority.chain_pem
        self._issuer = load_issuer(stack.vault(), service.tenant_id, authority.certificate_pem, authority.key_version)

    def names(self, tenant_id: str = "", service: str = "", dns: str = "") -> LeafNames:
        """Return the names that a genuine certificate has, with those given instead."""
        tenant_id, service = tenant_id or self._service.tenant_id, service or self._service.name
        return LeafNames(service, dns or tenant_dns(tenant_id), service_spiffe(tenant_id, service))

    def signed(self, names: LeafNames, since: datetime | None = None, lasting: timedelta = _HOUR) -> tuple[str, Key]:
        """Return a leaf of the tenant's authority and its key."""
        key = _key()
        leaf = build_leaf(self._issuer, key.public_key(), names, since or datetime.now(UTC), lasting)
        return _pem(leaf), key

    def on_record(self, pem: str) -> str:
        """Put a leaf on record as the service's own and return its serial."""
        leaf = x509.load_pem_x509_certificate(pem.encode())
        serial, dates = hex_serial(leaf), (leaf.not_valid_before_utc, leaf.not_valid_after_utc)
        with self._stack.database().tenant_tx(self._service.tenant_id) as tx:
            generation = tx.services.generation(self._service.name) + 1
            tx.services.record_leaf(
                ServiceCertificateRow(
                    serial, self._service.name, generation, f"forged-{serial}", pem, *dates, self._authority
                )
            )
        return serial

    def context(self, pem: str, key: Key, chain: str | None = None, *, newest: bool = True) -> ssl.SSLContext:
        """Return what a client needs to present the certificate; not `newest`: over TLS 1.2."""
        tls = self.without_certificate(newest=newest)
        file = self._folder / f"{len(list(self._folder.iterdir()))}.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        file.write_bytes(private + f"{pem}\n{self._chain if chain is None else chain}".encode())
        tls.load_cert_chain(file)
        return tls

    def serial_of(self, service: Service) -> str:
        """Return the serial of the certificate that a service has."""
        return hex_serial(service.certificate)

    def end_of(self, pem: str) -> float:
        """Return when a certificate ends, in seconds since the epoch."""
        return x509.load_pem_x509_certificate(pem.encode()).not_valid_after_utc.timestamp()

    def without_certificate(self, *, newest: bool = True) -> ssl.SSLContext:
        """Return what a client without any certificate has."""
        tls = ssl.create_default_context(cafile=self._service.folder / "ca.pem")
        if not newest:
            tls.maximum_version = ssl.TLSVersion.TLSv1_2
        return tls

    def all(self, other: Service, sibling: Service) -> list[Forgery]:
        """Return every forgery that there is; `other` is of another tenant, `sibling` of the same."""
        return [*self._unsigned(other), *self._misnamed(other), self._untimely(), *self._not_on_record(sibling)]

    def _unsigned(self, other: Service) -> list[Forgery]:
        """Certificates that no authority of ours has signed."""
        missing = "PEER_DID_NOT_RETURN_A_CERTIFICATE"
        made = [Forgery("no certificate", self.without_certificate(newest=newest), missing) for newest in _BOTH]
        own, theirs, key = self.names(), self.names(other.tenant_id, other.name), _key()
        itself = _authority(_called(theirs.common_name), key)
        self_signed = self.context(_leaf(key, theirs, key, itself), key, "")
        made.append(Forgery("self-signed", self_signed, "self-signed certificate"))
        root, chained = _key(), "self-signed certificate in certificate chain"
        ca = _authority(self._issuer.certificate.subject, root)
        made += [
            Forgery("attacker's authority", self.context(_leaf(key, own, root, ca), key, chain), chained)
            for chain in (_pem(ca), _pem(ca) + self._chain)
        ]
        unsigned = self.context(_leaf(key, own, _key(), self._issuer.certificate), key)
        made.append(Forgery("attacker's signature", unsigned, "certificate signature failure"))
        # The service's own, genuine certificate used as if it were an authority.
        pem, below = self.signed(own)
        self.on_record(pem)
        leaf = _leaf(key, theirs, below, x509.load_pem_x509_certificate(pem.encode()))
        as_authority = self.context(leaf, key, pem + self._chain)
        return [*made, Forgery("leaf as authority", as_authority, "invalid CA certificate")]

    def _misnamed(self, other: Service) -> list[Forgery]:
        """What the right authority signed for the wrong names."""
        made = []
        for dns in (tenant_dns(other.tenant_id), f"*.{TENANT_DOMAIN}", "orders.example.com"):
            pem, key = self.signed(self.names(other.tenant_id, other.name, dns))
            made += [
                Forgery(dns, self.context(pem, key, newest=newest), "permitted subtree violation") for newest in _BOTH
            ]
        # What the authority may name and is still not the tenant's one name: recorded, so that only the name decides.
        own = tenant_dns(self._service.tenant_id)
        for dns in (f"{other.tenant_id}.{own}", f"*.{own}"):
            pem, key = self.signed(self.names(dns=dns))
            self.on_record(pem)
            made.append(Forgery("a name below the own", self.context(pem, key)))
        return made

    def _untimely(self) -> Forgery:
        pem, key = self.signed(self.names(), datetime.now(UTC) + 2 * _HOUR)
        self.on_record(pem)
        return Forgery("not yet valid", self.context(pem, key), "certificate is not yet valid")

    def _not_on_record(self, sibling: Service) -> list[Forgery]:
        """Genuine, and never issued by the platform."""
        made = []
        for names in (self.names(), self.names(service=sibling.name)):
            pem, key = self.signed(names)
            serial = hex_serial(x509.load_pem_x509_certificate(pem.encode()))
            contexts = (self.context(pem, key, newest=newest) for newest in _BOTH)
            made += [Forgery(f"unknown {names}", one, why="not on record", serial=serial) for one in contexts]
        return made


def _key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def _called(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _authority(subject: x509.Name, key: Key) -> x509.Certificate:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .serial_number(x509.random_serial_number())
        .issuer_name(subject)
        .subject_name(subject)
        .public_key(key.public_key())
        .not_valid_before(now - _HOUR)
        .not_valid_after(now + _HOUR)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _leaf(key: Key, names: LeafNames, signer: Key, issuer: x509.Certificate) -> str:
    """Return a leaf as the product makes it, signed by anyone."""
    return _pem(build_leaf(Issuer(issuer, signer), key.public_key(), names, datetime.now(UTC), _HOUR))


def refusal(server: ssl.SSLContext, client: ssl.SSLContext) -> str:
    """Return why `server` refuses the client's certificate, in OpenSSL's words; empty when it does not."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server, server_hostname="localhost")
    for _ in range(4):
        for side in (theirs, ours):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as refused:
                return refused.verify_message
            except ssl.SSLError as refused:
                return str(refused.reason)
    return ""


def try_once(address: str, forgery: Forgery, request: bytes) -> object:
    """Return what a request on a connection of its own is answered with, None when the connection ends without."""
    try:
        with dial(address, forgery.tls) as connection:
            connection.sendall(request)
            if request.startswith(b"B"):
                return ttlv.encode(unchanging(receive(connection)))
            return same(HttpsWire(connection).reply())
    except (ssl.SSLError, ConnectionError, EOFError):
        return None
