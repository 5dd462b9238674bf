"""WatchRootKeys: tries the root keys that a region's customers hold, for ever, and tells those concerned of a change.

One activity tries them all and ends only when a tenant's standing must follow its root key (or once an hour), so that a
check leaves no event behind. What it found is on record before this workflow hears of it; a signal that is lost is sent
again, because the watch goes on to find that root key and standing do not agree.
"""

import asyncio

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.watching import WatchActivities
    from core.messages.keys import WatchRootKeysInput
    from workflows import timing
    from workflows.telling import tell

ROOT_KEY_REPORTED = "root-key-reported"
"""The signal by which a tenant's entity is asked to look at its root key."""


@workflow.defn(name="WatchRootKeys")
class WatchRootKeys:
    @workflow.run
    async def run(self, watch: WatchRootKeysInput) -> None:
        while not workflow.info().is_continue_as_new_suggested():
            changed = await workflow.execute_activity_method(
                WatchActivities.watch_root_keys,
                watch,
                summary="try every root key that a customer of the region holds",
                start_to_close_timeout=timing.WATCH_ATTEMPT,
                heartbeat_timeout=timing.WATCH_HEARTBEAT,
                retry_policy=timing.RETRY,
            )
            # All in one task: nobody's root key is tried while they are told.
            await asyncio.gather(*(tell(tenant_id, ROOT_KEY_REPORTED) for tenant_id in changed.tenants))
        workflow.continue_as_new(watch)
