"""Gives every activity its workflow's id as correlation id, which adapters send along and audit records have."""

from temporalio import activity
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from core.correlation import correlation_id


class CorrelationInterceptor(Interceptor):
    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002 - the SDK's name
        """Put the id around every activity; the SDK hands the context on to the activity's thread."""
        return _Correlated(next)


class _Correlated(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> object:  # noqa: A002 - the SDK's name
        token = correlation_id.set(activity.info().workflow_id or "")
        try:
            return await self.next.execute_activity(input)
        finally:
            correlation_id.reset(token)
