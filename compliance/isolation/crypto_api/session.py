"""One of the platform's services at both doors, with something of everything that can be reached for.

Connections of the platform's own services, kept open from one tenant to the next.

They are the control of attacks whose own connections are new each time. A handshake costs the service's loop more than
all that is asked over it, and a sweep over thousands of tenants would make customers' services wait for ours.
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
"""The group of the keys that are made for a round and destroyed at its end."""
_LEFT_BEHIND_SECONDS = 3600
_KEPT = "boundary-probe"
"""The name of the one key that a service keeps, to have something that is there."""
_PLAINTEXT_BYTES = 24

Answer = TypeVar("Answer", HttpsAnswer, KmipAnswer)


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where the doors are."""

    host: str
    https_port: int
    kmip_port: int

    def https(self, identity: Identity) -> HttpsProbeClient:
        return HttpsProbeClient(self.host, self.https_port, identity)

    def kmip(self, identity: Identity) -> KmipProbeClient:
        return KmipProbeClient(self.host, self.kmip_port, identity)


@dataclass(frozen=True, slots=True)
class ProbeFixtures:
    """What is one service's alone: texts over HTTPS, and two keys over KMIP, with what the first one sealed."""

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
    """Both doors, open, for one identity."""

    def __init__(self, address: Endpoints, identity: Identity) -> None:
        """Raises: ProbeRefused, CryptoApiUnreachable, CryptoApiFailing."""
        self.identity = identity
        with ExitStack() as opened:
            try:
                self.https = opened.enter_context(address.https(identity))
                self.kmip = opened.enter_context(address.kmip(identity))
            except HandshakeRejected as shut:
                raise ProbeRefused("the platform's own service does not get through TLS") from shut
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._opened.close()

    def is_open(self) -> bool:
        return self.https.is_open() and self.kmip.is_open()

    def settle(self) -> ProbeFixtures:
        """Make something of everything; raises ProbeRefused when something does not work.

        Keys of a round that was killed half way are destroyed first, once they are certainly nobody's any more.
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
        """Destroy the keys; raises ProbeRefused. Whoever may is not stopped by the walls that stop the others."""
        self._destroy(of.key, of.spare)

    def _destroy(self, *object_ids: str) -> None:
        for object_id in object_ids:
            self.kmip.about(Operation.REVOKE, object_id)  # one that was never active cannot be, and need not
            worked(self.kmip.about(Operation.DESTROY, object_id))

    def kept_key(self) -> str:
        """Return the key that this service keeps, made when it is not there yet; raises ProbeRefused."""
        found = worked(self.kmip.locate(_KEPT)).ids()
        return found[0] if found else worked(self.kmip.create(_KEPT)).ids()[0]

    def works(self) -> bool:
        """Whether both doors let this service do what it may."""
        return self.https.encrypt("probe", b"control").worked and self.kmip.query().worked


def worked(answer: Answer) -> Answer:
    """Return the answer to something that its owner did; raises ProbeRefused when it was refused."""
    if not answer.worked:
        raise ProbeRefused(f"what is the service's own was refused: {answer.told}")
    return answer


def altered(text: str) -> str:
    """Return a sealed text that nobody made: another one, a letter of it changed."""
    middle = len(text) // 2
    return f"{text[:middle]}{'A' if text[middle] != 'A' else 'B'}{text[middle + 1 :]}"


def is_not_there(answer: KmipAnswer, never: KmipAnswer) -> bool:
    """Whether an object is answered like one that was never made."""
    return answer.reason == Reason.ITEM_NOT_FOUND and answer == never


def is_not_opened(answer: HttpsAnswer, never: HttpsAnswer) -> bool:
    """Whether a sealed text is answered like one that nobody made."""
    return answer.code == "ciphertext_refused" and answer == never


def is_not_decrypted(answer: KmipAnswer, never: KmipAnswer) -> bool:
    """Whether what a key did not seal is answered like what nobody did."""
    return answer.reason == Reason.CRYPTOGRAPHIC_FAILURE and answer == never


KEPT_SECONDS = 60.0
"""For how long one is used, from when it was opened: that the doors let the service in is shown at least so often."""


@dataclass(frozen=True, slots=True)
class _Kept:
    side: ProbeSession
    until: float

    @property
    def good(self) -> bool:
        return time.monotonic() < self.until and self.side.is_open()


class SessionPool:
    """Used from several threads; each has a side to itself while it uses it."""

    def __init__(self, address: Endpoints) -> None:
        self._address = address
        self._idle: list[_Kept] = []
        self._turn = threading.Lock()

    @contextmanager
    def of(self, identity: Identity) -> Iterator[ProbeSession]:
        """Yield the doors for an identity; one in whose use something failed is not kept. Raises as `ProbeSession`."""
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
        """Return one that is open and was not lent, and close all that are no longer good."""
        with self._turn:
            for stale in [one for one in self._idle if not one.good]:
                self._idle.remove(stale)
                stale.side.close()
            found = next((one for one in self._idle if one.side.identity == identity), None)
            if found is not None:
                self._idle.remove(found)
            return found
