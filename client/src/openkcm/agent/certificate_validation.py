"""Whether what was issued is what the service can use: for its key, in its name, under the authority it trusts; pure.

A folder never gets a certificate that is not: what is there goes on until it ends.
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
    """What the service presents (its certificate and what is above it, without the root), and the root it trusts."""

    leaf: x509.Certificate
    presented: str
    root: str


def checked(certificate: str, chain: str, root: x509.Certificate, tenant_id: str | None, service: str) -> Issued:
    """Return what was issued.

    `chain` goes from the issuer up; whether it ends with the root or below it does not matter. That the certificate is
    for the key in the folder is for the caller to ask.

    Raises:
        AnswerNotUnderstood: it is not of this service and tenant (any where None), or does not hang from `root`.
    """
    try:
        leaf = x509.load_pem_x509_certificate(certificate.encode())
        above = x509.load_pem_x509_certificates(chain.encode()) if chain.strip() else []
    except ValueError:
        raise AnswerNotUnderstood from None
    named = service_of(leaf)
    if named is None or named != (tenant_id or named[0], service):
        raise AnswerNotUnderstood("the certificate is another service's", "check --service and the proof")
    between = [one for one in above if one != root]
    _refuse_broken([leaf, *between, root])
    return Issued(leaf, "".join(map(_pem, [leaf, *between])), _pem(root))


def root_of(chain: str) -> x509.Certificate | None:
    """Return the root that a chain ends with, None when it ends below it."""
    try:
        *_, last = x509.load_pem_x509_certificates(chain.encode())
    except ValueError:
        return None
    return last if last.subject == last.issuer else None


def serial_of(leaf: x509.Certificate) -> str:
    """Return the serial as the platform writes it."""
    return f"{leaf.serial_number:x}"


def is_valid(leaf: x509.Certificate, now: datetime) -> bool:
    return now < leaf.not_valid_after_utc


def _refuse_broken(links: Sequence[x509.Certificate]) -> None:
    for lower, upper in pairwise(links):
        try:
            lower.verify_directly_issued_by(upper)
        except (ValueError, TypeError, InvalidSignature):
            raise AnswerNotUnderstood("the certificate does not hang from the authority that is trusted") from None


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")
