"""Runs attack attempts over real connections and collects their outcomes."""

import random
import ssl
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from crypto_service.kmip.codec import ttlv
from crypto_service.kmip.codec.enums import BatchErrorContinuationOption, ResultStatus
from crypto_service.kmip.codec.fields import choice, octets, structure, text
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from tests.crypto_service.https.wire import Reply
from tests.crypto_service.kmip.messages import message
from tests.e2e.isolation.crypto_api.attacks import Attacks, Attempt
from tests.e2e.isolation.crypto_api.estates import ServiceObjects, version_of
from tests.e2e.wires import HttpsWire, KmipWire, post

_SIZES = (1, 1, 4, 32)
"""Numbers of attempts in one KMIP message; the choice is random."""
_CHANGING_FIELDS = frozenset(
    {
        Tag.PROTOCOL_VERSION,  # that of the request
        Tag.TIME_STAMP,
        Tag.CLIENT_CORRELATION_VALUE,
        Tag.SERVER_CORRELATION_VALUE,
        Tag.UNIQUE_BATCH_ITEM_ID,
    }
)
_CHANGING_HEADERS = frozenset({"date", "x-request-id"})


@dataclass
class Outcome:
    """The number of attempts, and each response that differs from the response for an object that does not exist."""

    attempts: int = 0
    successes: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    audited: dict[str, Counter[tuple[str, str]]] = field(default_factory=lambda: defaultdict(Counter))
    """Tenant → (service, correlation id) → number of rejections that its stream must contain."""

    def add(self, other: "Outcome") -> None:
        self.attempts += other.attempts
        self.successes += other.successes
        self.differences += other.differences
        for tenant_id, expected in other.audited.items():
            self.audited[tenant_id] += expected


def without_varying_fields(item: Item) -> Item:
    """Return a response without the fields that vary: versions, times and ids of requests."""
    if not isinstance(item.value, tuple):
        return item
    return structure(
        item.tag, *(without_varying_fields(part) for part in item.value if part.tag not in _CHANGING_FIELDS)
    )


def stable_parts(reply: Reply) -> tuple[Any, ...]:
    """Return the parts of a response that do not vary: status, headers and the body."""
    headers = tuple(sorted((name, value) for name, value in reply.headers.items() if name not in _CHANGING_HEADERS))
    return reply.status, headers, reply.body


class _AttackRunner:
    """Runs the attempts of one attacker over one connection."""

    def __init__(
        self, attacker: ServiceObjects, open_connection: Callable[[], ssl.SSLSocket], attacks: Attacks, seed: str
    ) -> None:
        self._attacker, self._open, self._attacks, self._seed = attacker, open_connection, attacks, seed
        self._chance = random.Random(seed)  # noqa: S311 - reproducible, not secret
        self._sent = 0
        self.outcome = Outcome()


class KmipAttackRunner(_AttackRunner):
    def run(self) -> Outcome:
        with KmipWire(self._open()) as wire:
            nothing = self._attacks.of_nothing()
            expected = {
                operation: self._answers(wire, [[Attempt(operation, "an object that never existed", item)]])[0][0]
                for operation, item in nothing.items()
            }
            for operation, answer in expected.items():
                failed = _status(answer) == ResultStatus.OPERATION_FAILED
                assert failed or operation == "LOCATE", f"{operation} of nothing succeeded"
            self._judge(wire, self._attacks.on_objects(), expected)
            self._judge(wire, self._attacks.searches(), expected)
            for attempt in self._attacks.counts():
                self._search(attempt, self._answers(wire, [[attempt]])[0][0])
        return self.outcome

    def _judge(self, wire: KmipWire, attempts: Sequence[Attempt], expected: Mapping[str, Item]) -> None:
        batches = self._batches(attempts)
        for batch, answers in zip(batches, self._answers(wire, batches), strict=True):
            for attempt, answer in zip(batch, answers, strict=True):
                self.outcome.attempts += 1
                description = f"{self._attacker.name} {attempt.operation}: {attempt.kind}"
                if ttlv.encode(answer) == ttlv.encode(expected[attempt.operation]):
                    continue
                if attempt.operation == "LOCATE":
                    self._search(attempt, answer)
                elif _status(answer) == ResultStatus.SUCCESS:
                    self.outcome.successes.append(description)
                else:
                    self.outcome.differences.append(f"{description}: {answer.first(Tag.RESULT_MESSAGE)}")

    def _search(self, attempt: Attempt, answer: Item) -> None:
        """Evaluate a search with results: only own objects may be found and counted."""
        payload = answer.first(Tag.RESPONSE_PAYLOAD)
        found = [] if payload is None else [item.value for item in payload.all(Tag.UNIQUE_IDENTIFIER)]
        counted = None if payload is None else payload.first(Tag.LOCATED_ITEMS)
        own = set(self._attacker.objects.values())
        if payload is None or not own >= set(found) or (counted is not None and counted.value != len(found)):
            self.outcome.successes.append(f"{self._attacker.name} {attempt.operation}: {attempt.kind} found {found}")

    def _batches(self, attempts: Sequence[Attempt]) -> list[Sequence[Attempt]]:
        batches = []
        for _, same_version in groupby(sorted(attempts, key=_major), _major):
            left = list(same_version)
            while left:
                size = self._chance.choice(_SIZES)
                batches.append(left[:size])
                del left[:size]
        return batches

    def _answers(self, wire: KmipWire, batches: Sequence[Sequence[Attempt]]) -> list[list[Item]]:
        requests = [self._message(batch) for batch in batches]
        return [[without_varying_fields(item) for item in answer.all(Tag.BATCH_ITEM)] for answer in wire.all(requests)]

    def _message(self, batch: Sequence[Attempt]) -> bytes:
        self._sent += 1
        correlation = f"{self._seed}.{self._sent}"
        refusals = sum(1 for attempt in batch if not attempt.operation.startswith("LOCATE"))
        if refusals:
            expected = self.outcome.audited[self._attacker.service.tenant_id]
            expected[self._attacker.service.name, correlation] += refusals
        header = (
            text(Tag.CLIENT_CORRELATION_VALUE, correlation),
            choice(Tag.BATCH_ERROR_CONTINUATION_OPTION, BatchErrorContinuationOption.CONTINUE),
        )
        items = [_numbered(attempt.request, number) for number, attempt in enumerate(batch)]
        return ttlv.encode(message(*items, header=header, **version_of(batch[0].operation)))


def _major(attempt: Attempt) -> int:
    return version_of(attempt.operation)["major"]


def _numbered(item: Item, number: int) -> Item:
    operation, payload = item.children()
    return structure(item.tag, operation, octets(Tag.UNIQUE_BATCH_ITEM_ID, bytes([number])), payload)


def _status(answer: Item) -> object:
    status = answer.first(Tag.RESULT_STATUS)
    return None if status is None else status.value


class HttpsAttackRunner(_AttackRunner):
    def run(self) -> Outcome:
        attempts = self._attacks.on_texts()
        never = {attempt.operation: attempt for attempt in attempts if attempt.kind == "a ciphertext never created"}
        with HttpsWire(self._open()) as wire:
            expected = {}
            for path, attempt in never.items():
                (reply,) = wire.all([self._request(attempt)])
                assert _refused(reply), f"{path} decrypted a ciphertext that was never created"
                expected[path] = stable_parts(reply)
            for attempt, reply in zip(attempts, wire.all([self._request(one) for one in attempts]), strict=True):
                self.outcome.attempts += 1
                description = f"{self._attacker.name} {attempt.operation}: {attempt.kind}: {reply.body!r}"
                if not _refused(reply):
                    self.outcome.successes.append(description)
                elif stable_parts(reply) != expected[attempt.operation]:
                    self.outcome.differences.append(description)
        return self.outcome

    def _request(self, attempt: Attempt) -> bytes:
        self._sent += 1
        correlation = f"{self._seed}.{self._sent}"
        self.outcome.audited[self._attacker.service.tenant_id][self._attacker.service.name, correlation] += 1
        return post(attempt.operation, attempt.request, {"x-request-id": correlation})


def _refused(reply: Reply) -> bool:
    """Return whether the request, or every item of a batch, was rejected."""
    items = reply.json.get("items")
    return reply.status >= 400 or (items is not None and all(list(item) == ["problem"] for item in items))
