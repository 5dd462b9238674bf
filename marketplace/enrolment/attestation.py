"""What an agent proves with: a join token, or a JWT of an issuer in settings (RFC 7519, RFC 8725).

Both end in a `Claim`: whose service, and the hash of what must not prove two keys. A token's secret is looked up, in
the transaction that uses it; a JWT is verified here. Why a proof is refused is said to nobody outside.
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
"""A JWT that is good for longer is a password."""
_TICKET = b"openkcm-ticket/1"
_HEADER_KEYS = frozenset({"alg", "kid", "typ"})
_TYPES = frozenset({"JWT", "AT+JWT"})


@dataclass(frozen=True, slots=True)
class Claim:
    """Who somebody says to be; of a JWT it is proven. `service` is None where the database knows for which it is."""

    tenant_id: str
    service: str | None
    proof: Proof
    proof_hash: str = field(repr=False)
    ticket_key: bytes = field(repr=False)

    def ticket(self, enrolment_id: str, key_hash: str) -> str:
        """Return the ticket of an enrolment, the same one for the same proof and key: a lost answer is asked for again.

        Nobody can compute it who has not the proof, which is as secret as it is.
        """
        message = b"|".join((_TICKET, enrolment_id.encode(), key_hash.encode()))
        mac = hmac.new(self.ticket_key, message, hashlib.sha256).digest()
        return base64.urlsafe_b64encode(mac).rstrip(b"=").decode()


def token_claim(text: str) -> Claim:
    """Return what a join token claims; whether there is such a one is for the database. Raises ProofRefused."""
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
        """Return what a JWT proves.

        Raises:
            ProofRefused: it is not by one of our issuers, not for us, not of now, or names no service.
            IssuerUnavailable: nobody can say.
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
        """Return algorithm and key id; anything that would have us look elsewhere for a key is refused."""
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
    """One algorithm and no other. As the library's own, without its warning that EdDSA has a newer name (RFC 9864)."""

    def get_alg(self, name: str) -> Any:
        if self.allowed is None or name not in self.allowed:
            raise UnsupportedAlgorithmError(f"Algorithm of '{name}' is not allowed")
        return self.algorithms[name]


def _refuse() -> NoReturn:
    raise ProofRefused


def _proof_hash(issuer: str, claims: Mapping[str, Any], signed: str) -> str:
    """Return what a JWT is known by: issuer and jti, without a jti what was signed.

    Not the signature, which for some algorithms can be written in two ways that both verify.
    """
    number = claims.get("jti")
    parts = ["jti", issuer, number] if isinstance(number, str) and number else ["signed", issuer, signed]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _object(part: str) -> dict[str, Any]:
    """Return the JSON object in one part of a JWT, which is base64url without padding and nothing else."""
    try:
        text = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
        if base64.urlsafe_b64encode(text).rstrip(b"=").decode() != part:
            _refuse()
        # No NaN or Infinity: neither is JSON, and both compare as no time does. No name twice, which reads two ways.
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
