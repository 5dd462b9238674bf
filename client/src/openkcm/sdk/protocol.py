"""Requests and responses of the client, without I/O: both clients drive the same generators.

A *procedure* is a generator that yields the next action (a `Step`), receives its outcome, and returns the result.
`Client` and `AsyncClient` differ only in how they perform the actions.
"""

import base64
import json
import random
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Generic, TypeVar

from openkcm.contract.protected_fields import Mode, ProtectedField, Store
from openkcm.sdk.errors import ClientError, RequestRefused, ServiceFailed, Unavailable, from_problem

Result = TypeVar("Result")
BATCH_ITEMS = 1000
_BATCH_CHARACTERS = 700_000
"""Maximum number of characters of one batch, well below a service's default body limit (1 MiB)."""

_TOO_LARGE = "body_too_large"


@dataclass(frozen=True, slots=True)
class DataKey:
    """A data key: store `wrapped` beside the data; `plaintext` is None if only `wrapped` was requested."""

    wrapped: str
    plaintext: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Send:
    method: str
    path: str
    content: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Wait:
    seconds: float


@dataclass(frozen=True, slots=True)
class Reconnect:
    """Open new connections, which present the renewed certificate."""


@dataclass(frozen=True, slots=True)
class Response:
    status: int
    content: bytes = field(repr=False)
    retry_after: str = ""


@dataclass(frozen=True, slots=True)
class NoResponse:
    """No response arrived; `reason` names the kind of failure."""

    reason: str


Outcome = Response | NoResponse | None
Step = Send | Wait | Reconnect
Procedure = Generator[Step, Outcome, Result]


@dataclass(frozen=True, slots=True)
class Retry:
    """Retries of a request. Every operation may be repeated: its only trace is the audit record.

    By default they outlast the seconds in which a load balancer changes over or excludes an instance.
    """

    attempts: int = 6
    first_seconds: float = 0.1
    longest_seconds: float = 5.0

    def pause(self, attempt: int, asked: float | None) -> float:
        """Return the wait after `attempt` in seconds, with jitter so that clients do not retry simultaneously."""
        backoff = min(self.longest_seconds, self.first_seconds * 2.0 ** min(attempt - 1, 30))
        spread = backoff * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, no security purpose
        return spread if asked is None else min(asked, self.longest_seconds) + spread


@dataclass(frozen=True, slots=True)
class PendingCall(Generic[Result]):
    """One request and the function that reads its response."""

    method: str
    path: str
    body: Mapping[str, Any] | None = field(repr=False)
    read: Callable[[Any], Result]


def perform(call: PendingCall[Result], retry: Retry) -> Procedure[Result]:
    """Send a request and retry it where that is safe and useful; raises ClientError."""
    content = None if call.body is None else json.dumps(call.body).encode()
    for attempt in count(1):
        outcome = yield Send(call.method, call.path, content)
        try:
            return _read(call, outcome)
        except Unavailable as failed:
            if attempt >= retry.attempts:
                raise
            pause = retry.pause(attempt, failed.retry_after)
        yield Wait(pause)
    raise AssertionError


def _read(call: PendingCall[Result], outcome: Outcome) -> Result:
    if not isinstance(outcome, Response):
        reason = outcome.reason if outcome is not None else "nothing was sent"
        hint = "check address, network and expiry of the certificate"
        raise Unavailable("connection_failed", f"the crypto service is not reachable: {reason}", hint)
    try:
        document = json.loads(outcome.content)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        document = {}
    if outcome.status != 200:
        raise from_problem(outcome.status, document, _seconds(outcome.retry_after))
    try:
        return call.read(document)
    except (KeyError, TypeError, ValueError):
        raise _not_understood() from None


def _not_understood() -> ServiceFailed:
    return ServiceFailed(
        "unexpected_response", "the response does not have the documented format", "check the address and versions"
    )


def _seconds(text: str) -> float | None:
    return float(text) if text.isascii() and text.isdigit() else None


# Requests.


def encrypt(plaintext: bytes, resource: str) -> PendingCall[str]:
    return _post("/v1/encrypt", _plain(plaintext, resource), _ciphertext)


def decrypt(ciphertext: str, resource: str) -> PendingCall[bytes]:
    return _post("/v1/decrypt", _encrypted(ciphertext, resource), _plaintext)


def rewrap(ciphertext: str, resource: str) -> PendingCall[str]:
    return _post("/v1/rewrap", _encrypted(ciphertext, resource), _ciphertext)


def new_data_key(resource: str, *, wrapped_only: bool) -> PendingCall[DataKey]:
    return _post("/v1/data-keys", {"resource": resource, "wrapped_only": wrapped_only}, _data_key)


def open_data_key(wrapped: str, resource: str) -> PendingCall[bytes]:
    return _post("/v1/data-keys/open", {"wrapped": wrapped, "resource": resource}, _plaintext)


def discover() -> PendingCall[dict[str, Any]]:
    return PendingCall("GET", "/.well-known/openkcm", None, dict)


def certificate() -> PendingCall[dict[str, Any]]:
    return PendingCall("GET", "/v1/certificate", None, dict)


def heartbeat(body: Mapping[str, Any]) -> PendingCall[dict[str, Any]]:
    return _post("/v1/heartbeat", body, dict)


def protection() -> PendingCall[tuple[ProtectedField, ...]]:
    return PendingCall("GET", "/v1/protection", None, _fields)


# Batches: as many requests as the limits require, in order.


@dataclass(frozen=True, slots=True)
class Batch(Generic[Result]):
    path: str
    items: Sequence[Mapping[str, str]] = field(repr=False)
    read: Callable[[Any], Result]

    def call(self) -> PendingCall[list[Result | ClientError]]:
        return _post(self.path, {"items": self.items}, self._read_all)

    def halves(self) -> tuple["Batch[Result]", "Batch[Result]"]:
        middle = len(self.items) // 2
        return replace(self, items=self.items[:middle]), replace(self, items=self.items[middle:])

    def _read_all(self, document: Any) -> list[Result | ClientError]:
        answers = document["items"]
        if len(answers) != len(self.items):
            raise ValueError
        return [
            from_problem(int(one["problem"]["status"]), one["problem"]) if "problem" in one else self.read(one)
            for one in answers
        ]


def encrypt_many(items: Sequence[tuple[bytes, str]]) -> Iterator[Batch[str]]:
    return _batches("/v1/encrypt:batch", [_plain(*item) for item in items], _ciphertext)


def decrypt_many(items: Sequence[tuple[str, str]]) -> Iterator[Batch[bytes]]:
    return _batches("/v1/decrypt:batch", [_encrypted(*item) for item in items], _plaintext)


def rewrap_many(items: Sequence[tuple[str, str]]) -> Iterator[Batch[str]]:
    return _batches("/v1/rewrap:batch", [_encrypted(*item) for item in items], _ciphertext)


def new_data_keys(resources: Sequence[str]) -> Iterator[Batch[DataKey]]:
    return _batches("/v1/data-keys:batch", [{"resource": resource} for resource in resources], _data_key)


def perform_all(batches: Iterator[Batch[Result]], retry: Retry) -> Procedure[list[Result | ClientError]]:
    """Perform batches in sequence and return their results as one list."""
    found: list[Result | ClientError] = []
    for batch in batches:
        found += yield from _perform_batch(batch, retry)
    return found


def _perform_batch(batch: Batch[Result], retry: Retry) -> Procedure[list[Result | ClientError]]:
    try:
        return (yield from perform(batch.call(), retry))
    except RequestRefused as refused:
        # The maximum size is a setting of the platform, so a batch that exceeds it is halved.
        if refused.code != _TOO_LARGE:
            raise
        if len(batch.items) == 1:
            return [refused]
    first, second = batch.halves()
    return (yield from _perform_batch(first, retry)) + (yield from _perform_batch(second, retry))


def _batches(path: str, items: Sequence[Mapping[str, str]], read: Callable[[Any], Result]) -> Iterator[Batch[Result]]:
    part: list[Mapping[str, str]] = []
    characters = 0
    for item in items:
        size = sum(map(len, item.values()))
        if part and (len(part) == BATCH_ITEMS or characters + size > _BATCH_CHARACTERS):
            yield Batch(path, part, read)
            part, characters = [], 0
        part.append(item)
        characters += size
    if part:
        yield Batch(path, part, read)


def _post(path: str, body: Mapping[str, Any], read: Callable[[Any], Result]) -> PendingCall[Result]:
    return PendingCall("POST", path, body, read)


def _plain(plaintext: bytes, resource: str) -> dict[str, str]:
    return {"plaintext": base64.b64encode(plaintext).decode("ascii"), "resource": resource}


def _encrypted(ciphertext: str, resource: str) -> dict[str, str]:
    return {"ciphertext": ciphertext, "resource": resource}


def _ciphertext(document: Any) -> str:
    return str(document["ciphertext"])


def _plaintext(document: Any) -> bytes:
    return base64.b64decode(document["plaintext"], validate=True)


def _fields(document: Any) -> tuple[ProtectedField, ...]:
    """Read all fields or raise: a field that this version does not understand must not stay unprotected unnoticed."""
    return tuple(
        ProtectedField(
            Store(one["store"]),
            str(one["place"]),
            str(one["field"]),
            Mode(one["mode"]),
            one["plaintext_allowed"] is True,
        )
        for one in document["fields"]
    )


def _data_key(document: Any) -> DataKey:
    return DataKey(str(document["wrapped"]), _plaintext(document) if "plaintext" in document else None)
