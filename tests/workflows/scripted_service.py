"""The steps of ConnectService as a script: what the database would remember, without a database."""

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from temporalio import activity
from temporalio.exceptions import ApplicationError

from tenancy.messages import (
    CertificatePlan,
    CertificateResult,
    CertificateStep,
    ConnectFailureInput,
    EnrolStep,
    ServiceStep,
    StepInput,
)

RENEWED_AFTER = timedelta(hours=48)


class ServiceScript:
    """One service. Everything succeeds unless `down` or `refused` says otherwise; generations count on for ever."""

    def __init__(self, renewed_after: timedelta = RENEWED_AFTER) -> None:
        self._renewed_after = renewed_after
        self.calls: list[str] = []
        self.attempts: Counter[str] = Counter()
        self.down: set[str] = set()
        self.refused: dict[str, tuple[str, str, str]] = {}
        self.issued: list[CertificateStep] = []
        self.operations: set[str] = set()
        self._then: dict[str, Callable[[], None]] = {}
        self._began = datetime.now(UTC)

    def on(self, name: str, then: Callable[[], None]) -> None:
        """Do something the moment an activity is tried."""
        self._then[name] = then

    def renew_at(self, step: CertificateStep) -> datetime:
        """Counted from the start of the script: the workflow's clock may have been moved, this one was not."""
        return self._began + self._renewed_after * step.generation

    def activities(self) -> list[Callable[..., object]]:
        return [
            self._record_service,
            self._create_service_key,
            self._issue_certificate,
            self._mark_connected,
            self._record_connect_failure,
            self._plan_renewal,
            self._disconnect_service,
        ]

    def _called(self, name: str, step: StepInput) -> None:
        self.attempts[name] += 1
        self._then.get(name, lambda: None)()
        if name in self.down:
            raise ApplicationError("down", "start it", type="vault_unavailable")
        if name in self.refused:
            code, message, hint = self.refused[name]
            raise ApplicationError(message, hint, type=code, non_retryable=True)
        self.calls.append(name)
        self.operations.add(step.operation_id)

    @activity.defn(name="record-service")
    async def _record_service(self, step: EnrolStep) -> CertificatePlan:
        self._called("record-service", step)
        return CertificatePlan(request_id=step.request_id, generation=len(self.issued) + 1)

    @activity.defn(name="create-service-key")
    async def _create_service_key(self, step: CertificateStep) -> None:
        self._called("create-service-key", step)

    @activity.defn(name="issue-certificate")
    async def _issue_certificate(self, step: CertificateStep) -> CertificateResult:
        self._called("issue-certificate", step)
        self.issued.append(step)
        return CertificateResult(renew_at=self.renew_at(step))

    @activity.defn(name="mark-connected")
    async def _mark_connected(self, step: CertificateStep) -> None:
        self._called("mark-connected", step)

    @activity.defn(name="record-connect-failure")
    async def _record_connect_failure(self, failure: ConnectFailureInput) -> None:
        self._called("record-connect-failure", failure)

    @activity.defn(name="plan-renewal")
    async def _plan_renewal(self, step: ServiceStep) -> CertificatePlan:
        self._called("plan-renewal", step)
        return CertificatePlan(request_id=self.issued[-1].request_id, generation=len(self.issued) + 1)

    @activity.defn(name="disconnect-service")
    async def _disconnect_service(self, step: ServiceStep) -> None:
        self._called("disconnect-service", step)
