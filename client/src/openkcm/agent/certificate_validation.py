"""Checks on an issued certificate: the service's key, its name, and the CA that it trusts; pure.

A certificate that fails a check is never written: the folder keeps the present one until it expires.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization

from openkcm.agent.errors import AnswerNotUnderstood
from openkcm.credentials.store import service_of


@dataclass(frozen=True, slots=True)
class Issued:
    """The service's certificate with its intermediates, without the root, and the root that the service trusts."""

    leaf: x509.Certificate
    presented: str
    root: str


def verify_issued(certificate: str, chain: str, root: x509.Certificate, tenant_id: str | None, service: str) -> Issued:
    """Return the issued certificate after verification.

    `chain` starts with the issuer and may end with the root or below it. The caller MUST also compare the certificate's
    key with the key in the folder.

    Raises:
        AnswerNotUnderstood: it names another service or tenant (any tenant where None), or does not chain to `root`.
    """
    try:
        leaf = x509.load_pem_x509_certificate(certificate.encode())
        issuers = x509.load_pem_x509_certificates(chain.encode()) if chain.strip() else []
    except ValueError:
        raise AnswerNotUnderstood from None
    named = service_of(leaf)
    if named is None or named != (tenant_id or named[0], service):
        raise AnswerNotUnderstood("the certificate is for another service", "check --service and the attestation")
    between = [one for one in issuers if one != root]
    _verify_signatures([leaf, *between, root])
    return Issued(leaf, "".join(map(_pem, [leaf, *between])), _pem(root))


def root_of(chain: str) -> x509.Certificate | None:
    """Return the root at the end of a chain, None when the chain ends below it."""
    try:
        *_, last = x509.load_pem_x509_certificates(chain.encode())
    except ValueError:
        return None
    return last if last.subject == last.issuer else None


def serial_of(leaf: x509.Certificate) -> str:
    """Return the serial in lower-case hex, as the platform writes it."""
    return f"{leaf.serial_number:x}"


def is_valid(leaf: x509.Certificate, now: datetime) -> bool:
    return now < leaf.not_valid_after_utc


def _verify_signatures(links: Sequence[x509.Certificate]) -> None:
    for lower, upper in pairwise(links):
        try:
            lower.verify_directly_issued_by(upper)
        except (ValueError, TypeError, InvalidSignature):
            raise AnswerNotUnderstood("the certificate does not chain to the trusted CA") from None


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")
