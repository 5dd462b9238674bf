"""Tenant CAs: a Transit key that cannot be exported, certified by the PKI root, with name constraints.

A CA is one version of its tenant's key and the certificate for it; a rotation creates the next version. These are the
steps of `ensure`, and what remains after a crash in each:
1. Read the Transit key and the version: nothing remains.
2. Create it: a version without a certificate, which a retry finds by key and number. A signature requires the number of
   the version, so the current CA is not affected.
3. Create a CSR and have PKI sign it: an unrecorded certificate in PKI's store. It cannot be found by name, only by a
   search through all serials of PKI, page by page. The search runs only if an earlier attempt may have signed one.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from core import names as ids
from core.certificates import APPLIANCE_DAYS
from core.errors.keys import KeyUnavailable
from core.errors.platform import ConflictingResource
from core.errors.services import CaExpired
from openkcm.contract.csr import new_key, request_of, requested_key
from openkcm.contract.names import parse_service_name, service_spiffe, tenant_dns
from openkcm.errors import InvalidName
from vault.auth.client import VaultClient
from vault.pki.certificates import (
    Authority,
    IssuedCertificate,
    LeafNames,
    PkiRoot,
    RevocationList,
    build_leaf,
    build_revocation_list,
    hex_serial,
    load_issuer,
    tenant_of_authority,
)
from vault.transit.keys import disable_key, ensure_key, require_key

LONGEST_LEAF = timedelta(days=APPLIANCE_DAYS[1])
AUTHORITY_LIFETIME = "8760h"
_SHORTEST_LEAF = timedelta(minutes=1)
_TEST_SERVICE = "proof"
_TEST_LIFETIME = timedelta(minutes=5)

_EXPECTED_WARNINGS = ("Max path length of the signed certificate is zero", "This mount hasn't configured any authority")
_SURELY_NEW_SECONDS = 2.0
"""A missing key that exists within this time was created by this call. After a longer time, a timed-out attempt of the
same step may have created and signed it meanwhile; the interval between attempts is longer than this. The first attempt
of a step has no such predecessor."""
_PAGE = 1000
"""Serials in one call: 100 kB, so that the response of a slow server arrives in time."""
_LOCKS = 64


def _utc_now() -> datetime:
    return datetime.now(UTC)


class PkiAuthorities:
    """Tenant CAs in Transit and PKI."""

    def __init__(self, session: VaultClient, now: Callable[[], datetime] = _utc_now) -> None:
        self._session = session
        self._now = now
        # Calls for the same tenant are serialised, so that the second finds the certificate of the first.
        self._locks = tuple(threading.Lock() for _ in range(_LOCKS))

    def ensure(
        self,
        tenant_id: str,
        unknown_serials: Callable[[Sequence[str]], Sequence[str]],
        version: int = 1,
        *,
        retried: bool = True,
    ) -> Authority:
        """Return the tenant's CA on a version of its key, see the module's steps. Four calls for a new tenant.

        The caller MUST search for a recorded CA first, because this method ignores recorded ones. `unknown_serials` is
        called for each page of serials. `retried` is False when no earlier attempt of this step can still run.

        Raises:
            ConflictingResource: the existing key or certificate differs, or the version is not the next one.
        """
        with self._locks[hash(tenant_id) % _LOCKS]:
            name, started = ids.ca_key(tenant_id), time.monotonic()
            known = self._session.read(f"transit/keys/{name}")
            existed = known is not None and int(known["latest_version"]) >= version
            key = self._version(name, ensure_key(self._session, name, "ecdsa-p256", derived=False), version)
            if existed or (retried and time.monotonic() - started > _SURELY_NEW_SECONDS):
                signed = self._signed_before(tenant_id, key, unknown_serials)
                if signed is not None:
                    return signed
            return self._sign(tenant_id, name, key)

    def issue(
        self, authority: Authority, tenant_id: str, service: str, csr_pem: str, lifetime: timedelta
    ) -> IssuedCertificate:
        """Issue a leaf for a CSR: only its public key is used, the names come from the arguments. One call.

        Raises:
            CsrRefused: the CSR is invalid, or its key is not accepted.
            InvalidName: the service's name or the lifetime (more than 365 days) is not allowed.
            ConflictingResource: the CA belongs to another tenant.
            CaExpired: the CA has expired or expires within a minute.
            KeyUnavailable: the CA is disabled.
        """
        if not timedelta() < lifetime <= LONGEST_LEAF:
            raise InvalidName("lifetime", "more than nothing and at most 365 days")
        names = LeafNames(parse_service_name(service), tenant_dns(tenant_id), service_spiffe(tenant_id, service))
        issuer = load_issuer(self._session, tenant_id, authority.certificate_pem, authority.key_version)
        now = self._now()
        if issuer.certificate.not_valid_after_utc <= now + _SHORTEST_LEAF:
            raise CaExpired
        leaf = build_leaf(issuer, requested_key(csr_pem), names, now, lifetime)
        return IssuedCertificate(hex_serial(leaf), _pem(leaf), leaf.not_valid_after_utc)

    def prove(self, authority: Authority, tenant_id: str, trusted: Authority) -> None:
        """Issue a test leaf, verify it as a TLS server does, and discard it. One call.

        Raises:
            ConflictingResource: the verification fails, or the CA may not sign CRLs.
            KeyUnavailable: the CA is disabled.
        """
        issued = self.issue(authority, tenant_id, _TEST_SERVICE, request_of(new_key()), _TEST_LIFETIME)
        leaf = x509.load_pem_x509_certificate(issued.certificate_pem.encode())
        ca = x509.load_pem_x509_certificate(authority.certificate_pem.encode())
        root = x509.load_pem_x509_certificates(trusted.chain_pem.encode())[-1]
        try:
            PolicyBuilder().store(Store([root])).time(self._now()).build_client_verifier().verify(leaf, [ca])
        except VerificationError:
            raise ConflictingResource("authority", authority.serial, "a leaf that it issued is not valid") from None
        if not ca.extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign:
            raise ConflictingResource("authority", authority.serial, "it may not sign CRLs")

    def revoke(self, authority: Authority, tenant_id: str, wanted: RevocationList) -> bytes:
        """Return the CA's CRL in DER. One call.

        Raises:
            ConflictingResource: the CA belongs to another tenant.
            KeyUnavailable: the CA is disabled.
        """
        issuer = load_issuer(self._session, tenant_id, authority.certificate_pem, authority.key_version)
        return build_revocation_list(issuer, wanted)

    def root(self) -> PkiRoot:
        """Return the root that signs tenant CAs; raises KeyUnavailable when it is missing. One call."""
        root = x509.load_pem_x509_certificate(self._root_pem().encode())
        return PkiRoot(hex_serial(root), root.not_valid_before_utc, root.not_valid_after_utc)

    def disable(self, tenant_id: str) -> None:
        """Disable the CA reversibly; without effect if it does not exist."""
        disable_key(self._session, ids.ca_key(tenant_id))

    def _version(self, name: str, record: dict[str, Any], version: int) -> "_KeyVersion":
        """Return a version of the key; create it if it is the next one.

        Two concurrent attempts may create one version too many, which the next rotation uses.
        """
        latest = int(record["latest_version"])
        if latest + 1 == version:
            record = self._session.write(f"transit/keys/{name}/rotate")
            require_key(record, name, "ecdsa-p256", derived=False)
        elif latest < version:
            raise ConflictingResource("key", name, f"its newest version is {latest}, so {version} is not the next")
        pem = record["keys"][str(version)]["public_key"]
        return _KeyVersion(version, _raw_key(serialization.load_pem_public_key(pem.encode())))

    def _sign(self, tenant_id: str, name: str, key: "_KeyVersion") -> Authority:
        csr = self._session.write(f"transit/keys/{name}/csr", {"version": key.number})["csr"]
        answer = self._session.request(
            "POST",
            "pki/root/sign-intermediate",
            {
                "csr": csr,
                "common_name": _common_name(tenant_id, key.number),
                "permitted_dns_domains": tenant_dns(tenant_id),
                "max_path_length": "0",  # a string, as the policy compares it
                "ttl": AUTHORITY_LIFETIME,
            },
        )
        # PKI ignores unknown parameters with only a warning, and an ignored one may be a constraint.
        for warning in answer.get("warnings") or ():
            if not warning.startswith(_EXPECTED_WARNINGS):
                raise ConflictingResource("authority", name, f"the key server warns: {warning}")
        return _checked(tenant_id, key, answer["data"]["certificate"], answer["data"]["issuing_ca"])

    def _signed_before(
        self, tenant_id: str, key: "_KeyVersion", unknown_serials: Callable[[Sequence[str]], Sequence[str]]
    ) -> Authority | None:
        """Return the signed but unrecorded certificate of this key; the oldest of several."""
        found = []
        for page in self._serial_pages():
            path_of = {listed.replace(":", "").replace("-", "").lower(): listed for listed in page}
            for serial in unknown_serials(list(path_of)):
                entry = self._session.read(f"pki/cert/{path_of[serial]}")
                if entry is None or entry.get("revocation_time"):
                    continue
                certificate = x509.load_pem_x509_certificate(entry["certificate"].encode())
                if _raw_key(certificate.public_key()) == key.public:
                    found.append(certificate)
        if not found:
            return None
        oldest = min(found, key=lambda certificate: (certificate.not_valid_before_utc, certificate.serial_number))
        return _checked(tenant_id, key, _pem(oldest), self._root_pem())

    def _serial_pages(self) -> Iterator[list[str]]:
        """Yield the serials of all certificates, a page in each call; Vault has no pages and returns all at once."""
        last = ""
        while page := self._session.list(f"pki/certs?after={last}&limit={_PAGE}"):
            # OpenBao compares `after` with the stored name, which has hyphens where its response has colons.
            following = page[-1].replace(":", "-")
            if following <= last:
                return
            yield page
            if len(page) < _PAGE:
                return
            last = following

    def _root_pem(self) -> str:
        root = self._session.read("pki/cert/ca")
        if root is None:
            raise KeyUnavailable("the pki root is missing")
        return str(root["certificate"])


@dataclass(frozen=True, slots=True)
class _KeyVersion:
    """A version of a tenant's key; `public` is its SubjectPublicKeyInfo."""

    number: int
    public: bytes


def _checked(tenant_id: str, key: _KeyVersion, certificate_pem: str, root_pem: str) -> Authority:
    """Return the CA after a verification of its certificate.

    Raises:
        ConflictingResource: another key, another tenant, other constraints, or not signed by the root.
    """
    certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
    root = x509.load_pem_x509_certificate(root_pem.encode())
    serial = hex_serial(certificate)
    if _raw_key(certificate.public_key()) != key.public:
        raise ConflictingResource("authority", serial, "it certifies another key")
    if tenant_of_authority(certificate) != tenant_id:
        raise ConflictingResource("authority", serial, "it is constrained to another tenant")
    try:
        certificate.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature):
        raise ConflictingResource("authority", serial, "the root did not sign it") from None
    pem = _pem(certificate)
    return Authority(
        serial=serial,
        certificate_pem=pem,
        chain_pem=pem + _pem(root),
        not_after=certificate.not_valid_after_utc,
        fingerprint=hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest(),
        key_version=key.number,
    )


def _common_name(tenant_id: str, version: int) -> str:
    """Return a unique name for each CA, by which verifiers distinguish chains and CRLs."""
    return f"OpenKCM tenant {tenant_id}" + (f" ({version})" if version > 1 else "")


def _raw_key(key: Any) -> bytes:
    return bytes(key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")
