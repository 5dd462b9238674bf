"""Reading the claims of a sign-on: who somebody is, for whom they work, and which sign-on this is. Pure.

The claims come from an ID token that Streamlit verified at the sign-on and keeps in a signed cookie for a month;
nothing in it looks at `exp` again. So everything is read here anew at each request, and what is not exactly as asked
for is no sign-on (OpenID Connect Core 1.0, section 2).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from core.errors.tenants import AccessDenied, SessionEnded
from core.tenants.roles import OPERATORS, Person, PersonRole
from openkcm.contract.names import parse_tenant_id
from openkcm.errors import IllegalTenantId

FRESH = timedelta(minutes=5)
"""How old a sign-on may be that this server sees for the first time; an older one was not made here, or was ended."""
_SKEW = timedelta(minutes=1)
"""By how much the sign-on's clock may be ahead of ours."""
_LONGEST = 300


@dataclass(frozen=True, slots=True)
class ClaimNames:
    """How the platform's single sign-on calls what it says about people."""

    tenant: str
    roles: str


@dataclass(frozen=True, slots=True)
class Session:
    """`session_id` is the same in every tab of one sign-on and in no other sign-on."""

    person: Person
    session_id: str
    issued_at: datetime
    expires_at: datetime


def read(claims: Mapping[str, object], names: ClaimNames, now: datetime) -> Session:
    """Return the sign-on that the claims describe.

    Raises:
        SessionEnded: it has expired, or says it was made in the future.
        AccessDenied: it names nobody, no role we know, or no tenant.
    """
    issuer, subject = _text(claims, "iss"), _text(claims, "sub")
    issued_at, expires_at = _time(claims, "iat"), _time(claims, "exp")
    if now >= expires_at or issued_at > now + _SKEW:
        raise SessionEnded
    person = _person(claims, names, subject)
    # The nonce is this server's own and new for each sign-on; `sid` and `jti` are the issuer's, where it gives them.
    unique = [str(claims.get(name, "")) for name in ("nonce", "sid", "jti")]
    parts = [issuer, subject, str(int(issued_at.timestamp())), *unique]
    session_id = hashlib.sha256("".join(f"{len(part)}:{part}" for part in parts).encode()).hexdigest()
    return Session(person, session_id, issued_at, expires_at)


def _person(claims: Mapping[str, object], names: ClaimNames, subject: str) -> Person:
    roles = _roles(claims.get(names.roles))
    name = claims.get("name")
    shown = name if isinstance(name, str) and name.strip() else subject
    if PersonRole.OPERATOR in roles:
        # Whoever works for the platform works for no customer, whatever else the claims say.
        if names.tenant in claims:
            raise AccessDenied("an operator works for no tenant", "sign in as one or the other")
        return Person(subject, shown[:_LONGEST], OPERATORS, frozenset({PersonRole.OPERATOR}))
    try:
        tenant_id = parse_tenant_id(_text(claims, names.tenant))
    except IllegalTenantId:
        raise AccessDenied from None
    return Person(subject, shown[:_LONGEST], tenant_id, roles)


def _roles(claim: object) -> frozenset[PersonRole]:
    """Return the roles that are known here; a role of another product gives nothing and is no fault."""
    listed = [claim] if isinstance(claim, str) else claim if isinstance(claim, list) else []
    known = frozenset(PersonRole(role) for role in listed if isinstance(role, str) and role in set(PersonRole))
    if not known:
        raise AccessDenied("your account has no role here", "ask your platform's administrator for a role in OpenKCM")
    return known


def _text(claims: Mapping[str, object], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST:
        raise AccessDenied("the sign-on does not say who you are and for whom", "ask the operator about its claims")
    return value


def _time(claims: Mapping[str, object], name: str) -> datetime:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SessionEnded
    try:
        return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        raise SessionEnded from None
