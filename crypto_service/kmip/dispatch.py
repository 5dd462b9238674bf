"""From a request message to its answer (KMIP 1.4, sections 6 and 7): the header, then one item after the other.

1. The header is read; what is wrong with it is the answer to the whole message.
2. The tenant's limits let the request in, an item of a batch counting as much as a request.
3. Each item is worked on in order; after one that failed the rest is left out, unless the client said Continue.
4. The journal has an entry for every item that touched a tenant's objects, refusals too. Only then is there an answer:
   when the journal cannot take them, nothing that was released or found leaves here.
"""

import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

from core.correlation import correlation_id
from core.errors.tenants import TenantNotOperational
from crypto_service.correlation import from_request_id, new_correlation_id
from crypto_service.interfaces import AuditEntry, ClientIdentity, Dependencies
from crypto_service.kmip.batch import Batch, Payload
from crypto_service.kmip.codec import ttlv
from crypto_service.kmip.codec.enums import BatchErrorContinuationOption, Operation, ResultReason, ResultStatus
from crypto_service.kmip.codec.errors import KmipRefused, malformed, reason_and_message, unsupported
from crypto_service.kmip.codec.fields import (
    choice,
    moment,
    number,
    read_choice,
    read_flag,
    read_number,
    read_structure,
    read_text,
    required,
    structure,
    text,
)
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from crypto_service.kmip.objects.store import ObjectStore
from crypto_service.kmip.operation_table import OPERATIONS, SupportedOperation
from crypto_service.kmip.operations.query import MAJOR, MINORS, read_version, version_item
from openkcm.errors import OpenKcmError

MOST_ITEMS = 128
"""What a batch may hold; real clients send up to a dozen."""
_MOST_SUBJECT = 512
_HEADERS = 256
"""Headers remembered, read and to be written: of as many kinds of client, or for some seconds."""
_NO_PAYLOAD = structure(Tag.REQUEST_PAYLOAD)
_SUCCESS = choice(Tag.RESULT_STATUS, ResultStatus.SUCCESS)
_FAILED = choice(Tag.RESULT_STATUS, ResultStatus.OPERATION_FAILED)
_INTERNAL = "internal"
"""What the audit says of an error that is not in our vocabulary."""


class _Header(NamedTuple):
    version: int
    size: int
    goes_on: bool
    client_correlation: str | None


class _Outcome(NamedTuple):
    """One answered item: as it is told, and as it is written down."""

    item: Item
    failed: bool
    entry: AuditEntry | None


class Dispatcher:
    def __init__(
        self, parts: Dependencies, objects: ObjectStore, timer: Callable[[], int] = time.perf_counter_ns
    ) -> None:
        self._parts = parts
        self._objects = objects
        self._timer = timer

    async def answer(self, caller: ClientIdentity, request: Item, address: str) -> Item:
        """Return the response message; every error is an answer."""
        now = int(self._objects.clock())
        try:
            header, items = _read(request)
        except KmipRefused as refused:
            return _message(_version_to_answer(request), now, None, [_failure((), refused)])
        try:
            self._parts.limits.enter(caller.tenant_id, len(items))
        except OpenKcmError as refused:
            full = [_failure(_kept(item), refused) for item in items]
            return _message(header.version, now, header.client_correlation, full)
        try:
            answers = await self._answers(
                Batch(caller, header.version, self._parts, self._objects, now), header, items, address
            )
        finally:
            self._parts.limits.leave(caller.tenant_id)
        return _message(header.version, now, header.client_correlation, answers)

    async def _answers(self, batch: Batch, header: _Header, items: Sequence[Item], address: str) -> Sequence[Item]:
        told = header.client_correlation
        correlation = (told and from_request_id(told.encode())) or new_correlation_id()
        token = correlation_id.set(correlation)
        outcomes: list[_Outcome] = []
        try:
            for item in items:
                outcomes.append(await _work(batch, item, correlation, address, self._timer))
                if outcomes[-1].failed and not header.goes_on:
                    break
            entries = [outcome.entry for outcome in outcomes if outcome.entry is not None]
            if entries:
                await self._parts.journal.write(entries)
        except OpenKcmError as unwritten:
            return [_failure(_kept(item), unwritten) for item in items[: len(outcomes)]]
        finally:
            correlation_id.reset(token)
        return [outcome.item for outcome in outcomes]


async def _work(batch: Batch, item: Item, correlation: str, address: str, timer: Callable[[], int]) -> _Outcome:
    began = timer()
    kept = _kept(item)
    batch.subject, batch.bytes = "", 0
    served: SupportedOperation | None = None
    try:
        served = _served(batch, item)
        _require_open(batch, served)
        payload = await served.handler(batch, read_structure(item, Tag.REQUEST_PAYLOAD) or _NO_PAYLOAD)
    except Exception as refused:  # noqa: BLE001 - translated here and nowhere else; the rest of the batch may go on
        answer, failed = _failure(kept, refused), True
        code = refused.code if isinstance(refused, OpenKcmError) else _INTERNAL
    else:
        answer, failed, code = _success(kept, payload), False, ""
    if served is None or served.audited is None:
        return _Outcome(answer, failed, None)
    entry = AuditEntry(
        batch.caller.tenant_id,
        batch.caller.service,
        served.audited,
        batch.subject[:_MOST_SUBJECT],
        correlation,
        address,
        code,
        1,
        batch.bytes,
        (timer() - began + 999) // 1000,
    )
    return _Outcome(answer, failed, entry)


def _served(batch: Batch, item: Item) -> SupportedOperation:
    operation = required(read_choice(item, Tag.OPERATION), Tag.OPERATION)
    extension = read_structure(item, Tag.MESSAGE_EXTENSION)
    if extension is not None and read_flag(extension, Tag.CRITICALITY_INDICATOR):
        raise unsupported("the critical message extension is not known")
    served = OPERATIONS.get(operation)
    # Finding out which versions are spoken is not held to the version it is asked in.
    if served is None or (served.since > batch.version and operation != Operation.DISCOVER_VERSIONS):
        raise KmipRefused(ResultReason.OPERATION_NOT_SUPPORTED, "the operation is not supported")
    return served


def _require_open(batch: Batch, served: SupportedOperation) -> None:
    if batch.caller.tenant_state not in served.needs:
        raise TenantNotOperational(batch.caller.tenant_state)


def _read(request: Item) -> tuple[_Header, Sequence[Item]]:
    """Return header and batch items; raises KmipRefused."""
    if request.tag != Tag.REQUEST_MESSAGE:
        raise malformed("this is not a request message")
    item = required(read_structure(request, Tag.REQUEST_HEADER), Tag.REQUEST_HEADER)
    # A header with credentials is not remembered, although they say nothing here.
    read = _read_header if item.first(Tag.AUTHENTICATION) is None else _read_header.__wrapped__
    header = read(item)
    items = [item for item in request.all(Tag.BATCH_ITEM) if item.children()]
    if header.size != len(items) or not items:
        raise malformed("the batch count is not the number of batch items")
    if header.size > MOST_ITEMS:
        raise malformed("the batch has too many items")
    return header, items


@lru_cache(maxsize=_HEADERS)
def _read_header(header: Item) -> _Header:
    """Return what a header says; raises KmipRefused. A client's headers are all alike, most often."""
    major, minor = read_version(required(read_structure(header, Tag.PROTOCOL_VERSION), Tag.PROTOCOL_VERSION))
    if major != MAJOR or minor not in MINORS:
        raise malformed("the protocol version is not supported")
    count = required(read_number(header, Tag.BATCH_COUNT), Tag.BATCH_COUNT)
    if read_flag(header, Tag.ASYNCHRONOUS_INDICATOR):
        raise unsupported("nothing is answered asynchronously")
    option = read_choice(header, Tag.BATCH_ERROR_CONTINUATION_OPTION)
    if option == BatchErrorContinuationOption.UNDO and count > 1:
        raise unsupported("what was done is not undone")
    goes_on = option == BatchErrorContinuationOption.CONTINUE
    correlation = read_text(header, Tag.CLIENT_CORRELATION_VALUE) if minor >= 4 else None
    return _Header(minor, count, goes_on, correlation)


def _version_to_answer(request: Item) -> int:
    """Return the version of a request that was refused, the newest where it is none of ours."""
    header = request.first(Tag.REQUEST_HEADER)
    version = None if header is None else header.first(Tag.PROTOCOL_VERSION)
    try:
        major, minor = (0, 0) if version is None else read_version(version)
    except KmipRefused:
        return MINORS[0]
    return minor if major == MAJOR and minor in MINORS else MINORS[0]


def _kept(item: Item) -> Payload:
    """Return what an answer repeats of its item."""
    return tuple(part for part in item.children() if part.tag in (Tag.OPERATION, Tag.UNIQUE_BATCH_ITEM_ID))


def _success(kept: Payload, payload: Payload) -> Item:
    return structure(Tag.BATCH_ITEM, *kept, _SUCCESS, structure(Tag.RESPONSE_PAYLOAD, *payload))


def _failure(kept: Payload, error: Exception) -> Item:
    reason, message = reason_and_message(error)
    return structure(
        Tag.BATCH_ITEM, *kept, _FAILED, choice(Tag.RESULT_REASON, reason), text(Tag.RESULT_MESSAGE, message)
    )


def _message(version: int, now: int, client_correlation: str | None, answers: Sequence[Item]) -> Item:
    return structure(Tag.RESPONSE_MESSAGE, _response_header(version, now, client_correlation, len(answers)), *answers)


@lru_cache(maxsize=_HEADERS)
def _response_header(version: int, now: int, client_correlation: str | None, count: int) -> Item:
    """Return the header of an answer; those of one second are mostly alike."""
    told = () if client_correlation is None else (text(Tag.CLIENT_CORRELATION_VALUE, client_correlation),)
    header = structure(
        Tag.RESPONSE_HEADER, version_item(version), moment(Tag.TIME_STAMP, now), *told, number(Tag.BATCH_COUNT, count)
    )
    return ttlv.encoded(header)
