"""Enrolment: how an agent proves which service it runs beside (docs/enrolment.md).

A join token is a secret that an administrator creates for one service; only its hash is stored. Its text contains the
tenant, which selects the rows to search. It also contains the beginning of the root's fingerprint, by which the agent
authenticates the certificates that it receives.
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
"""The required audience of a platform-issued JWT."""
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
    """Kinds of attestation."""

    JOIN_TOKEN = "join_token"  # noqa: S105 - a word, not a secret
    JWT = "jwt"


class EnrolmentState(StrEnum):
    PENDING = "pending"
    ISSUED = "issued"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class JoinToken:
    """A join token; `text` contains the secret, and `repr` does not show it."""

    tenant_id: str
    secret: str
    ca_fingerprint: str

    def __repr__(self) -> str:
        return f"JoinToken({self.tenant_id})"

    @property
    def text(self) -> str:
        """The complete token as it is given to an agent."""
        return f"{_PREFIX}.{self.tenant_id}.{self.secret}.{self.ca_fingerprint}"

    @property
    def hash(self) -> str:
        """The hash that is stored; the 256 random bits of the secret cannot be recovered from it."""
        return hashlib.sha256(self.secret.encode("ascii")).hexdigest()

    def names(self, root_der: bytes) -> bool:
        """Return whether the token was created for the CA with this root certificate."""
        return hashlib.sha256(root_der).hexdigest().startswith(self.ca_fingerprint)


def join_token(tenant_id: str, secret: str, root_der: bytes) -> JoinToken:
    """Return the token for a random secret of `SECRET_CHARACTERS`."""
    return JoinToken(tenant_id, secret, hashlib.sha256(root_der).hexdigest()[:_FINGERPRINT_CHARACTERS])


def parse_join_token(text: str) -> JoinToken:
    """Return a token from its text; does not check whether the platform created it.

    Raises:
        InvalidName: the format is wrong; the error does not quote the text.
    """
    found = _TOKEN.fullmatch(text.strip())
    if found is None:
        raise InvalidName("join token", "the whole text that begins with okcmj1, as it was displayed once")
    return JoinToken(parse_tenant_id(found[1]), found[2], found[3])


def parse_lifetime(text: str) -> timedelta:
    """Return the lifetime of a token, such as `1h` or `30m`; raises InvalidName."""
    found = _LIFETIME.fullmatch(text.strip())
    lifetime = timedelta() if found is None else timedelta(**{_UNITS[found[2]]: int(found[1])})
    if not timedelta() < lifetime <= LONGEST_LIFETIME:
        raise InvalidName("lifetime", "a number and one of s, m, h, at most 24h, such as 1h")
    return lifetime


def enrolment_name(tenant_id: str, enrolment_id: str) -> str:
    """Return the public name of an enrolment, which contains its tenant."""
    return f"{tenant_id}.{enrolment_id}"


def parse_enrolment_name(text: str) -> tuple[str, str] | None:
    """Return the tenant and the id in an enrolment's name, None for an invalid name."""
    found = _ENROLMENT.fullmatch(text)
    return None if found is None else (found[1], found[2])


def folder_of(service: str) -> str:
    """Return the default folder of a service's files."""
    return f"/etc/openkcm/{service}"


def agent_command(url: str, service: str, kind: ServiceKind, folder: str) -> str:
    """Return the command to run beside a service; it reads the token from standard input, which no history stores."""
    return f"openkcm agent --url {url} --service {service} --kind {kind} --out '{folder}' --join-token-file -"
