"""The public keys of the configured issuers (RFC 7517), read with limits and cached for minutes.

The operator configures where they are (an https address or a file). Fields of a token (`jku`, `x5u`, `jwk`) have no
effect. A read follows no redirects and has limits for time and size. An unknown key id triggers a new read at most once
per `PAUSE_SECONDS`, so that a flood of invented key ids does not become a flood of requests to the issuer.
"""

import asyncio
import json
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import structlog
from joserfc import jwk
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey

from config.settings import WorkloadIssuer
from core.errors.requests import IssuerUnavailable

ALGORITHMS = {"RS256": "RSA", "ES256": "EC", "EdDSA": "OKP"}
"""Accepted signature algorithms with their key types. No symmetric algorithm, and never `none`."""
FRESH_SECONDS = 300.0
STALE_SECONDS = 3600.0
"""How long cached keys stay valid if they cannot be read again."""
PAUSE_SECONDS = 30.0
MOST_BYTES = 262_144
MOST_KEYS = 100
_READ_SECONDS = 5.0
_CONNECT_SECONDS = 2.0
"""Time of a connection, and as much again for its TLS handshake. Both end before the whole read, because httpx2 keeps
the connection of a cancelled handshake open for as long as the issuer does."""
_LEAST_RSA_CHARACTERS = 342
"""Length of a 2048-bit modulus in base64url."""
_CURVES = frozenset({None, "P-256", "Ed25519"})
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})

_log = structlog.get_logger(__name__)

Key = RSAKey | ECKey | OKPKey
Read = Callable[[str], Awaitable[bytes]]


@dataclass(slots=True)
class _Known:
    keys: Sequence[tuple[str | None, str | None, Key]] = ()
    read_at: float = -STALE_SECONDS
    tried_at: float = -STALE_SECONDS
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Issuers:
    def __init__(
        self,
        issuers: Mapping[str, WorkloadIssuer],
        read: Read | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuers = dict(issuers)
        self._read = read or read_keys
        self._clock = clock
        self._known = {name: _Known() for name in self._issuers}

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the configured issuers."""
        return tuple(self._issuers)

    def get(self, name: str) -> WorkloadIssuer | None:
        """Return an issuer by its exact name."""
        return self._issuers.get(name)

    async def keys(self, name: str, algorithm: str, key_id: str | None) -> Sequence[Key]:
        """Return the keys of an issuer that match algorithm and key id.

        Raises:
            IssuerUnavailable: they cannot be read and are not in the cache.
        """
        known = self._known[name]
        if self._clock() - known.read_at > FRESH_SECONDS or not self._fitting(known, algorithm, key_id):
            async with known.turn:
                await self._refresh(name, known)
        if self._clock() - known.read_at > STALE_SECONDS:
            raise IssuerUnavailable
        return self._fitting(known, algorithm, key_id)

    async def _refresh(self, name: str, known: _Known) -> None:
        """Read the keys again, at most once per `PAUSE_SECONDS`."""
        if self._clock() - known.tried_at < PAUSE_SECONDS:
            return
        known.tried_at = self._clock()
        try:
            async with asyncio.timeout(_READ_SECONDS):
                known.keys = parse_keys(await self._read(self._issuers[name].jwks))
            known.read_at = self._clock()
        except (OSError, TimeoutError, ValueError, RecursionError, httpx2.HTTPError, httpx2.InvalidURL) as failed:
            # Only the type of the error: its text can quote the issuer's response.
            _log.warning("cannot read the keys of an issuer", issuer=name, problem=type(failed).__name__)

    @staticmethod
    def _fitting(known: _Known, algorithm: str, key_id: str | None) -> Sequence[Key]:
        return [
            key
            for kid, alg, key in known.keys
            if key.key_type == ALGORITHMS[algorithm] and alg in {None, algorithm} and (key_id is None or kid == key_id)
        ]


def parse_keys(text: bytes) -> Sequence[tuple[str | None, str | None, Key]]:
    """Return the usable keys of a key set with their ids and algorithms; skip all others.

    Raises:
        ValueError: it is not a key set.
    """
    document = json.loads(text)
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list) or len(listed) > MOST_KEYS:
        raise ValueError("not a key set")
    return [found for one in listed if (found := _usable(one)) is not None]


def _usable(one: Any) -> tuple[str | None, str | None, Key] | None:
    # A symmetric or private key in a public set is not secret, so its signatures prove nothing.
    if not isinstance(one, dict) or _PRIVATE & one.keys() or one.get("use", "sig") != "sig":
        return None
    kind = one.get("kty")
    if kind not in ALGORITHMS.values() or one.get("crv") not in _CURVES:
        return None
    kid, alg = one.get("kid"), one.get("alg")
    too_short = kind == "RSA" and len(str(one.get("n"))) < _LEAST_RSA_CHARACTERS
    if too_short or not isinstance(kid, str | None) or not isinstance(alg, str | None):
        return None
    try:
        key = jwk.import_key(one)
    except (JoseError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return (kid, alg, key) if isinstance(key, RSAKey | ECKey | OKPKey) else None


async def read_keys(place: str) -> bytes:
    """Return the content of an https address or a file.

    Raises:
        OSError, ValueError, httpx2.HTTPError: it cannot be read, is too long, or has a status other than 200.
    """
    if "://" not in place:
        return await asyncio.to_thread(_read_file, Path(place))
    timeout = httpx2.Timeout(_READ_SECONDS, connect=_CONNECT_SECONDS)
    trusted = ssl.create_default_context()  # with `trust_env=False`, the client's own would not read SSL_CERT_FILE
    async with (
        httpx2.AsyncClient(follow_redirects=False, trust_env=False, timeout=timeout, verify=trusted) as client,
        client.stream("GET", place, headers={"accept": "application/json", "accept-encoding": "identity"}) as answer,
    ):
        if answer.status_code != httpx2.codes.OK:
            raise ValueError("status is not 200")
        found = bytearray()
        async for chunk in answer.aiter_raw():
            found += chunk
            if len(found) > MOST_BYTES:
                raise ValueError("too long")
    return bytes(found)


def _read_file(file: Path) -> bytes:
    with file.open("rb") as stream:
        found = stream.read(MOST_BYTES + 1)
    if len(found) > MOST_BYTES:
        raise ValueError("too long")
    return found
