"""Operations on data that arrives in pieces (KMIP 1.4, sections 4.29 to 4.37), between two requests.

A stream is in the memory of one process, so its pieces must arrive on one connection. It belongs to the service that
began it, ends after a minute without a piece, and is counted: its cipher contains a key.
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from core.errors.requests import TooManyRequests
from crypto_service.interfaces import ClientIdentity
from crypto_service.kmip.codec.enums import ResultReason
from crypto_service.kmip.codec.errors import KmipRefused

MOST_OF_TENANT = 64
_MOST = 4_096
_IDLE_SECONDS = 60.0
_CORRELATION_BYTES = 16


@dataclass(frozen=True, slots=True)
class Stream:
    """The state of one operation; `object_id` is empty for an operation without a key."""

    tenant_id: str
    service: str
    operation: int
    object_id: str
    transform: Any


class Streams:
    """MUST be used from one event loop."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._streams: dict[bytes, tuple[float, Stream]] = {}
        self._of_tenant: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._streams)

    def put(self, stream: Stream) -> bytes:
        """Keep a stream until its next piece, and return its correlation value; raise TooManyRequests."""
        self._end_idle()
        if self._of_tenant[stream.tenant_id] >= MOST_OF_TENANT or len(self._streams) >= _MOST:
            raise TooManyRequests("too many operations in pieces are not finished")
        correlation = os.urandom(_CORRELATION_BYTES)
        self._streams[correlation] = self._monotonic() + _IDLE_SECONDS, stream
        self._of_tenant[stream.tenant_id] += 1
        self._watch()
        return correlation

    def take(self, caller: ClientIdentity, operation: int, correlation: bytes) -> Stream:
        """Return a stream of the caller, which then ends unless it is put again; raise KmipRefused."""
        self._end_idle()
        _, stream = self._streams.get(correlation, (0.0, None))
        own = stream is not None and (stream.tenant_id, stream.service) == (caller.tenant_id, caller.service)
        if stream is None or not own or stream.operation != operation:
            message = "the correlation value is unknown, has ended, or belongs to another operation"
            raise KmipRefused(ResultReason.INVALID_FIELD, message, ResultReason.INVALID_CORRELATION_VALUE)
        self._remove(correlation)
        return stream

    def _remove(self, correlation: bytes) -> None:
        _, stream = self._streams.pop(correlation)
        self._of_tenant[stream.tenant_id] -= 1
        if not self._of_tenant[stream.tenant_id]:
            del self._of_tenant[stream.tenant_id]

    def _end_idle(self) -> None:
        # In the order of their ends, because each has the same time.
        while self._streams:
            correlation, (ends, _) = next(iter(self._streams.items()))
            if ends > self._monotonic():
                return
            self._remove(correlation)

    def _watch(self) -> None:
        """End idle streams also if no other piece arrives, so that no key stays in memory."""
        if self._timer is None and self._streams:
            self._timer = asyncio.get_running_loop().call_later(_IDLE_SECONDS, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._end_idle()
        self._watch()
