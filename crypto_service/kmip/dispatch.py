"""Processing of a request message (KMIP 1.4, sections 6 and 7; 2.1, 8 and 9): the header, then the items in sequence.

1. The header is read; an error in it is the response to the whole message.
2. The tenant's limits admit the request; an item of a batch counts as much as a request.
3. The items are processed in order; after a failed one the rest is omitted, unless the client requested Continue.
4. An audit entry is written for every item that accessed a tenant's objects, also for rejections. Only then is the
   response sent: when the entries cannot be written, no released key and no found object leaves the service. The event
   of a change is already in its transaction.
"""

import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

from core.correlation import correlation_id
from core.errors.tenants import TenantNotOperational
from core.services import CryptoOperation
from core.tracing.spans import SERVER, Tracer, note_error
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
from crypto_service.kmip.codec.framing import VERSION_2, VERSIONS, feature_level
from crypto_service.kmip.codec.tags import Tag
from crypto_service.kmip.codec.ttlv import Item
from crypto_service.kmip.objects.store import ObjectStore
from crypto_service.kmip.objects.streams import Streams
from crypto_service.kmip.operation_table import OPERATIONS, SupportedOperation
from crypto_service.kmip.operations.query import read_version, version_item
from crypto_service.kmip.version_2 import from_version_2, to_version_2
from openkcm.errors import OpenKcmError

MAX_ITEMS = 128
"""The maximum of items in a batch; real clients send up to a dozen."""
_BYTES_PER_UNIT = 4_096
"""Bytes of a message whose decoding takes about as long as a small operation, the unit of the tenant's rate."""
RESPONSE_BYTES = 1 << 20
"""Bytes of results after which a batch ends: a short batch can ask for a large object many times."""
_MOST_FIELDS = 512
"""Fields of a structure; objects have fewer attributes. Operations may compare fields with each other."""
_MAX_SUBJECT = 512
_HEADERS = 256
"""Request headers cached: for as many kinds of client."""
_SMALL = 256
"""Bytes of a header that may be cached."""
_NO_PAYLOAD = structure(Tag.REQUEST_PAYLOAD)
_UNCHANGING = frozenset(
    {
        None,
        CryptoOperation.LOCATE,
        CryptoOperation.ATTRIBUTES,
        CryptoOperation.DECRYPT,
        CryptoOperation.RANDOM,
    }
)
"""Audited operations that change nothing. Others may change an object, its usage limits or the attribute Fresh."""
_REPEATED = frozenset({Tag.OPERATION, Tag.UNIQUE_BATCH_ITEM_ID})
_RESPONSE_HEADERS = 64
"""Response headers cached in encoded form: all responses of a second with the same version and size have the same."""
_MOST_CORRELATION = 1024
"""Characters of a client correlation value, which the response repeats."""
_UNDONE = choice(Tag.RESULT_STATUS, ResultStatus.OPERATION_UNDONE)
_SUCCESS = ttlv.pre_encode(choice(Tag.RESULT_STATUS, ResultStatus.SUCCESS))
_FAILED = choice(Tag.RESULT_STATUS, ResultStatus.OPERATION_FAILED)
_INTERNAL = "internal"
"""The code in the audit entry for an error outside our vocabulary."""


class _Header(NamedTuple):
    """`protocol` is the version of request and response, `version` its `framing.feature_level`.

    `option` is the batch error continuation option. `maximum` is the size in bytes that the client accepts (KMIP 1.4,
    section 6.3); 0 is no limit.
    """

    protocol: tuple[int, int]
    version: int
    size: int
    option: int | None
    maximum: int
    client_correlation: str | None


class _BatchItem:
    """An item of a request. What is read from it is kept, because clients send equal messages repeatedly.

    `repeated` are the parts that its response repeats.
    """

    __slots__ = ("_payload", "_supported", "item", "repeated")

    def __init__(self, item: Item) -> None:
        self.item = item
        self.repeated = tuple([ttlv.pre_encode(part) for part in item.children() if part[0] in _REPEATED])
        self._supported: SupportedOperation | None = None
        self._payload: Item | None = None

    def supported(self, version: int) -> SupportedOperation:
        """Return its operation; raise KmipRefused."""
        found = self._supported
        if found is None:
            found = self._supported = _find_operation(self.item, version)
        return found

    def payload(self, version: int) -> Item:
        """Return its payload in the form of KMIP 1.4; raise KmipRefused."""
        found = self._payload
        if found is None:
            found = self._payload = _read_payload(self.item, version)
        return found


class Request:
    """A decoded message, which may be answered repeatedly."""

    __slots__ = ("_parts", "message", "size")

    def __init__(self, message: Item, size: int = 0) -> None:
        """`size` is the number of its bytes."""
        self.message, self.size = message, size
        self._parts: tuple[_Header, Sequence[_BatchItem]] | None = None

    def read(self) -> tuple[_Header, Sequence[_BatchItem]]:
        """Return its header and its items; raise KmipRefused."""
        found = self._parts
        if found is None:
            found = self._parts = _read(self.message)
        return found


class Dispatcher:
    def __init__(
        self, parts: Dependencies, objects: ObjectStore, timer: Callable[[], int] = time.perf_counter_ns
    ) -> None:
        self._parts = parts
        self._objects = objects
        self._timer = timer
        self._streams = Streams()

    async def answer(self, caller: ClientIdentity, request: Request, address: str) -> Item:
        """Return the response to a message; every error becomes a response."""
        now = int(self._objects.clock())
        try:
            header, items = request.read()
        except KmipRefused as refused:
            note_error(refused.code)
            protocol = _version_to_answer(request.message)
            return _message(protocol, now, [_failure((), refused, feature_level(protocol))])
        version, value = header.version, header.client_correlation
        correlation = (value and from_request_id(value.encode())) or new_correlation_id()
        cost = len(items) + request.size // _BYTES_PER_UNIT
        try:
            self._parts.limits.enter(caller.tenant_id, cost)
        except OpenKcmError as refused:
            note_error(refused.code)
            began = time.perf_counter()
            answers = _failures(items, refused, version)
            self._parts.turns.use(caller.tenant_id, time.perf_counter() - began)
            return _message(header.protocol, now, answers, value, correlation)
        batch = Batch(caller, version, self._parts, self._objects, self._streams, now, cost)
        try:
            answers = await self._answers(batch, header, items, correlation, address)
        finally:
            self._parts.limits.leave(caller.tenant_id)
        if header.maximum > 0:
            room = header.maximum - len(ttlv.encode(_message(header.protocol, now, (), value, correlation)))
            answers = _fit(answers, items, room, version)
        return _message(header.protocol, now, answers, value, correlation)

    async def _answers(
        self, batch: Batch, header: _Header, items: Sequence[_BatchItem], correlation: str, address: str
    ) -> Sequence[Item]:
        """Return the results, of a batch with several items in encoded form."""
        token = correlation_id.set(correlation)
        answers: list[Item] = []
        entries: list[AuditEntry] = []
        has_failed = False
        size = 0
        try:
            for item in items:
                began = time.perf_counter()
                if size < RESPONSE_BYTES:
                    answer, has_failed, entry = await _process(batch, item, correlation, address, self._timer)
                else:
                    answer, has_failed, entry = _failure(item.repeated, _too_large(), batch.version), True, None
                if len(items) > 1:
                    # Encoded here, because it takes as long as the processing, and the tenant's turns count both.
                    encoded = ttlv.encode(answer)
                    size += len(encoded)
                    answer = ttlv.from_encoded(Tag.BATCH_ITEM, encoded)
                    self._parts.turns.use(batch.caller.tenant_id, time.perf_counter() - began)
                    await self._parts.turns.pause(batch.caller.tenant_id)
                answers.append(answer)
                if entry is not None:
                    entries.append(entry)
                if has_failed and header.option != BatchErrorContinuationOption.CONTINUE:
                    break
            if entries:
                await self._parts.journal.write(entries)
        except OpenKcmError as unwritten:
            note_error(unwritten.code)
            return _failures(items[: len(answers)], unwritten, batch.version)
        finally:
            correlation_id.reset(token)
        if has_failed and header.option == BatchErrorContinuationOption.UNDO:
            undone = [structure(Tag.BATCH_ITEM, *item.repeated, _UNDONE) for item in items[: len(answers) - 1]]
            return [*undone, answers[-1]]
        return answers


class TracedDispatcher(Dispatcher):
    """Records a span for each message; its error is that of the last failed item."""

    def __init__(self, tracer: Tracer, parts: Dependencies, objects: ObjectStore) -> None:
        super().__init__(parts, objects)
        self._tracer = tracer

    async def answer(self, caller: ClientIdentity, request: Request, address: str) -> Item:
        with self._tracer.span(f"kmip {_operation_name(request.message)}", SERVER, None) as span:
            span.attributes["openkcm.tenant_id"] = caller.tenant_id
            return await super().answer(caller, request, address)


def _operation_name(request: Item) -> str:
    """Return the name of the first operation: only a supported one, because the number is the client's."""
    item = request.first(Tag.BATCH_ITEM)
    operation = None if item is None else item.first(Tag.OPERATION)
    value = None if operation is None else operation.value
    return Operation(value).name.lower() if isinstance(value, int) and value in OPERATIONS else "unknown"


async def _process(
    batch: Batch, item: _BatchItem, correlation: str, address: str, timer: Callable[[], int]
) -> tuple[Item, bool, AuditEntry | None]:
    """Return the response to an item, whether it failed, and its audit entry."""
    began = timer()
    batch.operation, batch.subject, batch.bytes, batch.recorded = None, "", 0, False
    supported: SupportedOperation | None = None
    try:
        supported = item.supported(batch.version)
        batch.operation = supported.audited
        _require_state(batch, supported)
        payload = await _handle(batch, supported, item)
    except Exception as refused:  # noqa: BLE001 - translated only here; the batch may continue
        # Otherwise a Destroy after a failed Create or Locate would destroy the object of an earlier item.
        batch.placeholder = None
        answer, failed = _failure(item.repeated, refused, batch.version), True
        code = refused.code if isinstance(refused, OpenKcmError) else _INTERNAL
        note_error(code)
    else:
        answer, failed, code = _success(item.repeated, payload), False, ""
    if supported is None or supported.audited is None:
        return answer, failed, None
    entry = AuditEntry(
        batch.caller.tenant_id,
        batch.caller.service,
        supported.audited,
        batch.subject[:_MAX_SUBJECT],
        correlation,
        address,
        code,
        1,
        batch.bytes,
        (timer() - began + 999) // 1000,
        batch.recorded and not code,
        batch.caller.resources_recorded,
    )
    return answer, failed, entry


async def _handle(batch: Batch, supported: SupportedOperation, item: _BatchItem) -> Payload:
    answer = await supported.handler(batch, item.payload(batch.version))
    if batch.version < VERSION_2:
        return answer
    return to_version_2(required(read_choice(item.item, Tag.OPERATION), Tag.OPERATION), answer)


def _read_payload(item: Item, version: int) -> Item:
    payload = read_structure(item, Tag.REQUEST_PAYLOAD) or _NO_PAYLOAD
    _require_few_fields(payload)
    for part in payload.children():
        _require_few_fields(part)
    return payload if version < VERSION_2 else from_version_2(payload)


def _find_operation(item: Item, version: int) -> SupportedOperation:
    operation = required(read_choice(item, Tag.OPERATION), Tag.OPERATION)
    extension = read_structure(item, Tag.MESSAGE_EXTENSION)
    if extension is not None and read_flag(extension, Tag.CRITICALITY_INDICATOR):
        raise unsupported("the critical message extension is not supported")
    supported = OPERATIONS.get(operation)
    # Discover Versions is accepted in every version, because its purpose is to find a common one.
    if supported is None or (supported.since > version and operation != Operation.DISCOVER_VERSIONS):
        raise KmipRefused(ResultReason.OPERATION_NOT_SUPPORTED, "the operation is not supported")
    return supported


def _require_few_fields(item: Item) -> None:
    if len(item.children()) > _MOST_FIELDS:
        raise malformed("the request has too many fields in a structure")


def _require_state(batch: Batch, supported: SupportedOperation) -> None:
    if batch.caller.tenant_state not in supported.needs:
        raise TenantNotOperational(batch.caller.tenant_state)


def _read(request: Item) -> tuple[_Header, Sequence[_BatchItem]]:
    """Return header and batch items; raise KmipRefused."""
    if request.tag != Tag.REQUEST_MESSAGE:
        raise malformed("the message is not a request message")
    item = required(read_structure(request, Tag.REQUEST_HEADER), Tag.REQUEST_HEADER)
    _require_few_fields(item)
    # Not cached: a header with credentials, although credentials are ignored here, and one that takes much memory.
    cached = _is_small(item) and item.first(Tag.AUTHENTICATION) is None
    header = (_read_header if cached else _read_header.__wrapped__)(item)
    items = [item for item in request.all(Tag.BATCH_ITEM) if item.children()]
    if header.size != len(items) or not items:
        raise malformed("the batch count does not match the number of batch items")
    if header.size > MAX_ITEMS:
        raise malformed("the batch has too many items")
    if header.protocol not in VERSIONS and not all(map(_discovers_versions, items)):
        raise malformed("the protocol version is not supported")
    # Nothing before the last item changes anything, so there is nothing to undo when an item fails.
    if header.option == BatchErrorContinuationOption.UNDO and any(map(_may_change, items[:-1])):
        raise unsupported("a batch with the option Undo can change objects only in its last item")
    return header, [_BatchItem(item) for item in items]


def _discovers_versions(item: Item) -> bool:
    """Return whether an item asks for the common versions, in a header of any version (KMIP 1.4, section 4.26)."""
    operation = item.first(Tag.OPERATION)
    return operation is not None and operation.value == Operation.DISCOVER_VERSIONS


def _may_change(item: Item) -> bool:
    operation = item.first(Tag.OPERATION)
    supported = OPERATIONS.get(operation.value) if operation is not None and isinstance(operation.value, int) else None
    return supported is not None and supported.audited not in _UNCHANGING


def _is_small(item: Item) -> bool:
    """Return whether an item has few and short values: the caches count entries, and all tenants share them."""
    return sum(map(_weight, item.children())) <= _SMALL


def _weight(item: Item) -> int:
    """Return the bytes of an item, of a big integer too, which is an `int` of any size."""
    if isinstance(item.value, tuple):
        return _SMALL + 1 if len(item.value) > 2 else 8 + sum(map(_weight, item.value))
    return 8 + (item.value.bit_length() // 8 if isinstance(item.value, int) else len(item.value))


@lru_cache(maxsize=_HEADERS)
def _read_header(header: Item) -> _Header:
    """Return the values of a header; raise KmipRefused. Cached, because the headers of a client are mostly equal."""
    protocol = read_version(required(read_structure(header, Tag.PROTOCOL_VERSION), Tag.PROTOCOL_VERSION))
    count = required(read_number(header, Tag.BATCH_COUNT), Tag.BATCH_COUNT)
    if read_flag(header, Tag.ASYNCHRONOUS_INDICATOR):
        raise unsupported("asynchronous operation is not supported")
    option = read_choice(header, Tag.BATCH_ERROR_CONTINUATION_OPTION)
    correlation = read_text(header, Tag.CLIENT_CORRELATION_VALUE) if protocol >= (1, 4) else None
    if correlation is not None and len(correlation) > _MOST_CORRELATION:
        raise malformed(f"the client correlation value has more than {_MOST_CORRELATION} characters")
    maximum = read_number(header, Tag.MAXIMUM_RESPONSE_SIZE) or 0
    version = feature_level(protocol if protocol in VERSIONS else VERSIONS[0])
    return _Header(protocol, version, count, option, maximum, correlation)


def _version_to_answer(request: Item) -> tuple[int, int]:
    """Return the version of a rejected request, or the newest one of its major version if it is not supported."""
    header = request.first(Tag.REQUEST_HEADER)
    version = None if header is None else header.first(Tag.PROTOCOL_VERSION)
    try:
        protocol = (0, 0) if version is None else read_version(version)
    except KmipRefused:
        protocol = (0, 0)
    return protocol if protocol in VERSIONS else next((one for one in VERSIONS if one[0] == protocol[0]), (1, 4))


def _success(repeated: Payload, payload: Payload) -> Item:
    return structure(Tag.BATCH_ITEM, *repeated, _SUCCESS, structure(Tag.RESPONSE_PAYLOAD, *payload))


def _failure(repeated: Payload, error: Exception, version: int) -> Item:
    return structure(Tag.BATCH_ITEM, *repeated, *_error(error, version))


def _failures(items: Sequence[_BatchItem], error: Exception, version: int) -> Sequence[Item]:
    """Return an error that concerns all items; the items of a batch mostly repeat the same."""
    fields = _error(error, version)
    different = dict.fromkeys(item.repeated for item in items)
    made = {repeated: ttlv.pre_encode(structure(Tag.BATCH_ITEM, *repeated, *fields)) for repeated in different}
    return [made[item.repeated] for item in items]


def _error(error: Exception, version: int) -> Payload:
    reason, message = reason_and_message(error, of_2=version >= VERSION_2)
    return _FAILED, choice(Tag.RESULT_REASON, reason), text(Tag.RESULT_MESSAGE, message)


def _too_large() -> KmipRefused:
    message = "the response is larger than the maximum response size; request fewer objects at once"
    return KmipRefused(ResultReason.RESPONSE_TOO_LARGE, message)


def _fit(answers: Sequence[Item], items: Sequence[_BatchItem], room: int, version: int) -> Sequence[Item]:
    """Return results of at most `room` bytes, if errors instead of the largest ones suffice.

    So the few bytes of a Create result still reach the client.
    """
    fitting = [ttlv.encode(answer) for answer in answers]
    size = sum(map(len, fitting))
    for place in sorted(range(len(fitting)), key=lambda place: len(fitting[place]), reverse=True):
        if size <= room:
            break
        error = ttlv.encode(_failure(items[place].repeated, _too_large(), version))
        if len(error) < len(fitting[place]):
            size += len(error) - len(fitting[place])
            fitting[place] = error
    return [ttlv.from_encoded(Tag.BATCH_ITEM, encoded) for encoded in fitting]


def _message(
    protocol: tuple[int, int],
    now: int,
    answers: Sequence[Item],
    client_correlation: str | None = None,
    server_correlation: str = "",
) -> Item:
    """Return the response; `server_correlation` is the correlation id of audit and log."""
    if client_correlation is None:
        header = _encoded_header(protocol, now, len(answers))
    else:
        # Both or none: PyKMIP before 0.11 does not read a header of 1.4 with a value that it did not ask for.
        header = _header(
            protocol,
            now,
            len(answers),
            text(Tag.CLIENT_CORRELATION_VALUE, client_correlation),
            text(Tag.SERVER_CORRELATION_VALUE, server_correlation),
        )
    return structure(Tag.RESPONSE_MESSAGE, header, *answers)


@lru_cache(maxsize=_RESPONSE_HEADERS)
def _encoded_header(protocol: tuple[int, int], now: int, count: int) -> Item:
    return ttlv.pre_encode(_header(protocol, now, count))


def _header(protocol: tuple[int, int], now: int, count: int, *correlation: Item) -> Item:
    return structure(
        Tag.RESPONSE_HEADER,
        version_item(*protocol),
        moment(Tag.TIME_STAMP, now),
        *correlation,
        number(Tag.BATCH_COUNT, count),
    )
