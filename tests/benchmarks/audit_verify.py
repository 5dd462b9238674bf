"""Duration of the verification of a million audit records, and of their export."""

import asyncio
import hashlib
import resource
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from matplotlib.figure import Figure
from temporalio.client import Client

from compliance.audit.export import begin_export
from config.secrets import Role
from core.audit import AuditFilter
from database.connection.database import Database
from openkcm.contract.audit_events import AuditEvent, AuditName
from tests.benchmarks import report
from tests.benchmarks.harness.stack import Stack
from tests.benchmarks.report import Check, Result
from tests.database.schema import postgres_versions

_TENANT = "much-audited-corp"
_OLDEST = "15"
_LIMIT_SECONDS = 60
_PIECE = 1000
_PATIENCE_SECONDS = 600
_POLL_SECONDS = 1
_PROTOCOL = (
    "{events} records of one tenant, with the kinds and proportions that its services produce (released keys, summed "
    "uses, rejections), are appended through the function that the crypto service's shipper calls, {piece} at a time. "
    "The product's schedule signs the newest checkpoint. `openkcmctl audit export` writes the records to a file of "
    "{megabytes} MB. `openkcm audit verify --public-key` verifies it in a separate process: measured are the seconds "
    "from its start to its result, and its CPU time. The floor is the unavoidable work: reading the file and hashing "
    "each line after the line before it. Then one bit in the middle of the file is inverted, and the command must "
    "report the line. At last the same records are exported from PostgreSQL {oldest}, the oldest supported version, by "
    "the code of the command."
)
Measured = TypeVar("Measured")


def run(*, quick: bool) -> tuple[Result, Figure]:
    events = 20_000 if quick else 1_000_000
    seconds: dict[str, float] = {}
    with Stack() as stack:
        stack.openkcm("enable", _TENANT, "--organization", "Bench Corp", "--region", "eu-west-1", "--wait")
        database = stack.database(Role.WORKER)
        seconds["append"], _ = timed(lambda: append(database, _TENANT, events))
        last = _signed(stack, database)
        database.close()
        file, key = stack.folder / "audit.jsonl", stack.folder / "key.pem"
        stack.openkcm("audit", "public-key", "--out", str(key))
        seconds["export"], exported = timed(
            lambda: stack.openkcm("audit", "export", _TENANT, "--out", str(file), timeout=_PATIENCE_SECONDS)
        )
        before = _cpu()
        seconds["verify"], verdict = timed(lambda: _verify(stack, file, key))
        seconds["verify, CPU"] = _cpu() - before
        assert verdict["intact"], verdict
        assert verdict["events"] == exported["events"] >= last >= events, verdict
        seconds["floor"], _ = timed(lambda: _floor(file))
        megabytes = round(file.stat().st_size / 1e6)
        line = _damage(file)
        damaged = _verify(stack, file, key, intact=False)
        assert f"line {line}" in damaged["problem"], damaged
        seconds["export, oldest"] = _export_from_oldest(events, stack.folder / "oldest.jsonl")
    result = Result(
        name="audit_verify",
        title=f"The verdict on {verdict['events']:,} audit records",
        quick=quick,
        protocol=_PROTOCOL.format(events=f"{events:,}", piece=f"{_PIECE:,}", megabytes=megabytes, oldest=_OLDEST),
        checks=[
            Check(f"verdict on {events:,} records", round(seconds["verify"], 2), _LIMIT_SECONDS, "s"),
            Check(
                f"export of {events:,} records, PostgreSQL {_OLDEST}",
                round(seconds["export, oldest"], 2),
                _LIMIT_SECONDS,
                "s",
            ),
        ],
        summary={
            "seconds": {name: round(took, 2) for name, took in seconds.items()},
            "records per second": {name: round(events / took) for name, took in seconds.items()},
            "microseconds for a record, verified": round(seconds["verify"] / events * 1e6, 1),
            "MB": megabytes,
            "the damage was reported as": damaged["problem"],
        },
        samples={"seconds": seconds},
    )
    return result, _plot(seconds)


def append(database: Database, tenant_id: str, events: int) -> None:
    """Append records with the kinds and proportions that a tenant's services produce."""
    for first in range(0, events, _PIECE):
        with database.tenant_tx(tenant_id) as tx:
            tx.audit.append_all([_event(number) for number in range(first, min(first + _PIECE, events))])


def _event(number: int) -> AuditEvent:
    """Return a record of the crypto service: half are released keys, one in 50 is a rejection, the rest are sums."""
    refused, released = number % 50 == 0, number % 2 == 1
    details = {"operation": "data-key" if released else "encrypt", "at": "2026-11-25T12:00:10.123+00:00"}
    more = {"code": "object_not_found"} if refused else {"bytes": "32"} if released else {"count": "241", "bytes": "96"}
    return AuditEvent(
        event_id=f"01795000000000123456-4711-0badcafe.journal:{number * 163}",
        name=AuditName.CRYPTO_REFUSED
        if refused
        else AuditName.CRYPTO_KEY_RELEASED
        if released
        else AuditName.CRYPTO_USED,
        actor_kind="service",
        actor=f"service-{number % 7}",
        subject=f"customers/{number}/ssn" if released or refused else f"service-{number % 7}",
        outcome="refused" if refused else "success",
        correlation_id=hashlib.sha256(number.to_bytes(8)).hexdigest()[:32],
        source="10.20.30.40",
        details=details | more,
    )


def _signed(stack: Stack, database: Database) -> int:
    """Trigger the schedule until it has signed the newest record; return its number."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        asyncio.run(_trigger(stack.settings.temporal_address or ""))
        with database.tenant_tx(_TENANT) as tx:
            ends = tx.audit.ends()
        if ends.last is not None and ends.signed is not None and ends.last.seq == ends.signed.seq:
            return ends.last.seq
        time.sleep(_POLL_SECONDS)
    raise TimeoutError("no checkpoint was signed for the newest record")


async def _trigger(temporal: str) -> None:
    await (await Client.connect(temporal)).get_schedule_handle("audit-checkpoints").trigger()


def _verify(stack: Stack, file: Path, key: Path, *, intact: bool = True) -> dict[str, Any]:
    words = ("audit", "verify", str(file), "--public-key", str(key))
    document: dict[str, Any] = stack.openkcm(*words, timeout=_PATIENCE_SECONDS, ends=0 if intact else 1)
    return document


def _floor(file: Path) -> None:
    previous = bytes(32)
    with file.open("rb") as lines:
        for line in lines:
            previous = hashlib.sha256(previous + line).digest()


def _export_from_oldest(events: int, file: Path) -> float:
    """Return the seconds of an export of new records from the oldest supported PostgreSQL."""
    with postgres_versions.migrated(_OLDEST) as field:
        append(field.open(Role.WORKER), _TENANT, events)
        database = field.open(Role.OPERATOR)
        counts: list[int] = []

        def export() -> None:
            with database.tenant_tx(_TENANT) as tx:
                begun = begin_export(tx, AuditFilter(), datetime.now(UTC), lambda _: "")
            with file.open("w", encoding="utf-8") as written:
                written.writelines(begun.lines(database, counts.append))

        seconds, _ = timed(export)
    assert counts == [events], counts
    return seconds


def _damage(file: Path) -> int:
    """Invert one bit in the middle of a file and return its line."""
    place = file.stat().st_size // 2
    with file.open("r+b") as content:
        line = content.read(place).count(b"\n") + 1
        content.seek(place)
        [byte] = content.read(1)
        content.seek(place)
        content.write(bytes([byte ^ 1]))
    return line


def timed(work: Callable[[], Measured]) -> tuple[float, Measured]:
    """Return the duration of some work in seconds, and its result."""
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def _cpu() -> float:
    """Return the CPU seconds of this process's ended children."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _plot(seconds: dict[str, float]) -> Figure:
    figure, axes = report.canvas()
    colours = {
        "floor": report.GREY,
        "verify": report.BLUE,
        "export": report.GREEN,
        "export, oldest": report.GREEN,
        "append": report.ORANGE,
    }
    bars = axes.barh(list(colours), [seconds[name] for name in colours], color=list(colours.values()))
    axes.bar_label(bars, fmt="%.1f s", padding=4)
    axes.axvline(_LIMIT_SECONDS, color=report.RED, ls="--", label=f"limit of the verdict, {_LIMIT_SECONDS} s")
    axes.set(title="a million audit records, from appended to verified", xlabel="seconds")
    axes.legend(loc="lower right")
    return figure
