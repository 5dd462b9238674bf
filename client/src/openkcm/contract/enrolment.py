"""Enrolment: how an agent beside a customer's workload proves which service it is (docs/enrolment.md).

A join token is a secret that an administrator makes for one service; what is stored of it is a hash. Its text names the
tenant, because whose rows are looked at must be known first, and the beginning of the root's fingerprint, by which the
agent sees that the certificates it is given are ours.
"""

import hashlib
import re
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from openkcm.contract.names import parse_tenant_id
from openkcm.contract.services import ServiceKind
from openkcm.errors import InvalidName

AUDIENCE = "openkcm"
"""Whom a platform-issued JWT must be meant for."""
DISCOVERY_PATH = "/.well-known/openkcm"
ENROLMENTS_PATH = "/v1/enrolments"
DEFAULT_LIFETIME = timedelta(hours=1)
LONGEST_LIFETIME = timedelta(hours=24)
SECRET_CHARACTERS = 43
"""32 random bytes in base64url without padding."""
_FINGERPRINT_CHARACTERS = 32

_PREFIX = "okcmj1"
_TOKEN = re.compile(
    rf"{_PREFIX}\.([a-z0-9-]{{3,40}})\.([A-Za-z0-9_-]{{{SECRET_CHARACTERS}}})\.([0-9a-f]{{{_FINGERPRINT_CHARACTERS}}})"
)
_LIFETIME = re.compile(r"([1-9][0-9]{0,4})([smh])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours"}
_ENROLMENT = re.compile(r"([a-z0-9][a-z0-9-]{2,39})\.([0-9a-f]{32})")


class Proof(StrEnum):
    """How an agent shows which service it is."""

    JOIN_TOKEN = "join_token"  # noqa: S105 - a word, not a secret
    JWT = "jwt"


class EnrolmentState(StrEnum):
    PENDING = "pending"
    ISSUED = "issued"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class JoinToken:
    """`text` is the secret whole; no `repr` shows it."""

    tenant_id: str
    secret: str
    ca_fingerprint: str

    def __repr__(self) -> str:
        return f"JoinToken({self.tenant_id})"

    @property
    def text(self) -> str:
        """The token as it is handed over."""
        return f"{_PREFIX}.{self.tenant_id}.{self.secret}.{self.ca_fingerprint}"

    @property
    def hash(self) -> str:
        """What is stored of it; of 256 random bits nobody finds the original."""
        return hashlib.sha256(self.secret.encode("ascii")).hexdigest()

    def names(self, root_der: bytes) -> bool:
        """Return whether a root certificate is the one that the token was made beside."""
        return hashlib.sha256(root_der).hexdigest().startswith(self.ca_fingerprint)


def join_token(tenant_id: str, secret: str, root_der: bytes) -> JoinToken:
    """Return the token of a secret of `SECRET_CHARACTERS` that the caller drew."""
    return JoinToken(tenant_id, secret, hashlib.sha256(root_der).hexdigest()[:_FINGERPRINT_CHARACTERS])


def parse_join_token(text: str) -> JoinToken:
    """Return a token from its text; says nothing of whether it is one of ours.

    Raises:
        InvalidName: it has not the form of one; the text never quotes it.
    """
    found = _TOKEN.fullmatch(text.strip())
    if found is None:
        raise InvalidName("join token", "the whole text that begins with okcmj1, as it was shown once")
    return JoinToken(parse_tenant_id(found[1]), found[2], found[3])


def parse_lifetime(text: str) -> timedelta:
    """Return how long a token may be used, such as `1h` or `30m`; raises InvalidName."""
    found = _LIFETIME.fullmatch(text.strip())
    lifetime = timedelta() if found is None else timedelta(**{_UNITS[found[2]]: int(found[1])})
    if not timedelta() < lifetime <= LONGEST_LIFETIME:
        raise InvalidName("lifetime", "a number and one of s, m, h, at most 24h, such as 1h")
    return lifetime


def enrolment_name(tenant_id: str, enrolment_id: str) -> str:
    """Return what an enrolment is called outside, where nothing else says whose it is."""
    return f"{tenant_id}.{enrolment_id}"


def parse_enrolment_name(text: str) -> tuple[str, str] | None:
    """Return the tenant and the id that an enrolment's name says, None for what is no name."""
    found = _ENROLMENT.fullmatch(text)
    return None if found is None else (found[1], found[2])


def folder_of(service: str) -> str:
    """Return where a service's files go unless somebody says otherwise."""
    return f"/etc/openkcm/{service}"


def agent_command(url: str, service: str, kind: ServiceKind, folder: str) -> str:
    """Return the command to run beside a service; it reads the token from standard input, so no history keeps it."""
    return f"openkcm agent --url {url} --service {service} --kind {kind} --out '{folder}' --join-token-file -"
