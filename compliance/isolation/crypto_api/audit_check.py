"""Check that the tenant's audit stream records the requests to the crypto service; a lost record is a breach.

The service writes a record before each answer, and the records of one connection arrive in order. A record is therefore
lost if a later record of the same connection has arrived. Without a later record it may only be late.
"""

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from compliance.isolation.crypto_api.kmip_client import Operation
from compliance.isolation.crypto_api.model import AccessTest, CryptoApiFailing
from compliance.isolation.crypto_api.session import ProbeSession, worked

RECORDED_SECONDS = 8.0
_PAUSE_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class _Requests:
    """The correlation ids of three requests on one connection, in this order: successful, rejected, successful."""

    done: str
    refused: str
    last: str

    @classmethod
    def new(cls) -> "_Requests":
        return cls(*(uuid.uuid4().hex for _ in range(3)))

    def complete(self, recorded: Callable[[str], bool]) -> bool:
        return recorded(self.done) and recorded(self.refused)

    def settled(self, recorded: Callable[[str], bool]) -> bool:
        """Return whether each missing record is known to be lost."""
        return recorded(self.last) or (recorded(self.refused) and not recorded(self.done))


def recorded_trials(side: ProbeSession, kept_key: str, recorded: Callable[[str], bool]) -> Iterator[AccessTest]:
    """Send a successful and a rejected request to each API, and yield the checks that both are recorded.

    Raises:
        CryptoApiFailing: the records are late, so it is unknown whether they are lost.
    """
    requests = (_through_https(side), _through_kmip(side, kept_key))
    end = time.monotonic() + RECORDED_SECONDS
    while not all(request_ids.complete(recorded) for request_ids in requests) and time.monotonic() < end:
        time.sleep(_PAUSE_SECONDS)
    if not all(request_ids.complete(recorded) or request_ids.settled(recorded) for request_ids in requests):
        raise CryptoApiFailing("the requests are not recorded yet: the audit shipper is late")
    yield _trial(side, "operations", [request_ids.done for request_ids in requests], recorded)
    yield _trial(side, "refusals", [request_ids.refused for request_ids in requests], recorded)


def _trial(side: ProbeSession, what: str, ids: Sequence[str], recorded: Callable[[str], bool]) -> AccessTest:
    return AccessTest(
        "REQ-011",
        f"{what}-recorded",
        lambda: all(map(recorded, ids)),
        lambda: not recorded(uuid.uuid4().hex),
        side.works,
        "the tenant's audit stream records the requests to both APIs within seconds",
        "it does not record a request that was never sent",
    )


def _through_https(side: ProbeSession) -> _Requests:
    ids, post = _Requests.new(), side.https.post
    worked(post("/v1/data-keys", {"resource": "probe"}, {"x-request-id": ids.done}))
    post("/v1/decrypt", {"resource": "probe", "ciphertext": "never encrypted"}, {"x-request-id": ids.refused})
    worked(post("/v1/data-keys", {"resource": "probe"}, {"x-request-id": ids.last}))
    return ids


def _through_kmip(side: ProbeSession, kept_key: str) -> _Requests:
    ids, about = _Requests.new(), side.kmip.about
    worked(about(Operation.GET, kept_key, ids.done))
    about(Operation.GET, str(uuid.uuid4()), ids.refused)
    worked(about(Operation.GET, kept_key, ids.last))
    return ids
