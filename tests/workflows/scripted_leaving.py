"""The steps of leaving, restoring and destroying as a script: a tenant's row as far as they would find it."""

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.closing import ClosingActivities
from tenancy.events import AnnouncementKind
from tenancy.leaving_errors import DestructionBegun, LeavingOtherwise
from tenancy.leaving_messages import BegunResult, LeaveInput, LeavingResult, Stock
from tenancy.lifecycle import State
from tenancy.messages import AnnounceInput, StandingInput, StandingResult, StepInput

DESTRUCTION = [
    "begin-destruction",
    "take-stock",
    "disconnect-services",
    "destroy-service-keys",
    "destroy-tenant-key",
    "destroy-authority-key",
    "erase-rows",
    "destroy-payload-key",
    "certify-destruction",
    "announce farewell",
]


class LeavingScript:
    """Everything succeeds unless `down` says otherwise. The real one waits for the tenant's workflows."""

    def __init__(self, grace: timedelta = timedelta(days=30), services: tuple[str, ...] = ()) -> None:
        self.usual = grace
        self.services = services
        self.calls: list[str] = []
        self.attempts: Counter[str] = Counter()
        self.down: set[str] = set()
        self.refused: dict[str, str] = {}
        self.leaving: LeavingResult | None = None
        self.asked: list[LeaveInput] = []
        self.destroying = False
        self._then: dict[str, Callable[[], None]] = {}

    def on(self, name: str, then: Callable[[], None]) -> None:
        """Do something the moment an activity is tried."""
        self._then[name] = then

    def activities(self) -> list[Callable[..., object]]:
        return [
            self._leave,
            self._restore,
            self._remind,
            self._begin,
            self._take_stock,
            self._announce,
            self._follow,
            self._change_standing,
            ClosingActivities().close_workflows,
            *(self._plain(name) for name in DESTRUCTION[2:9]),
        ]

    def _called(self, name: str) -> None:
        self.attempts[name] += 1
        self._then.get(name, lambda: None)()
        if name in self.down:
            raise ApplicationError("down", "start it", type="vault_unavailable")
        if name in self.refused:
            raise ApplicationError("refused", "mend it", type=self.refused[name], non_retryable=True)
        self.calls.append(name)

    def _plain(self, name: str) -> Callable[..., object]:
        @activity.defn(name=name)
        async def scripted(step: StepInput) -> None:
            assert step.operation_id.startswith("offboard-")
            self._called(name)

        return scripted

    @activity.defn(name="begin-leaving")
    async def _leave(self, step: LeaveInput) -> LeavingResult:
        self._called("begin-leaving")
        self.asked.append(step)
        asked = timedelta() if step.now else step.grace_seconds and timedelta(seconds=step.grace_seconds)
        if self.leaving is not None:
            if asked is not None and self.leaving.until - self.leaving.since != asked:
                raise ApplicationError("at another time", "", type=LeavingOtherwise.code, non_retryable=True)
            return self.leaving.model_copy(update={"told": None})
        since = datetime.now(UTC)
        until = since + (self.usual if asked is None else asked)
        self.leaving = LeavingResult(state=State.LEAVING, since=since, until=until, told=AnnouncementKind.LEAVING)
        return self.leaving

    @activity.defn(name="restore-tenant")
    async def _restore(self, step: StepInput) -> StandingResult:
        assert step.tenant_id
        self._called("restore-tenant")
        if self.destroying:
            raise ApplicationError("too late", "", type=DestructionBegun.code, non_retryable=True)
        self.leaving = None
        return StandingResult(state=State.ACTIVE, told=AnnouncementKind.RESTORED)

    @activity.defn(name="remind-of-leaving")
    async def _remind(self, step: StepInput) -> None:
        self._called(f"remind {step.operation_id}")

    @activity.defn(name="begin-destruction")
    async def _begin(self, step: StepInput) -> BegunResult:
        assert step.tenant_id
        self._called("begin-destruction")
        self.destroying = self.leaving is not None
        return BegunResult(begun=self.destroying)

    @activity.defn(name="take-stock")
    async def _take_stock(self, step: StepInput) -> Stock:
        assert step.tenant_id
        self._called("take-stock")
        return Stock(services=self.services)

    @activity.defn(name="follow-root-key")
    async def _follow(self, step: StepInput) -> StandingResult:
        assert step.tenant_id
        self._called("follow-root-key")
        return StandingResult(state=State.ACTIVE)

    @activity.defn(name="change-standing")
    async def _change_standing(self, step: StandingInput) -> StandingResult:
        self._called(f"{step.move}")
        return StandingResult(state=State.ACTIVE)

    @activity.defn(name="announce")
    async def _announce(self, step: AnnounceInput) -> None:
        self._called(f"announce {step.kind}")
