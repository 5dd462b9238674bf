"""The steps of a change of the root key, of the standing and of the watch as a script."""

from collections import Counter
from collections.abc import Callable

from temporalio import activity
from temporalio.exceptions import ApplicationError

from tenancy.events import AnnouncementKind
from tenancy.lifecycle import State
from tenancy.messages import (
    AbandonInput,
    AnnounceInput,
    PreflightResult,
    RootKeyStep,
    StandingInput,
    StandingMove,
    StandingResult,
    StepInput,
    SwitchResult,
    WatchResult,
    WatchRootKeysInput,
    WrapProgress,
)
from tenancy.root_keys import RootKeyMode

_STATES = {
    StandingMove.SUSPEND: State.SUSPENDED,
    StandingMove.RESUME: State.ACTIVE,
    StandingMove.LOCK: State.LOCKED,
    StandingMove.UNLOCK: State.ACTIVE,
}


class RootKeyScript:
    """Everything succeeds unless `down` or `refused` says otherwise."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.attempts: Counter[str] = Counter()
        self.down: set[str] = set()
        self.refused: dict[str, str] = {}
        self.problems = PreflightResult(problems=0)
        self.rounds = 1
        """How often all has to be wrapped before it can be switched: services come meanwhile."""
        self.was_switched = False
        """Whether a switch that was given up had been done after all."""
        self.follows = State.ACTIVE
        self.reports: list[tuple[str, ...]] = []
        self.abandoned: list[AbandonInput] = []
        self.operations: list[str] = []
        self._then: dict[str, Callable[[], None]] = {}

    def on(self, name: str, then: Callable[[], None]) -> None:
        """Do something the moment an activity is tried."""
        self._then[name] = then

    def activities(self) -> list[Callable[..., object]]:
        return [
            self._admit,
            self._preflight,
            self._wrap,
            self._switch,
            self._abandon,
            self._change_standing,
            self._follow,
            self._watch,
            self._announce,
        ]

    def _called(self, name: str, step: StepInput | None = None) -> None:
        self.attempts[name] += 1
        self._then.get(name, lambda: None)()
        if name in self.down:
            raise ApplicationError("down", "start it", type="vault_unavailable")
        if name in self.refused:
            raise ApplicationError("refused", "mend it", type=self.refused[name], non_retryable=True)
        self.calls.append(name)
        if step is not None:
            self.operations.append(step.operation_id)

    @activity.defn(name="admit-root-key")
    async def _admit(self, step: RootKeyStep) -> None:
        self._called("admit-root-key", step)

    @activity.defn(name="preflight-root-key")
    async def _preflight(self, step: RootKeyStep) -> PreflightResult:
        self._called("preflight-root-key", step)
        return self.problems

    @activity.defn(name="wrap-service-keys")
    async def _wrap(self, step: RootKeyStep) -> WrapProgress:
        self._called("wrap-service-keys", step)
        return WrapProgress(total=3, wrapped=3)

    @activity.defn(name="switch-root-key")
    async def _switch(self, step: RootKeyStep) -> SwitchResult:
        self._called("switch-root-key", step)
        done = self.calls.count("switch-root-key") >= self.rounds
        told = AnnouncementKind.ROOT_KEY_CHANGED if done else None
        return SwitchResult(state=State.ACTIVE, switched=done, mode=RootKeyMode.OPENBAO, told=told)

    @activity.defn(name="abandon-root-key")
    async def _abandon(self, failure: AbandonInput) -> SwitchResult:
        self._called("abandon-root-key", failure)
        self.abandoned.append(failure)
        return SwitchResult(state=State.ACTIVE, switched=self.was_switched, mode=RootKeyMode.OPENBAO)

    @activity.defn(name="change-standing")
    async def _change_standing(self, step: StandingInput) -> StandingResult:
        self._called("change-standing", step)
        locks = step.move is StandingMove.LOCK
        return StandingResult(state=_STATES[step.move], told=AnnouncementKind.LOCKED if locks else None)

    @activity.defn(name="follow-root-key")
    async def _follow(self, step: StepInput) -> StandingResult:
        self._called("follow-root-key", step)
        return StandingResult(state=self.follows)

    @activity.defn(name="watch-root-keys")
    async def _watch(self, watch: WatchRootKeysInput) -> WatchResult:
        assert watch.region
        self._called("watch-root-keys")
        if not self.reports:
            await activity.wait_for_cancelled()
        return WatchResult(tenants=self.reports.pop(0))

    @activity.defn(name="announce")
    async def _announce(self, step: AnnounceInput) -> None:
        self._called(f"announce {step.kind}")
