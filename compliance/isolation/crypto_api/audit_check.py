"""Whether what happened at the doors stands in the tenant's audit stream: what is lost is told from what is late.

The service writes a line before each answer, and lines that one connection caused arrive in their order. So what is not
there although something later on the same connection is will never come; where nothing came yet, nothing is known.
"""

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from compliance.isolation.crypto_api.kmip_client import Operation
from compliance.isolation.crypto_api.model import AccessTest, CryptoApiFailing
from compliance.isolation.crypto_api.session import ProbeSession, worked

ON_RECORD_SECONDS = 8.0
_PAUSE_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class _Door:
    """The correlation ids of three requests on one connection, in this order: done, refused, done."""

    done: str
    refused: str
    last: str

    @classmethod
    def new(cls) -> "_Door":
        return cls(*(uuid.uuid4().hex for _ in range(3)))

    def complete(self, recorded: Callable[[str], bool]) -> bool:
        return recorded(self.done) and recorded(self.refused)

    def settled(self, recorded: Callable[[str], bool]) -> bool:
        """Whether what is missing is known to be lost."""
        return recorded(self.last) or (recorded(self.refused) and not recorded(self.done))


def recorded_trials(side: ProbeSession, kept_key: str, recorded: Callable[[str], bool]) -> Iterator[AccessTest]:
    """Do something that works and something that is refused at each door, and yield whether both are on record.

    Raises: CryptoApiFailing while what was done is on its way for longer than usual.
    """
    doors = (_through_https(side), _through_kmip(side, kept_key))
    end = time.monotonic() + ON_RECORD_SECONDS
    while not all(door.complete(recorded) for door in doors) and time.monotonic() < end:
        time.sleep(_PAUSE_SECONDS)
    if not all(door.complete(recorded) or door.settled(recorded) for door in doors):
        raise CryptoApiFailing("what was done is not on record yet: the delivery of the audit is behind")
    yield _trial(side, "operations", [door.done for door in doors], recorded)
    yield _trial(side, "refusals", [door.refused for door in doors], recorded)


def _trial(side: ProbeSession, what: str, ids: Sequence[str], recorded: Callable[[str], bool]) -> AccessTest:
    return AccessTest(
        "REQ-011",
        f"{what}-on-record",
        lambda: all(map(recorded, ids)),
        lambda: not recorded(uuid.uuid4().hex),
        side.works,
        "they stand in the tenant's audit stream within seconds, from both doors",
        "what was never done does not stand there",
    )


def _through_https(side: ProbeSession) -> _Door:
    ids, post = _Door.new(), side.https.post
    worked(post("/v1/data-keys", {"resource": "probe"}, {"x-request-id": ids.done}))
    post("/v1/decrypt", {"resource": "probe", "ciphertext": "nobody made it"}, {"x-request-id": ids.refused})
    worked(post("/v1/data-keys", {"resource": "probe"}, {"x-request-id": ids.last}))
    return ids


def _through_kmip(side: ProbeSession, kept_key: str) -> _Door:
    ids, about = _Door.new(), side.kmip.about
    worked(about(Operation.GET, kept_key, ids.done))
    about(Operation.GET, str(uuid.uuid4()), ids.refused)
    worked(about(Operation.GET, kept_key, ids.last))
    return ids
