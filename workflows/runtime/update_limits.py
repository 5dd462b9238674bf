"""The limit of a tenant's updates in flight, so that a lock is always accepted.

Temporal refuses an eleventh update in flight of a workflow. An update can wait long: for the end of an operation, or
for a server. Validators therefore reject requests of each kind above its limit; locks have none. One operation, five
requests and two proposals leave two for locks. A lock that is pending already has the same effect as another one.
Validators are not replayed, so a limit may change.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from types import MappingProxyType

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from core.errors.tenants import OperationRunning
    from workflows.runtime.failures import refusal


class UpdateKind(StrEnum):
    """Updates that run beside an operation, with the words for a rejection."""

    LOCK = "a lock"
    CHANGE = "the maximum number of changes of status and policy"
    DECISION = "the maximum number of decisions on approvals"
    PREFLIGHT = "the maximum number of preflights"
    PROPOSAL = "the maximum number of new requests for approval"


_LIMITS: Mapping[UpdateKind, int] = MappingProxyType(
    {UpdateKind.DECISION: 3, UpdateKind.PREFLIGHT: 3, UpdateKind.PROPOSAL: 2}
)
_REQUESTS = (UpdateKind.CHANGE, UpdateKind.DECISION, UpdateKind.PREFLIGHT)
_MAX_REQUESTS = 5
"""Updates of these kinds together. Proposals have their own limit, because an approved lock begins with one."""


class UpdatesInFlight:
    def __init__(self) -> None:
        self._running: Counter[UpdateKind] = Counter()

    @contextmanager
    def counted(self, kind: UpdateKind) -> Iterator[None]:
        """Count an update until the block ends. A handler MUST enter it before it waits for anything."""
        self._running[kind] += 1
        try:
            yield
        finally:
            self._running[kind] -= 1

    def require_capacity(self, kind: UpdateKind) -> None:
        """Raise OperationRunning, as a failure of the update, when the limit for a kind is reached."""
        requests = sum(self._running[one] for one in _REQUESTS)
        is_full = kind in _REQUESTS and requests >= _MAX_REQUESTS
        if is_full or (kind in _LIMITS and self._running[kind] >= _LIMITS[kind]):
            raise refusal(OperationRunning(kind))
