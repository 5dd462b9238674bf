"""Attestation of an agent: a join token, or a JWT of a configured issuer (RFC 7519, RFC 8725).

Both result in a `Claim`: tenant, service, and the hash by which an attestation is used for one key only. The
transaction that uses a join token looks up its secret; a JWT is verified here. No response gives the reason for a
rejection.
"""

import base64
import binascii
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from joserfc import jws
from joserfc.errors import JoseError, UnsupportedAlgorithmError
from joserfc.jws import JWSRegistry

from marketplace.enrolment.jwks import ALGORITHMS, Issuers
from openkcm.contract.enrolment import AUDIENCE, Proof, parse_join_token
from openkcm.contract.names import parse_service_name, parse_tenant_id
from openkcm.errors import IllegalTenantId, InvalidName, ProofRefused

LONGEST_JWT = 8192
LEEWAY_SECONDS = 60.0
LONGEST_LIFE_SECONDS = 24 * 3600.0
"""A JWT with a longer validity is as dangerous as a password."""
_TICKET = b"openkcm-ticket/1"
_HEADER_KEYS = frozenset({"alg", "kid", "typ"})
_TYPES = frozenset({"JWT", "AT+JWT"})


@dataclass(frozen=True, slots=True)
class Claim:
    """The identity that an agent claims; a JWT proves it. `service` is None for a token: the database knows it."""

    tenant_id: str
    service: str | None
    proof: Proof
    proof_hash: str = field(repr=False)
    ticket_key: bytes = field(repr=False)

    def ticket(self, enrolment_id: str, key_hash: str) -> str:
        """Return the ticket of an enrolment, which is the same for the same attestation and key.

        An agent that lost the response repeats the request. Only a holder of the attestation can compute the ticket,
        and the attestation is as secret as the ticket.
        """
        message = b"|".join((_TICKET, enrolment_id.encode(), key_hash.encode()))
        mac = hmac.new(self.ticket_key, message, hashlib.sha256).digest()
        return base64.urlsafe_b64encode(mac).rstrip(b"=").decode()


def token_claim(text: str) -> Claim:
    """Return the claim of a join token, whose existence the database verifies.

    Raises:
        ProofRefused: it is malformed.
    """
    try:
        token = parse_join_token(text)
    except (InvalidName, IllegalTenantId):
        raise ProofRefused from None
    return Claim(token.tenant_id, None, Proof.JOIN_TOKEN, token.hash, hashlib.sha256(text.strip().encode()).digest())


class JwtProof:
    def __init__(self, issuers: Issuers, clock: Callable[[], float] = time.time) -> None:
        self._issuers = issuers
        self._clock = clock

    async def claim(self, text: str) -> Claim:
        """Verify a JWT and return its claim.

        Raises:
            ProofRefused: the issuer is unknown, the audience or the time is wrong, or it names no valid service.
            IssuerUnavailable: the keys of the issuer are not available.
        """
        parts = text.split(".")
        if len(text) > LONGEST_JWT or len(parts) != 3 or not text.isascii():
            _refuse()
        header, claims = _object(parts[0]), _object(parts[1])
        algorithm, key_id = self._header(header)
        name = claims.get("iss")
        issuer = self._issuers.get(name) if isinstance(name, str) else None
        if issuer is None or not isinstance(name, str):
            _refuse()
        await self._verify(text, name, algorithm, key_id)
        self._check_times(claims)
        audience = claims.get("aud")
        if AUDIENCE not in (audience if isinstance(audience, list) else [audience]):
            _refuse()
        try:
            tenant_id = parse_tenant_id(_text(claims, issuer.tenant_claim))
            service = parse_service_name(_text(claims, issuer.service_claim))
        except (IllegalTenantId, InvalidName):
            _refuse()
        if issuer.tenants is not None and tenant_id not in issuer.tenants:
            _refuse()
        return Claim(
            tenant_id,
            service,
            Proof.JWT,
            _proof_hash(name, claims, f"{parts[0]}.{parts[1]}"),
            hashlib.sha256(text.encode()).digest(),
        )

    @staticmethod
    def _header(header: Mapping[str, Any]) -> tuple[str, str | None]:
        """Return algorithm and key id; reject header fields that refer to a key elsewhere."""
        algorithm, key_id, kind = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
        if not isinstance(algorithm, str) or algorithm not in ALGORITHMS or not header.keys() <= _HEADER_KEYS:
            _refuse()
        if not isinstance(key_id, str | None) or not isinstance(kind, str) or kind.upper() not in _TYPES:
            _refuse()
        return algorithm, key_id

    async def _verify(self, text: str, name: str, algorithm: str, key_id: str | None) -> None:
        for key in await self._issuers.keys(name, algorithm, key_id):
            try:
                jws.deserialize_compact(text, key, registry=_Exactly(algorithms=[algorithm]))
            except (JoseError, ValueError, TypeError):
                continue
            return
        _refuse()

    def _check_times(self, claims: Mapping[str, Any]) -> None:
        now = self._clock()
        issued, expires = _number(claims, "iat"), _number(claims, "exp")
        begins = _number(claims, "nbf") if "nbf" in claims else issued
        if (
            expires <= now - LEEWAY_SECONDS
            or max(issued, begins) > now + LEEWAY_SECONDS
            or not 0 < expires - issued <= LONGEST_LIFE_SECONDS
        ):
            _refuse()


class _Exactly(JWSRegistry):
    """Accepts one algorithm. As in the library, without its warning that EdDSA has a newer name (RFC 9864)."""

    def get_alg(self, name: str) -> Any:
        if self.allowed is None or name not in self.allowed:
            raise UnsupportedAlgorithmError(f"Algorithm of '{name}' is not allowed")
        return self.algorithms[name]


def _refuse() -> NoReturn:
    raise ProofRefused


def _proof_hash(issuer: str, claims: Mapping[str, Any], signed: str) -> str:
    """Return the hash that identifies a JWT: issuer and `jti`, or without `jti` issuer and signed content.

    The signature is no identifier: for some algorithms, two encodings of one signature verify.
    """
    number = claims.get("jti")
    parts = ["jti", issuer, number] if isinstance(number, str) and number else ["signed", issuer, signed]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _object(part: str) -> dict[str, Any]:
    """Return the JSON object in one part of a JWT, which must be base64url without padding."""
    try:
        text = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
        if base64.urlsafe_b64encode(text).rstrip(b"=").decode() != part:
            _refuse()
        # Reject NaN and Infinity, which are not JSON and make time comparisons invalid, and duplicate names, which are
        # ambiguous.
        read = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_unique)
    except (binascii.Error, ValueError, RecursionError):
        raise ProofRefused from None
    if not isinstance(read, dict):
        _refuse()
    return read


def _no_constant(_text: str) -> NoReturn:
    raise ValueError


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str):
        _refuse()
    return value


def _number(claims: Mapping[str, Any], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        _refuse()
    try:
        return float(value)
    except OverflowError:
        _refuse()
