"""A worker that kills a process at one moment of one step, with the real wiring otherwise.

Run as `python killing_worker.py PLAN`, a JSON list of `{"tenant", "activity", "moment", "pid", "spent"}` that may be
replaced while it runs; the first plan that is not spent is active. `moment` is `start` (before the step), `effect-N`
(after its Nth external effect: a response of a key server, or a commit) or `end` (before Temporal has the result).
`pid` 0 is this process. The file `spent` is created just before the kill, so that the next worker does not repeat it.
"""

import asyncio
import dataclasses
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from temporalio import activity
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

import worker.__main__ as worker_main
from config.settings import LOOPBACK, load_settings
from core.names import tenant_of_workflow
from kms.network.http import Transport
from openkcm.logging import configure_logs
from worker import wiring
from worker.__main__ import metrics_runtime

_THREADS_OF_A_STEP = ("wrap", "prepare", "rewrap")
"""Prefixes of the names of threads that a step starts; such threads do not know their step."""


class Plan:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._plan: dict[str, Any] | None = None
        self._running = 0
        self._load()

    def _load(self) -> None:
        """Load another plan if one is active now, so that a new plan does not require a restart."""
        with self._lock:
            plans = json.loads(self._path.read_text(encoding="utf-8"))
            plan = next((one for one in plans if not Path(one["spent"]).exists()), plans[-1])
            if plan == self._plan:
                return
            self._plan, self._effects = plan, 0
            self.tenant, self.activity, self.moment, self.pid = (
                plan[k] for k in ("tenant", "activity", "moment", "pid")
            )
            if self.pid < 0:
                raise ValueError("a negative pid is a group of processes")
            self.spent = Path(plan["spent"])

    def reached(self, moment: str) -> None:
        """Kill the process if this is the moment of the plan; a plan kills only once."""
        if moment != self.moment or self.spent.exists():
            return
        target = self.pid or os.getpid()  # before it is spent: afterwards the test may replace the plan
        self.spent.touch()
        os.kill(target, signal.SIGKILL)

    def effect(self) -> None:
        """Count an external effect of the planned step."""
        if not self._is_in_planned_step():
            return
        with self._lock:
            self._effects += 1
            count = self._effects
        self.reached(f"effect-{count}")

    @contextmanager
    def around(self) -> Iterator[None]:
        """Report the moments before and after a step, if it is the planned one."""
        self._load()
        if not self._is_planned_step():
            yield
            return
        self.reached("start")
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
        self.reached("end")

    def _is_in_planned_step(self) -> bool:
        if activity.in_activity():
            return self._is_planned_step()
        return self._running > 0 and threading.current_thread().name.startswith(_THREADS_OF_A_STEP)

    def _is_planned_step(self) -> bool:
        info = activity.info()
        return info.activity_type == self.activity and tenant_of_workflow(info.workflow_id or "") == self.tenant


class MomentsInterceptor(Interceptor):
    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:  # noqa: A002 - the SDK's name
        return _MomentsInbound(next, self._plan)


class _MomentsInbound(ActivityInboundInterceptor):
    def __init__(self, following: ActivityInboundInterceptor, plan: Plan) -> None:
        super().__init__(following)
        self._plan = plan

    async def execute_activity(self, input: ExecuteActivityInput) -> object:  # noqa: A002 - the SDK's name
        with self._plan.around():
            return await self.next.execute_activity(input)


def instrument(parts: wiring.WorkerDependencies, plan: Plan) -> wiring.WorkerDependencies:
    """Report every response of a key server, every commit and every step as a moment."""
    tenant_tx, customers_send = parts.database.tenant_tx, Transport.send

    def send(*args: Any, **kwargs: Any) -> Any:
        answer = customers_send(*args, **kwargs)
        plan.effect()
        return answer

    def counted(vault_request: Callable[..., Any]) -> Callable[..., Any]:
        def request(*args: Any, **kwargs: Any) -> Any:
            answer = vault_request(*args, **kwargs)
            plan.effect()
            return answer

        return request

    @contextmanager
    def transaction(tenant_id: str) -> Iterator[Any]:
        with tenant_tx(tenant_id) as tx:
            yield tx
        plan.effect()

    for session in (parts.vault, parts.offboarding):
        session.request = counted(session.request)  # type: ignore[method-assign] # the purpose of this worker
    parts.database.tenant_tx = transaction  # type: ignore[method-assign] # the same
    Transport.send = send  # type: ignore[method-assign] # the same; root key clients are created elsewhere
    return dataclasses.replace(parts, interceptors=(MomentsInterceptor(plan), *parts.interceptors))


def main() -> None:
    plan = Plan(Path(sys.argv[1]))
    settings = load_settings()
    configure_logs(settings.log_format, "killing-worker")
    runtime = metrics_runtime(f"{LOOPBACK}:{settings.worker_metrics_port}")
    asyncio.run(worker_main.run(settings, instrument(wiring.build(settings), plan), runtime))


if __name__ == "__main__":
    main()
