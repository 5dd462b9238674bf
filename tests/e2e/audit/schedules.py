"""Schedules of the worker, triggered until their effect is visible."""

import asyncio
from collections.abc import Callable

from tests.e2e.stack import Stack

_SECONDS = 120
"""More than the heartbeat timeout of an activity whose worker was killed."""


def trigger_until(stack: Stack, schedule: str, done: Callable[[], bool]) -> None:
    """Trigger a schedule each second until `done`, because a running workflow ignores triggers."""

    async def trigger() -> None:
        handle = (await stack.temporal()).get_schedule_handle(schedule)
        async with asyncio.timeout(_SECONDS):
            while not done():
                await handle.trigger()
                await asyncio.sleep(1)

    asyncio.run(trigger())


def sign_to_the_end(stack: Stack, tenant_id: str) -> None:
    """Let the worker sign checkpoints until the last record is signed."""

    def signed() -> bool:
        with stack.database().tenant_tx(tenant_id) as tx:
            head, heads = tx.audit.head(), tx.audit.signed_heads()
        return bool(head and heads) and heads[-1].seq == head.seq

    trigger_until(stack, "audit-checkpoints", signed)
