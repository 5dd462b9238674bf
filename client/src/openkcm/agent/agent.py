"""The agent's loop: enrol, renew the certificate in time, reload the service, send heartbeats.

Each turn does the work that is due and returns the time of the next. While the service has never had a certificate, a
turn raises the errors that only an operator can resolve. All other errors are reported and retried.

A problem is logged when it begins, repeatedly while it lasts, and when it is over. The heartbeat reports the worst.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from cryptography import x509

from openkcm.agent import schedule as timing
from openkcm.agent.attestation import Attestor
from openkcm.agent.certificate_validation import is_valid, serial_of
from openkcm.agent.config import AgentConfig
from openkcm.agent.enrolment import Enrolment
from openkcm.agent.enrolment_client import EnrolmentClient, ServerBusy
from openkcm.agent.errors import (
    AnswerNotUnderstood,
    AuthorityRefused,
    ControlRefused,
    ControlUnavailable,
    EnrolmentRefused,
    NotInOrder,
    ProofMissing,
    ProofUnreadable,
    ReloadFailed,
)
from openkcm.agent.reload import NoReload, Reload
from openkcm.agent.renewal import Connection, Renewal
from openkcm.agent.schedule import Backoff, Chance, ServerClock
from openkcm.agent.signals import SignalWaiter
from openkcm.agent.state import load_state, save_state
from openkcm.contract.services import HEARTBEAT_SECONDS, AgentProblem
from openkcm.credentials.store import CredentialStore
from openkcm.errors import FolderRefused, OpenKcmError, ProofRefused
from openkcm.sdk.errors import AccessRefused, ClientError

_NEEDS_OPERATOR = (
    ProofMissing,
    ProofUnreadable,
    ProofRefused,
    EnrolmentRefused,
    AuthorityRefused,
    ControlRefused,
    FolderRefused,
)
_OPERATOR_SECONDS = 60.0
"""Seconds between two attempts after an error that only an operator can resolve."""
_MAX_IDLE_SECONDS = 60.0
_MIN_CHECK_SECONDS = 5.0
"""Shortest time between two checks for a renewal; a heartbeat can request one."""
_HEARTBEAT_RANGE = (5.0, 300.0)

log = structlog.get_logger()


@dataclass(slots=True)
class _Due:
    """Times of the next actions, on a clock that is never set."""

    renewal: float = 0.0
    enrol: float = 0.0
    reload: float = 0.0
    heartbeat: float = 0.0


class Agent:
    def __init__(  # noqa: PLR0913 - its collaborators, by name
        self,
        job: AgentConfig,
        folder: CredentialStore,
        control: EnrolmentClient,
        proofs: Attestor,
        *,
        reload: Reload | None = None,
        clock: ServerClock,
        signals: SignalWaiter,
        chance: Chance = random.random,
    ) -> None:
        self._job, self._folder, self._control, self._clock, self._signals = job, folder, control, clock, signals
        self._reload, self._chance = reload or NoReload(), chance
        folder.require_key_of_certificate()
        self._state = load_state(folder)
        self._enrolment = Enrolment(folder, self._state, control, proofs, job.service, job.kind)
        self._connection = Connection(folder, clock)
        self._renewal = Renewal(job, folder, self._state, control, self._connection, clock)
        self.health = Health(clock.elapsed)
        self._due, self._last_check = _Due(), -_MAX_IDLE_SECONDS
        self._backoffs = {what: Backoff(300.0, chance) for what in ("renewal", "enrol")}
        self._backoffs["reload"] = Backoff(60.0, chance)
        self._leaf: x509.Certificate | None = None
        self._revoked = self._unsaved = False

    def run(self) -> None:
        """Run until a signal stops the agent; raise errors that need an operator before the first certificate."""
        log.info("agent started", service=self._job.service, folder=str(self._folder.path))
        while not self._signals.stopped:
            wait = self.turn()
            self._signals.wait(min(wait, _MAX_IDLE_SECONDS))
            self._handle_check_request()
        log.info("agent stopped")

    def once(self, seconds: float) -> None:
        """Do the work that is due now, within `seconds`.

        Raises: the errors that need an operator, and NotInOrder when work is left.
        """
        end = self._clock.elapsed() + seconds
        wait = self.turn()
        tolerated = {None, AgentProblem.CLOCK_WRONG}
        while not self._is_complete() and not self._signals.stopped:
            if self.health.worst not in tolerated and not self._is_enrolling():
                break
            if self._clock.elapsed() + wait > end:
                break
            self._signals.wait(wait)
            wait = self.turn()
        problem = self.health.worst
        if problem not in tolerated or not self._is_complete():
            raise NotInOrder(problem.value if problem else "not finished in time")

    def close(self) -> None:
        self._connection.close()

    def turn(self) -> float:
        """Do the work that is due and return the seconds until the next is due."""
        try:
            self._reload_certificate()
            self._renewal.follow_certificate()
            self._save_pending()
            if self._leaf is not None and self._is_due(self._due.renewal):
                self._check_renewal(self._leaf)
            if self._must_enrol() and self._is_due(self._due.enrol):
                self._enrol()
            if self._leaf is not None:
                self._reload_service(self._leaf)
                self._send_heartbeat(self._leaf)
            self._check_clock()
        except FolderRefused as refused:
            if self._leaf is None:
                raise
            self.health.report_error(AgentProblem.FOLDER_UNUSABLE, refused)
            self._unsaved = True
            return _MAX_IDLE_SECONDS
        return max(0.0, self._next() - self._clock.elapsed())

    # State of the folder.

    def _reload_certificate(self) -> None:
        """Load the certificate from the folder; the service's own client or an operator may have replaced it."""
        leaf = self._folder.certificate()
        if leaf == self._leaf:
            return
        known, self._leaf, self._revoked = self._leaf is not None, leaf, False
        if leaf is None:
            return
        self._connection.use(self._state.https)
        if known or self._last_check > 0:
            wait = timing.until_renewal(leaf, self._clock.now(), self._chance)
            self._due.renewal = self._clock.elapsed() + wait
            self._backoffs["renewal"].succeeded()
        self.health.resolve(AgentProblem.CERTIFICATE_LAPSED, AgentProblem.CERTIFICATE_REVOKED)
        self._check_expiry()

    def _save_pending(self) -> None:
        """Save the state that could not be saved last time; raises FolderRefused."""
        if self._unsaved:
            save_state(self._folder, self._state)
            self._unsaved = False
            self.health.resolve(AgentProblem.FOLDER_UNUSABLE)

    def _must_enrol(self) -> bool:
        return self._leaf is None or self._revoked or not is_valid(self._leaf, self._clock.now())

    def _is_enrolling(self) -> bool:
        """Return whether an enrolment is in progress that replaces a revoked or expired certificate."""
        return self._must_enrol() and self._state.pending is not None

    def _is_complete(self) -> bool:
        leaf = self._leaf
        return leaf is not None and not self._must_enrol() and self._state.reported == serial_of(leaf)

    def _is_due(self, at: float) -> bool:
        return self._clock.elapsed() >= at

    def _next(self) -> float:
        due, leaf = self._due, self._leaf
        times = [due.enrol] if self._must_enrol() else [due.heartbeat]
        if leaf is not None:
            times.append(due.renewal)
            if self._state.reported != serial_of(leaf):
                times.append(due.reload)
        return min(times)

    def _handle_check_request(self) -> None:
        if self._signals.check_requested:
            self._signals.check_requested = False
            self._due = _Due()
            self._enrolment.retry_rejected()
            log.info("check requested by signal")

    # Enrolment.

    def _enrol(self) -> None:
        backoff = self._backoffs["enrol"]
        try:
            found = self._enrolment.attempt(self._clock.now())
            if isinstance(found, float):
                self._due.enrol = self._clock.elapsed() + found
                return
            self._state.https, self._state.kmip = found.offer.https, found.offer.kmip
            save_state(self._folder, self._state)
            self._renewal.write(found.issued)
            self._enrolment.completed()
        except (ControlUnavailable, AnswerNotUnderstood) as failed:
            wait = backoff.next(asked=failed.wait if isinstance(failed, ServerBusy) else 0.0)
            log.warning("not enrolled yet", code=failed.code, detail=failed.message, again_in=round(wait, 1))
            self._due.enrol = self._clock.elapsed() + wait
        except _NEEDS_OPERATOR as refused:
            if self._leaf is None:
                raise
            self.health.report_error(self._problem_of(refused), refused)
            self._due.enrol = self._clock.elapsed() + _OPERATOR_SECONDS
        else:
            backoff.succeeded()
            problems = (AgentProblem.PROOF_REFUSED, AgentProblem.AUTHORITY_REFUSED, AgentProblem.FOLDER_UNUSABLE)
            self.health.resolve(*problems)
            self._reload_certificate()
            wait = timing.until_renewal(found.issued.leaf, self._clock.now(), self._chance)
            self._due.renewal = self._clock.elapsed() + wait

    def _problem_of(self, refused: OpenKcmError) -> AgentProblem:
        if isinstance(refused, ProofRefused | EnrolmentRefused):
            return AgentProblem.PROOF_REFUSED
        if isinstance(refused, AuthorityRefused | ControlRefused):
            return AgentProblem.AUTHORITY_REFUSED
        if isinstance(refused, FolderRefused):
            return AgentProblem.FOLDER_UNUSABLE
        return AgentProblem.CERTIFICATE_REVOKED if self._revoked else AgentProblem.CERTIFICATE_LAPSED

    # Renewal.

    def _check_renewal(self, leaf: x509.Certificate) -> None:
        """Fetch the newest certificate and schedule the next check."""
        backoff, between = self._backoffs["renewal"], timing.check_interval(leaf)
        self._last_check = self._clock.elapsed()
        try:
            self._renewal.fetch()
            self._revoked = False
        except AccessRefused as refused:
            self._handle_access_refused(refused)
            wait = backoff.next(between)
        except (ClientError, ControlUnavailable, AnswerNotUnderstood) as failed:
            detail = failed.detail if isinstance(failed, ClientError) else failed.message
            log.warning("no certificate fetched", code=failed.code, detail=detail)
            wait = backoff.next(between)
        except FolderRefused as refused:
            self.health.report_error(AgentProblem.FOLDER_UNUSABLE, refused)
            wait = backoff.next(between)
        else:
            backoff.succeeded()
            self.health.resolve(AgentProblem.FOLDER_UNUSABLE, AgentProblem.CERTIFICATE_REVOKED)
            self._reload_certificate()
            now = self._leaf or leaf
            wait = timing.until_renewal(now, self._clock.now(), self._chance)
            wait = max(wait, timing.check_interval(now) * (0.5 + self._chance() / 2))
        self._due.renewal = self._clock.elapsed() + wait
        self._check_expiry()

    def _check_expiry(self) -> None:
        """Report a certificate that has expired or was not renewed in the first quarter of its last third."""
        leaf = self._leaf
        if leaf is None:
            return
        left = timing.remaining(leaf, self._clock.now())
        if left.total_seconds() <= 0:
            ended = f"the certificate expired at {leaf.not_valid_after_utc.isoformat()}"
            self.health.report(AgentProblem.CERTIFICATE_LAPSED, ended, ProofMissing.hint)
        elif left < timing.lifetime(leaf) / 4:
            until = f"the certificate expires at {leaf.not_valid_after_utc.isoformat()} and was not renewed"
            self.health.report(
                AgentProblem.NOT_RENEWED, until, "check the network, and the service on the Services page"
            )
        else:
            self.health.resolve(AgentProblem.NOT_RENEWED)

    def _handle_access_refused(self, refused: AccessRefused) -> None:
        if refused.code == "client_not_authorized":
            self._revoked = True
            self.health.report(AgentProblem.CERTIFICATE_REVOKED, refused.detail, ProofMissing.hint)
        else:
            log.warning("tenant is not available", code=refused.code, detail=refused.detail)

    # Reload and heartbeat.

    def _reload_service(self, leaf: x509.Certificate) -> None:
        if self._state.reported == serial_of(leaf) or not self._is_due(self._due.reload):
            return
        try:
            self._reload.notify(self._folder.path)
        except ReloadFailed as failed:
            self.health.report_error(AgentProblem.RELOAD_FAILED, failed)
            self._due.reload = self._clock.elapsed() + self._backoffs["reload"].next()
            return
        self._backoffs["reload"].succeeded()
        self.health.resolve(AgentProblem.RELOAD_FAILED)
        self._state.reported = serial_of(leaf)
        save_state(self._folder, self._state)
        if not isinstance(self._reload, NoReload):
            log.info("service reloaded", serial=self._state.reported)

    def _send_heartbeat(self, leaf: x509.Certificate) -> None:
        if self._must_enrol() or not self._state.https or not self._is_due(self._due.heartbeat):
            return
        worst = self.health.worst
        report = {
            "instance": f"{self._job.instance_of}-{self._state.name}",
            "agent_version": self._job.version,
            "not_after": leaf.not_valid_after_utc.isoformat(),
            "problem": None if worst is None else worst.value,
        }
        seconds = float(HEARTBEAT_SECONDS)
        try:
            answer = self._connection.heartbeat(report)
            seconds = min(max(float(answer["heartbeat_seconds"]), _HEARTBEAT_RANGE[0]), _HEARTBEAT_RANGE[1])
            if answer["certificate_newer"] is True and not self._backoffs["renewal"].failing:
                soonest = max(self._clock.elapsed(), self._last_check + _MIN_CHECK_SECONDS)
                self._due.renewal = min(self._due.renewal, soonest)
        except AccessRefused as refused:
            self._handle_access_refused(refused)
        except ClientError as failed:
            log.warning("heartbeat failed", code=failed.code, detail=failed.detail)
        except (KeyError, TypeError, ValueError):
            log.warning("heartbeat failed", code=AnswerNotUnderstood.code)
        self._due.heartbeat = self._clock.elapsed() + seconds * (0.9 + self._chance() / 5)

    def _check_clock(self) -> None:
        ahead = self._clock.wrong_by()
        if ahead is None:
            self.health.resolve(AgentProblem.CLOCK_WRONG)
            return
        minutes = round(ahead.total_seconds() / 60)
        detail = f"this machine's clock is {abs(minutes)} minutes {'ahead' if minutes > 0 else 'behind'}"
        self.health.report(AgentProblem.CLOCK_WRONG, detail, "set the clock; the agent uses the servers' time")


_REPEAT_SECONDS = 300.0


class Health:
    """The agent's present problems."""

    def __init__(self, elapsed: Callable[[], float]) -> None:
        self._elapsed = elapsed
        self._found: dict[AgentProblem, tuple[str, float]] = {}

    @property
    def worst(self) -> AgentProblem | None:
        return next((problem for problem in AgentProblem if problem in self._found), None)

    def report(self, problem: AgentProblem, detail: str, hint: str = "") -> None:
        """Record a problem; log it when it is new, has changed or was not logged for a while.

        `detail` and `hint` must hold no secret.
        """
        logged, at = self._found.get(problem, ("", 0.0))
        now = self._elapsed()
        if logged != detail or now - at >= _REPEAT_SECONDS:
            log.warning("agent has a problem", problem=problem.value, detail=detail, hint=hint)
            self._found[problem] = (detail, now)

    def report_error(self, problem: AgentProblem, error: OpenKcmError) -> None:
        self.report(problem, error.message, error.hint)

    def resolve(self, *problems: AgentProblem) -> None:
        for problem in problems:
            if self._found.pop(problem, None) is not None:
                log.info("problem is over", problem=problem.value)
