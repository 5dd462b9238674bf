"""Tenant certificate authorities: a Transit key that never leaves, signed by the PKI root, constrained in name.

Steps of `ensure`, and what is left behind when the process dies there:
1. Look for the Transit key: nothing yet.
2. Make it: a key without a certificate, found again by its name.
3. Let it make a request, let PKI sign that: a certificate in PKI's store that nobody recorded. It cannot be found by
   name, only by looking through PKI's serials; so this is done whenever the key was there before step 2, and never
   for a fresh tenant, whose certificate cannot exist.
"""

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization

from tenancy import ids
from tenancy.errors import ConflictingResource, InvalidName, KeyUnavailable
from vault.certificates import LeafNames, build_leaf, hex_serial, load_issuer, tenant_of_authority
from vault.interfaces import Authority, Leaf
from vault.keys import disable_key, ensure_key
from vault.session import VaultCalls
from vault.signing_requests import requested_key

LONGEST_LEAF = timedelta(hours=72)
AUTHORITY_LIFETIME = "8760h"

_EXPECTED_WARNINGS = ("Max path length of the signed certificate is zero", "This mount hasn't configured any authority")
_SURELY_FRESH_SECONDS = 2.0
"""A key that was missing and is there within this time was made by this call. If the time was longer, another attempt
of the same step, taken for dead, may have made and signed it meanwhile; attempts lie further apart than this."""
_LOCKS = 64


def _utc_now() -> datetime:
    return datetime.now(UTC)


class PkiAuthorities:
    """`interfaces.CertificateAuthorities` over Transit and PKI."""

    def __init__(self, session: VaultCalls, now: Callable[[], datetime] = _utc_now) -> None:
        self._session = session
        self._now = now
        # Two threads with the same tenant take turns, so that the second finds what the first signed.
        self._locks = tuple(threading.Lock() for _ in range(_LOCKS))

    def ensure(self, tenant_id: str, unknown_serials: Callable[[Sequence[str]], Sequence[str]]) -> Authority:
        """Return the tenant's CA; see the module. Four calls for a fresh tenant.

        The caller MUST have looked for a recorded authority first: what is on record is not looked for here.
        """
        with self._locks[hash(tenant_id) % _LOCKS]:
            name, started = ids.ca_key(tenant_id), time.monotonic()
            was_there = self._session.read(f"transit/keys/{name}") is not None
            record = ensure_key(self._session, name, "ecdsa-p256", derived=False)
            if was_there or time.monotonic() - started > _SURELY_FRESH_SECONDS:
                signed = self._signed_before(tenant_id, record, unknown_serials)
                if signed is not None:
                    return signed
            return self._sign(tenant_id, name, record)

    def issue(self, authority: Authority, tenant_id: str, service: str, csr_pem: str, lifetime: timedelta) -> Leaf:
        """Issue a leaf for a CSR: only its public key is taken, the names come from the arguments. One call.

        Raises:
            CsrRefused: the request is not one, or its key is not taken.
            InvalidName: the service's name or the lifetime (more than 72 h) is not allowed.
            ConflictingResource: the authority is another tenant's.
            KeyUnavailable: the authority is disabled.
        """
        if not timedelta() < lifetime <= LONGEST_LEAF:
            raise InvalidName("lifetime", "more than nothing and at most 72 hours")
        names = LeafNames(
            ids.parse_service_name(service), ids.tenant_dns(tenant_id), ids.service_spiffe(tenant_id, service)
        )
        issuer = load_issuer(self._session, tenant_id, authority.certificate_pem)
        leaf = build_leaf(issuer, requested_key(csr_pem), names, self._now(), lifetime)
        return Leaf(hex_serial(leaf), _pem(leaf), leaf.not_valid_after_utc)

    def disable(self, tenant_id: str) -> None:
        """Stop the CA from signing, reversibly. One that does not exist is left so."""
        disable_key(self._session, ids.ca_key(tenant_id))

    def _sign(self, tenant_id: str, name: str, record: dict[str, Any]) -> Authority:
        csr = self._session.write(f"transit/keys/{name}/csr", {})["csr"]
        answer = self._session.request(
            "POST",
            "pki/root/sign-intermediate",
            {
                "csr": csr,
                "common_name": _common_name(tenant_id),
                "permitted_dns_domains": ids.tenant_dns(tenant_id),
                "max_path_length": "0",  # a string, as the policy compares it
                "ttl": AUTHORITY_LIFETIME,
            },
        )
        # PKI drops what it does not know and says so only in a warning; a constraint may be what it dropped.
        for warning in answer.get("warnings") or ():
            if not warning.startswith(_EXPECTED_WARNINGS):
                raise ConflictingResource("authority", name, f"the key server warns: {warning}")
        return _checked(tenant_id, record, answer["data"]["certificate"], answer["data"]["issuing_ca"])

    def _signed_before(
        self, tenant_id: str, record: dict[str, Any], unknown_serials: Callable[[Sequence[str]], Sequence[str]]
    ) -> Authority | None:
        """Return the certificate of this key that was signed but never recorded; the oldest, should there be two."""
        path_of = {
            listed.replace(":", "").replace("-", "").lower(): listed for listed in self._session.list("pki/certs")
        }
        wanted = _record_key(record)
        found = []
        for serial in unknown_serials(list(path_of)):
            entry = self._session.read(f"pki/cert/{path_of[serial]}")
            if entry is None or entry.get("revocation_time"):
                continue
            certificate = x509.load_pem_x509_certificate(entry["certificate"].encode())
            if _raw_key(certificate.public_key()) == wanted:
                found.append(certificate)
        if not found:
            return None
        oldest = min(found, key=lambda certificate: (certificate.not_valid_before_utc, certificate.serial_number))
        root = self._session.read("pki/cert/ca")
        if root is None:
            raise KeyUnavailable("the pki root is missing")
        return _checked(tenant_id, record, _pem(oldest), root["certificate"])


def _checked(tenant_id: str, record: dict[str, Any], certificate_pem: str, root_pem: str) -> Authority:
    """Return the authority when it is what was asked for, whoever made it.

    Raises:
        ConflictingResource: another key, another tenant, other constraints, or not signed by the root.
    """
    certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
    root = x509.load_pem_x509_certificate(root_pem.encode())
    serial = hex_serial(certificate)
    if _raw_key(certificate.public_key()) != _record_key(record):
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
    )


def _common_name(tenant_id: str) -> str:
    return f"OpenKCM tenant {tenant_id}"


def _record_key(record: dict[str, Any]) -> bytes:
    pem = record["keys"][str(record["latest_version"])]["public_key"]
    return _raw_key(serialization.load_pem_public_key(pem.encode()))


def _raw_key(key: Any) -> bytes:
    return bytes(key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")
