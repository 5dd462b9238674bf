"""Work of provisioning, counted by the servers: OpenBao's audit log, PostgreSQL's log and statistics.

It validates the floor: a script that sends more requests than the product would make the target too easy. While it
counts, nothing polls, the schedules are paused, and PostgreSQL logs every statement of the two roles.
"""

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from temporalio.client import Client

from tests.benchmarks.harness.stack import Stack
from tests.benchmarks.harness.statement_log import Message, StatementLog
from worker.bootstrap import SCHEDULES

FLUSH_SECONDS = 11.5
"""An idle PostgreSQL backend reports its counters after 10 seconds at the latest."""
_TENANT_WORK = re.compile(r"transit/|pki/root/sign-intermediate|auth/jwt/login")
_BACKGROUND = re.compile(r"audit-checkpoints|payloads-platform")
_VARYING = re.compile(r"(?:[a-z0-9*-]+\|\d+\|)?[0-9a-f]{64}|boundary-[0-9a-f]{16}")


@dataclass(frozen=True)
class Work:
    """The work of the servers for one tenant: each kind of request or statement with its number."""

    requests: dict[str, float]
    statements: dict[str, float]
    transactions: float
    rows_written: float

    def exceeding(self, other: "Work") -> dict[str, float]:
        """Return each kind of which this has more than `other`, with the difference."""
        mine = self.requests | self.statements | {"transactions": self.transactions}
        theirs = other.requests | other.statements | {"transactions": other.transactions}
        return {what: round(n - theirs.get(what, 0), 2) for what, n in mine.items() if n > theirs.get(what, 0)}


@dataclass(frozen=True)
class _Reading:
    audit_offset: int
    log_offset: int
    transactions: int
    rows_written: int


class Counters:
    """`with Counters(stack).counting() as count:` then `count(tenants, provision)`."""

    def __init__(self, stack: Stack) -> None:
        self._temporal = stack.settings.temporal_address or ""
        self._audit_log = next(stack.settings.state_dir.rglob("audit.log"))
        self._log = StatementLog(stack)

    @contextmanager
    def counting(self) -> Iterator[Callable[[Sequence[str], Callable[[str], object]], Work]]:
        pause_schedules(self._temporal, paused=True)
        with self._log.logging():
            time.sleep(FLUSH_SECONDS)  # until the counters contain all earlier work
            yield self._count
        pause_schedules(self._temporal, paused=False)
        self._log.close()

    def _count(self, tenants: Sequence[str], provision: Callable[[str], object]) -> Work:
        """Provision all tenants and return the work for one; `provision` must not poll for the result."""
        idle = self._over(lambda: None)
        before, after = self._over(lambda: [provision(tenant) for tenant in tenants])
        idle_transactions = idle[1].transactions - idle[0].transactions
        requests = requests_between(self._audit_log, before.audit_offset, after.audit_offset, tenants)
        statements = kinds(self._log.between(before.log_offset, after.log_offset), tenants)
        number = len(tenants)
        return Work(
            requests={path: round(times / number, 2) for path, times in sorted(requests.items())},
            statements={text: round(times / number, 2) for text, times in sorted(statements.items())},
            transactions=round((after.transactions - before.transactions - idle_transactions) / number, 2),
            rows_written=round((after.rows_written - before.rows_written) / number, 2),
        )

    def _over(self, work: Callable[[], object]) -> tuple[_Reading, _Reading]:
        before = self._read()
        work()
        time.sleep(FLUSH_SECONDS)
        return before, self._read()

    def _read(self) -> _Reading:
        row = self._log.administrator.execute(
            "select xact_commit + xact_rollback, tup_inserted + tup_updated + tup_deleted"
            " from pg_stat_database where datname = 'openkcm'"
        ).fetchone()
        if row is None:
            raise LookupError("no statistics of the database openkcm")
        return _Reading(self._audit_log.stat().st_size, self._log.offset(), *row)


def pause_schedules(temporal: str, *, paused: bool) -> None:
    """Pause or resume the platform's schedules."""

    async def change() -> None:
        client = await Client.connect(temporal)
        for name in SCHEDULES:
            handle = client.get_schedule_handle(name)
            await (handle.pause() if paused else handle.unpause())

    asyncio.run(change())


def requests_between(audit_log: Path, start: int, end: int, tenants: Sequence[str]) -> Counter[str]:
    """Return the number of each request for tenants; tenant names in paths are replaced by `TENANT`."""
    with audit_log.open("rb") as log:
        log.seek(start)
        entries = [json.loads(line) for line in log.read(end - start).splitlines()]
    name = _any_of(tenants)
    found: Counter[str] = Counter()
    for entry in entries:
        path = entry["request"].get("path", "")
        if entry["type"] == "request" and _TENANT_WORK.match(path) and not _BACKGROUND.search(path):
            found[f"{entry['request']['operation']} {name.sub('TENANT', path)}"] += 1
    return found


def kinds(messages: Sequence[Message], tenants: Sequence[str]) -> Counter[str]:
    """Return the number of each message; values that differ between tenants are replaced."""
    name = _any_of(tenants)
    return Counter(name.sub("TENANT", _VARYING.sub("VARYING", message.text)) for message in messages)


def _any_of(tenants: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, tenants)))
