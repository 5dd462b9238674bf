"""Progress of a lock: which processes reject the tenant's requests already, and the last uses of each service.

A crypto process has applied a lock when its report states a later transaction (`database.platform.processes`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from core.tenants.status import REPORT_SECONDS, ProcessKind
from dashboard.components.formatting import at, count, plain
from database.platform.processes import ProcessReport

OPEN, CLOSED, SILENT = "Open", "Closed", "No report"


@dataclass(frozen=True, slots=True)
class LockedBy:
    """Who locked the tenant, and when, by the audit stream."""

    actor: str
    at: datetime


@dataclass(frozen=True, slots=True)
class LockProgress:
    """`processes` are (name, state) pairs; `services` are table rows by service."""

    title: str
    words: str
    is_closed: bool
    processes: tuple[tuple[str, str], ...]
    services: tuple[Mapping[str, str], ...]


def lock_progress(
    change: int | None,
    reports: Sequence[ProcessReport],
    uses: Mapping[str, tuple[datetime | None, datetime | None]],
    locked: LockedBy | None,
) -> LockProgress:
    """Return the progress; `change` is the transaction of the lock.

    `uses` are the newest minutes with an answered and with a rejected use of each service.
    """
    serving = [one for one in reports if one.process is ProcessKind.CRYPTO]
    processes = tuple((f"Process {number}", _state(one, change)) for number, one in enumerate(serving, start=1))
    closed = sum(state == CLOSED for _, state in processes)
    silent = sum(state == SILENT for _, state in processes)
    whole = bool(processes) and closed == len(processes)
    title = (
        "Every process rejects requests"
        if whole
        else "No process of the crypto service reports its state"
        if not processes
        else f"{closed} of {count(len(processes), 'process rejects', 'processes reject')} requests"
    )
    parts = [] if locked is None else [f"Locked by {plain(locked.actor)}, {at(locked.at)}."]
    if silent:
        parts.append("A process without a report may have stopped, or cannot reach the database.")
    rejected = [(refused, name) for name, (_, refused) in uses.items() if refused is not None]
    if rejected:
        when, name = max(rejected)
        parts.append(f"Last rejected request: {plain(name)}, {at(when)}.")
    else:
        parts.append("No request was rejected since then.")
    rows = tuple(
        {
            "Service": name,
            "Access": CLOSED if whole else OPEN if processes else SILENT,
            "Last answered (UTC)": _minute(answered),
            "Last rejected (UTC)": _minute(refused),
        }
        for name, (answered, refused) in sorted(uses.items())
    )
    return LockProgress(title, " ".join(parts), whole, processes, rows)


def _state(one: ProcessReport, change: int | None) -> str:
    if one.age > REPORT_SECONDS:
        return SILENT
    return CLOSED if change is not None and one.applied is not None and one.applied > change else OPEN


def _minute(time: datetime | None) -> str:
    return "never" if time is None else at(time).removesuffix(" UTC")
