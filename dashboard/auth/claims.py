"""Reads the claims of a sign-on: user, tenant, roles and session. Pure.

The claims come from an ID token that Streamlit verified at the sign-on and keeps in a signed cookie for a month.
Streamlit does not check `exp` again. So every request checks all claims here and rejects any deviation (OpenID Connect
Core 1.0, section 2).
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
"""Maximum age of a sign-on that this server sees for the first time; an older one was ended, or made elsewhere."""
_SKEW = timedelta(minutes=1)
"""How far the clock of the single sign-on may be ahead."""
_LONGEST = 300


@dataclass(frozen=True, slots=True)
class ClaimNames:
    """Names of the claims of the platform's single sign-on for tenant and roles."""

    tenant: str
    roles: str


@dataclass(frozen=True, slots=True)
class Session:
    """`session_id` is the same in every tab of one sign-on and differs between sign-ons."""

    person: Person
    session_id: str
    issued_at: datetime
    expires_at: datetime


def read(claims: Mapping[str, object], names: ClaimNames, now: datetime) -> Session:
    """Return the session that the claims describe.

    Raises:
        SessionEnded: it has expired, or was issued in the future.
        AccessDenied: a claim for the user, the tenant or a known role is missing.
    """
    issuer, subject = _text(claims, "iss"), _text(claims, "sub")
    issued_at, expires_at = _time(claims, "iat"), _time(claims, "exp")
    if now >= expires_at or issued_at > now + _SKEW:
        raise SessionEnded
    person = _person(claims, names, subject)
    # The nonce is from this server and new for each sign-on; `sid` and `jti` are from the issuer, where present.
    unique = [str(claims.get(name, "")) for name in ("nonce", "sid", "jti")]
    parts = [issuer, subject, str(int(issued_at.timestamp())), *unique]
    session_id = hashlib.sha256("".join(f"{len(part)}:{part}" for part in parts).encode()).hexdigest()
    return Session(person, session_id, issued_at, expires_at)


def _person(claims: Mapping[str, object], names: ClaimNames, subject: str) -> Person:
    roles = _roles(claims.get(names.roles))
    name = claims.get("name")
    shown = name if isinstance(name, str) and name.strip() else subject
    if PersonRole.OPERATOR in roles:
        # An operator has no access to a customer's tenant, regardless of the other claims.
        if names.tenant in claims:
            raise AccessDenied("an operator account must not name a tenant", "sign in with a separate account for each")
        return Person(subject, shown[:_LONGEST], OPERATORS, frozenset({PersonRole.OPERATOR}))
    try:
        tenant_id = parse_tenant_id(_text(claims, names.tenant))
    except IllegalTenantId:
        raise AccessDenied from None
    return Person(subject, shown[:_LONGEST], tenant_id, roles)


def _roles(claim: object) -> frozenset[PersonRole]:
    """Return the known roles; roles of other products are ignored."""
    listed = [claim] if isinstance(claim, str) else claim if isinstance(claim, list) else []
    known = frozenset(PersonRole(role) for role in listed if isinstance(role, str) and role in set(PersonRole))
    if not known:
        raise AccessDenied(
            "your account has no role in OpenKCM", "ask your platform's administrator for a role in OpenKCM"
        )
    return known


def _text(claims: Mapping[str, object], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST:
        raise AccessDenied(
            "the sign-on has no usable claim for the user or the tenant", "ask the operator about its claims"
        )
    return value


def _time(claims: Mapping[str, object], name: str) -> datetime:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SessionEnded
    try:
        return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        raise SessionEnded from None
