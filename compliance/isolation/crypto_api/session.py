"""Sessions of the probe services at both APIs, their test data, and a pool of sessions.

The pool keeps the connections of the positive controls open from one tenant to the next. A handshake costs the service
more than the requests of a check, so new connections for thousands of tenants would delay requests of customers.
"""

import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Self, TypeVar

from compliance.isolation.crypto_api.https_client import Answer as HttpsAnswer
from compliance.isolation.crypto_api.https_client import HttpsProbeClient
from compliance.isolation.crypto_api.kmip_client import Answer as KmipAnswer
from compliance.isolation.crypto_api.kmip_client import KmipProbeClient, Operation, Reason, Sealed
from compliance.isolation.crypto_api.model import Identity, ProbeRefused
from compliance.isolation.crypto_api.tls_client import HandshakeRejected

_ROUND = "boundary-round"
"""The group of the keys that are created for one round of checks and destroyed at its end."""
_LEFT_BEHIND_SECONDS = 3600
_KEPT = "boundary-probe"
"""The name of the key that each probe service keeps as an existing object."""
_PLAINTEXT_BYTES = 24

Answer = TypeVar("Answer", HttpsAnswer, KmipAnswer)


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Addresses of the APIs."""

    host: str
    https_port: int
    kmip_port: int

    def https(self, identity: Identity) -> HttpsProbeClient:
        return HttpsProbeClient(self.host, self.https_port, identity)

    def kmip(self, identity: Identity) -> KmipProbeClient:
        return KmipProbeClient(self.host, self.kmip_port, identity)


@dataclass(frozen=True, slots=True)
class ProbeFixtures:
    """Test data of one service: ciphertexts over HTTPS, and two keys over KMIP, of which the first encrypted data."""

    resource: str
    ciphertext: str
    wrapped: str
    name: str
    key: str
    spare: str
    sealed: Sealed
    plaintext: bytes = field(repr=False)
    data_key: bytes = field(repr=False)


class ProbeSession:
    """Connections of one identity to both APIs."""

    def __init__(self, address: Endpoints, identity: Identity) -> None:
        """Connect to both APIs; raises ProbeRefused, CryptoApiUnreachable, CryptoApiFailing."""
        self.identity = identity
        with ExitStack() as stack:
            try:
                self.https = stack.enter_context(address.https(identity))
                self.kmip = stack.enter_context(address.kmip(identity))
            except HandshakeRejected as ended:
                raise ProbeRefused("the crypto service rejects the TLS handshake of the probe service") from ended
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stack.close()

    def is_open(self) -> bool:
        return self.https.is_open() and self.kmip.is_open()

    def create_fixtures(self) -> ProbeFixtures:
        """Create the test data; raises ProbeRefused if a request fails.

        First destroy keys of an interrupted round, when they are old enough that no running round uses them.
        """
        self._destroy(*worked(self.kmip.made_before(_ROUND, int(time.time()) - _LEFT_BEHIND_SECONDS)).ids())
        resource, name = f"probe/{uuid.uuid4().hex}", f"probe {uuid.uuid4().hex}"
        plaintext = os.urandom(_PLAINTEXT_BYTES)
        ciphertext = worked(self.https.encrypt(resource, plaintext)).text("ciphertext")
        made = worked(self.https.new_data_key(resource))
        (key,), (spare,) = (worked(self.kmip.create(one, _ROUND)).ids() for one in (name, f"{name} spare"))
        for object_id in (key, spare):
            worked(self.kmip.about(Operation.ACTIVATE, object_id))
        sealed = worked(self.kmip.encrypt(key, plaintext)).sealed()
        wrapped, data_key = made.text("wrapped"), made.octets("plaintext")
        return ProbeFixtures(resource, ciphertext, wrapped, name, key, spare, sealed, plaintext, data_key)

    def clear(self, of: ProbeFixtures) -> None:
        """Destroy the keys; raises ProbeRefused. This shows that the controls do not block the owner."""
        self._destroy(of.key, of.spare)

    def _destroy(self, *object_ids: str) -> None:
        for object_id in object_ids:
            self.kmip.about(Operation.REVOKE, object_id)  # fails for a destroyed key, without effect
            worked(self.kmip.about(Operation.DESTROY, object_id))

    def kept_key(self) -> str:
        """Return the kept key of this service; create it if it does not exist. Raises ProbeRefused."""
        found = worked(self.kmip.locate(_KEPT)).ids()
        return found[0] if found else worked(self.kmip.create(_KEPT)).ids()[0]

    def works(self) -> bool:
        """Return whether both APIs accept an authorized request of this service."""
        return self.https.encrypt("probe", b"control").worked and self.kmip.query().worked


def worked(answer: Answer) -> Answer:
    """Return the answer to an authorized request; raises ProbeRefused if it was rejected."""
    if not answer.worked:
        raise ProbeRefused(f"an authorized request of the probe service was rejected: {answer.summary}")
    return answer


def altered(text: str) -> str:
    """Return the ciphertext with one character changed."""
    middle = len(text) // 2
    return f"{text[:middle]}{'A' if text[middle] != 'A' else 'B'}{text[middle + 1 :]}"


def is_not_there(answer: KmipAnswer, never: KmipAnswer) -> bool:
    """Return whether the answer for an object equals the answer for an object that does not exist."""
    return answer.reason == Reason.ITEM_NOT_FOUND and answer == never


def is_not_opened(answer: HttpsAnswer, never: HttpsAnswer) -> bool:
    """Return whether the answer for a ciphertext equals the answer for an altered ciphertext."""
    return answer.code == "ciphertext_refused" and answer == never


def is_not_decrypted(answer: KmipAnswer, never: KmipAnswer) -> bool:
    """Return whether the answer for another key's ciphertext equals the answer for an altered ciphertext."""
    return answer.reason == Reason.CRYPTOGRAPHIC_FAILURE and answer == never


KEPT_SECONDS = 60.0
"""Maximum age of a session, so that the handshake of the probe service is verified at least this often."""


@dataclass(frozen=True, slots=True)
class _Kept:
    side: ProbeSession
    until: float

    @property
    def good(self) -> bool:
        return time.monotonic() < self.until and self.side.is_open()


class SessionPool:
    """Pool of sessions, safe for threads; each session has one user at a time."""

    def __init__(self, address: Endpoints) -> None:
        self._address = address
        self._idle: list[_Kept] = []
        self._turn = threading.Lock()

    @contextmanager
    def of(self, identity: Identity) -> Iterator[ProbeSession]:
        """Yield a session of an identity; a session whose use failed is closed. Raises as `ProbeSession`."""
        kept = self._take(identity)
        if kept is None:
            kept = _Kept(ProbeSession(self._address, identity), time.monotonic() + KEPT_SECONDS)
        try:
            yield kept.side
        except BaseException:
            kept.side.close()
            raise
        with self._turn:
            self._idle.append(kept)

    def _take(self, identity: Identity) -> _Kept | None:
        """Return an idle usable session, if any, and close all unusable ones."""
        with self._turn:
            for stale in [one for one in self._idle if not one.good]:
                self._idle.remove(stale)
                stale.side.close()
            found = next((one for one in self._idle if one.side.identity == identity), None)
            if found is not None:
                self._idle.remove(found)
            return found
