"""Client certificates that must be rejected, each for one reason, created with the means of a strong attacker.

Certificates of the tenant CA are signed in Vault with the worker's role. They are genuine, except that the platform
did not issue them.
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
from tests.e2e.connected import Service
from tests.e2e.isolation.crypto_api.assault import stable_parts, without_varying_fields
from tests.e2e.kmip_wire import receive
from tests.e2e.stack import Stack
from tests.e2e.wires import HttpsWire, dial
from vault.pki.certificates import Issuer, LeafNames, build_leaf, hex_serial, load_issuer

_HOUR = timedelta(hours=1)
_BOTH = (True, False)
"""TLS 1.3 and 1.2: a client learns of the rejection after the handshake in 1.3, during it in 1.2."""
Key = ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Forgery:
    """`fault` is OpenSSL's reason for the rejection, empty if only the records of the platform show it. `why` is the
    reason in the audit stream of the tenant, empty if the certificate identifies no service.
    """

    name: str
    tls: ssl.SSLContext
    fault: str = ""
    why: str = ""
    serial: str = ""


class Forger:
    """Creates certificates for `service` with the CA of its tenant and without it."""

    def __init__(self, stack: Stack, service: Service, folder: Path) -> None:
        self._stack, self._service, self._folder = stack, service, folder
        with stack.database().tenant_tx(service.tenant_id) as tx:
            authority = tx.certificates.authority()
        assert authority is not None
        self._authority, self._chain = authority.serial, authority.chain_pem
        self._issuer = load_issuer(stack.vault(), service.tenant_id, authority.certificate_pem, authority.key_version)

    def names(self, tenant_id: str = "", service: str = "", dns: str = "") -> LeafNames:
        """Return the names of a genuine certificate, with the given replacements."""
        tenant_id, service = tenant_id or self._service.tenant_id, service or self._service.name
        return LeafNames(service, dns or tenant_dns(tenant_id), service_spiffe(tenant_id, service))

    def sign_leaf(self, names: LeafNames, since: datetime | None = None, lasting: timedelta = _HOUR) -> tuple[str, Key]:
        """Return a leaf of the tenant CA and its key."""
        key = _key()
        leaf = build_leaf(self._issuer, key.public_key(), names, since or datetime.now(UTC), lasting)
        return _pem(leaf), key

    def record_certificate(self, pem: str) -> str:
        """Record a leaf as a certificate of the service and return its serial."""
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
        """Return a TLS context with the certificate; with `newest` False it is limited to TLS 1.2."""
        tls = self.without_certificate(newest=newest)
        file = self._folder / f"{len(list(self._folder.iterdir()))}.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        file.write_bytes(private + f"{pem}\n{self._chain if chain is None else chain}".encode())
        tls.load_cert_chain(file)
        return tls

    def serial_of(self, service: Service) -> str:
        """Return the serial of a service's certificate."""
        return hex_serial(service.certificate)

    def end_of(self, pem: str) -> float:
        """Return the expiry of a certificate in seconds since the epoch."""
        return x509.load_pem_x509_certificate(pem.encode()).not_valid_after_utc.timestamp()

    def without_certificate(self, *, newest: bool = True) -> ssl.SSLContext:
        """Return a TLS context without a certificate."""
        tls = ssl.create_default_context(cafile=self._service.folder / "ca.pem")
        if not newest:
            tls.maximum_version = ssl.TLSVersion.TLSv1_2
        return tls

    def all(self, other: Service, sibling: Service) -> list[Forgery]:
        """Return all forgeries; `other` is a service of another tenant, `sibling` of the same tenant."""
        return [*self._unsigned(other), *self._misnamed(other), self._untimely(), *self._unrecorded(sibling)]

    def _unsigned(self, other: Service) -> list[Forgery]:
        """Return certificates that no CA of the platform has signed."""
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
        # The genuine certificate of the service is used as a CA.
        pem, below = self.sign_leaf(own)
        self.record_certificate(pem)
        leaf = _leaf(key, theirs, below, x509.load_pem_x509_certificate(pem.encode()))
        as_authority = self.context(leaf, key, pem + self._chain)
        return [*made, Forgery("leaf as authority", as_authority, "invalid CA certificate")]

    def _misnamed(self, other: Service) -> list[Forgery]:
        """Return certificates of the right CA with wrong names."""
        made = []
        for dns in (tenant_dns(other.tenant_id), f"*.{TENANT_DOMAIN}", "orders.example.com"):
            pem, key = self.sign_leaf(self.names(other.tenant_id, other.name, dns))
            made += [
                Forgery(dns, self.context(pem, key, newest=newest), "permitted subtree violation") for newest in _BOTH
            ]
        # Names that the name constraint permits but that are not the tenant's name; recorded, so that only the name
        # is wrong.
        own = tenant_dns(self._service.tenant_id)
        for dns in (f"{other.tenant_id}.{own}", f"*.{own}"):
            pem, key = self.sign_leaf(self.names(dns=dns))
            self.record_certificate(pem)
            made.append(Forgery("a name below the own", self.context(pem, key)))
        return made

    def _untimely(self) -> Forgery:
        pem, key = self.sign_leaf(self.names(), datetime.now(UTC) + 2 * _HOUR)
        self.record_certificate(pem)
        return Forgery("not yet valid", self.context(pem, key), "certificate is not yet valid")

    def _unrecorded(self, sibling: Service) -> list[Forgery]:
        """Return genuine certificates that the platform never issued."""
        made = []
        for names in (self.names(), self.names(service=sibling.name)):
            pem, key = self.sign_leaf(names)
            serial = hex_serial(x509.load_pem_x509_certificate(pem.encode()))
            contexts = (self.context(pem, key, newest=newest) for newest in _BOTH)
            made += [Forgery(f"unknown {names}", one, why="not recorded", serial=serial) for one in contexts]
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
    """Return a leaf in the form of the product, with any signer."""
    return _pem(build_leaf(Issuer(issuer, signer), key.public_key(), names, datetime.now(UTC), _HOUR))


def refusal(server: ssl.SSLContext, client: ssl.SSLContext) -> str:
    """Return OpenSSL's reason for which `server` rejects the client's certificate; empty if it accepts it."""
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
    """Return the response to a request on a new connection; None if the connection closes without a response."""
    try:
        with dial(address, forgery.tls) as connection:
            connection.sendall(request)
            if request.startswith(b"B"):
                return ttlv.encode(without_varying_fields(receive(connection)))
            return stable_parts(HttpsWire(connection).reply())
    except (ssl.SSLError, ConnectionError, EOFError):
        return None
