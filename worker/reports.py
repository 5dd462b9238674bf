"""The report of a worker: that it runs, whether Temporal and the key server answer, and which root keys it monitors."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

from temporalio.client import Client
from temporalio.service import RPCError

from core.errors.platform import TemporalUnavailable
from core.messages.keys import WatchRootKeysInput
from core.tenants.status import ProcessKind
from database.connection.database import Database
from database.platform.processes import REPORT_SECONDS, ProcessReporter, instance_name, watch_name
from openkcm.errors import OpenKcmError
from vault.auth.client import VaultClient
from vault.health import KeyServerProbe

_TEMPORAL_SECONDS = 2.0
"""The deadline of a health check of Temporal."""


async def report_health(
    client: Client, database: Database, vault: VaultClient, watches: Callable[[], tuple[WatchRootKeysInput, ...]]
) -> None:
    """Report until cancelled; then withdraw the report, because the worker stops on purpose."""
    reporter = ProcessReporter(database, ProcessKind.WORKER, instance_name(), datetime.now(UTC))
    probe = KeyServerProbe(vault.for_token(""))
    probe.start()
    try:
        while True:
            faults = () if await _answers(client) else (TemporalUnavailable.code,)
            names = [watch_name(watch.region, watch.shard, watch.shards) for watch in watches()]
            with suppress(OpenKcmError):  # without a report the worker counts as silent
                await asyncio.to_thread(reporter.write, probe.state, faults=faults, watches=names)
            await asyncio.sleep(REPORT_SECONDS)
    finally:
        probe.stop()
        with suppress(OpenKcmError):
            await asyncio.to_thread(reporter.withdraw)


async def _answers(client: Client) -> bool:
    try:
        async with asyncio.timeout(_TEMPORAL_SECONDS):
            return await client.service_client.check_health()
    except (RPCError, RuntimeError, TimeoutError):
        return False
