"""The loop: a certificate there is, the next one in time, the service told of it, and a word that all that is so.

Each turn does what is due and says when the next thing will be. Nothing of a turn raises but what only a person can
mend while the service has never had a certificate; everything else is tried again, and shown meanwhile.

What is wrong now: said when it begins, again while it lasts, and when it is over; the worst is for the heartbeat.
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
from openkcm.agent.state import remember, remembered
from openkcm.contract.services import HEARTBEAT_SECONDS, AgentProblem
from openkcm.credentials.store import CredentialStore
from openkcm.errors import FolderRefused, OpenKcmError, ProofRefused
from openkcm.sdk.errors import AccessRefused, ClientError

_FOR_A_PERSON = (
    ProofMissing,
    ProofUnreadable,
    ProofRefused,
    EnrolmentRefused,
    AuthorityRefused,
    ControlRefused,
    FolderRefused,
)
_PERSON_SECONDS = 60.0
"""How often it is looked whether somebody has done what they have to do."""
_LONGEST_IDLE = 60.0
_SOONEST_LOOK = 5.0
"""Between a look and one that a heartbeat asks for."""
_HEARTBEATS = (5.0, 300.0)

log = structlog.get_logger()


@dataclass(slots=True)
class _Due:
    """When each thing is to be done next, on the clock that nobody sets."""

    look: float = 0.0
    enrol: float = 0.0
    reload: float = 0.0
    heartbeat: float = 0.0


class Agent:
    def __init__(  # noqa: PLR0913 - what it works with, by name
        self,
        job: AgentConfig,
        folder: CredentialStore,
        control: EnrolmentClient,
        proofs: Attestor,
        *,
        reload: Reload | None = None,
        clock: ServerClock,
        bell: SignalWaiter,
        chance: Chance = random.random,
    ) -> None:
        self._job, self._folder, self._control, self._clock, self._bell = job, folder, control, clock, bell
        self._reload, self._chance = reload or NoReload(), chance
        folder.refuse_strange_key()
        self._memory = remembered(folder)
        self._enrolment = Enrolment(folder, self._memory, control, proofs, job.service, job.kind)
        self._connection = Connection(folder, clock)
        self._renewal = Renewal(job, folder, self._memory, control, self._connection, clock)
        self.health = Health(clock.elapsed)
        self._due, self._looked_at = _Due(), -_LONGEST_IDLE
        self._backoffs = {what: Backoff(300.0, chance) for what in ("look", "enrol")}
        self._backoffs["reload"] = Backoff(60.0, chance)
        self._leaf: x509.Certificate | None = None
        self._revoked = self._unkept = False

    def run(self) -> None:
        """Go on until the bell says stop; raises what only a person can mend before the first certificate."""
        log.info("agent runs", service=self._job.service, folder=str(self._folder.path))
        while not self._bell.stopped:
            wait = self.turn()
            self._bell.wait(min(wait, _LONGEST_IDLE))
            self._hear()
        log.info("agent ends")

    def once(self, seconds: float) -> None:
        """Do all that is due now, within so many seconds.

        Raises: what only a person can mend, and NotInOrder when something is left to do.
        """
        end = self._clock.elapsed() + seconds
        wait = self.turn()
        bearable = {None, AgentProblem.CLOCK_WRONG}
        while not self._is_in_order() and self.health.worst in bearable and not self._bell.stopped:
            if self._clock.elapsed() + wait > end:
                break
            self._bell.wait(wait)
            wait = self.turn()
        problem = self.health.worst
        if problem not in bearable or not self._is_in_order():
            raise NotInOrder(problem.value if problem else "there was not enough time")

    def close(self) -> None:
        self._connection.close()

    def turn(self) -> float:
        """Do what is due and return the seconds until something is again."""
        try:
            self._observe()
            self._catch_up()
            if self._leaf is not None and self._is_due(self._due.look):
                self._look(self._leaf)
            if self._must_enrol() and self._is_due(self._due.enrol):
                self._enrol()
            if self._leaf is not None:
                self._tell_service(self._leaf)
                self._beat(self._leaf)
            self._watch_clock()
        except FolderRefused as refused:
            if self._leaf is None:
                raise
            self.health.failed(AgentProblem.FOLDER_UNUSABLE, refused)
            self._unkept = True
            return _LONGEST_IDLE
        return max(0.0, self._next() - self._clock.elapsed())

    # What there is.

    def _observe(self) -> None:
        """Take what is in the folder now; the service's own client, or a person, may have put it there."""
        leaf = self._folder.certificate()
        if leaf == self._leaf:
            return
        known, self._leaf, self._revoked = self._leaf is not None, leaf, False
        if leaf is None:
            return
        self._connection.use(self._memory.https)
        if known or self._looked_at > 0:
            wait = timing.until_renewal(leaf, self._clock.now(), self._chance)
            self._due.look = self._clock.elapsed() + wait
            self._backoffs["look"].succeeded()
        self.health.mended(AgentProblem.CERTIFICATE_LAPSED, AgentProblem.CERTIFICATE_REVOKED)
        self._judge_renewal()

    def _catch_up(self) -> None:
        """Keep what there was no room for the last time; raises FolderRefused."""
        if self._unkept:
            remember(self._folder, self._memory)
            self._unkept = False
            self.health.mended(AgentProblem.FOLDER_UNUSABLE)

    def _must_enrol(self) -> bool:
        return self._leaf is None or self._revoked or not is_valid(self._leaf, self._clock.now())

    def _is_in_order(self) -> bool:
        leaf = self._leaf
        return leaf is not None and not self._must_enrol() and self._memory.told == serial_of(leaf)

    def _is_due(self, at: float) -> bool:
        return self._clock.elapsed() >= at

    def _next(self) -> float:
        due, leaf = self._due, self._leaf
        times = [due.enrol] if self._must_enrol() else [due.heartbeat]
        if leaf is not None:
            times.append(due.look)
            if self._memory.told != serial_of(leaf):
                times.append(due.reload)
        return min(times)

    def _hear(self) -> None:
        if self._bell.looked_for:
            self._bell.looked_for = False
            self._due = _Due()
            self._enrolment.hear_again()
            log.info("looks because it was told to")

    # A certificate by a proof.

    def _enrol(self) -> None:
        backoff = self._backoffs["enrol"]
        try:
            found = self._enrolment.attempt(self._clock.now())
            if isinstance(found, float):
                self._due.enrol = self._clock.elapsed() + found
                return
            self._memory.https, self._memory.kmip = found.offer.https, found.offer.kmip
            remember(self._folder, self._memory)
            self._renewal.write(found.issued)
            self._enrolment.completed()
        except (ControlUnavailable, AnswerNotUnderstood) as failed:
            wait = backoff.next(asked=failed.wait if isinstance(failed, ServerBusy) else 0.0)
            log.warning("not enrolled yet", code=failed.code, detail=failed.message, again_in=round(wait, 1))
            self._due.enrol = self._clock.elapsed() + wait
        except _FOR_A_PERSON as refused:
            if self._leaf is None:
                raise
            self.health.failed(self._problem_of(refused), refused)
            self._due.enrol = self._clock.elapsed() + _PERSON_SECONDS
        else:
            backoff.succeeded()
            problems = (AgentProblem.PROOF_REFUSED, AgentProblem.AUTHORITY_REFUSED, AgentProblem.FOLDER_UNUSABLE)
            self.health.mended(*problems)
            self._observe()
            wait = timing.until_renewal(found.issued.leaf, self._clock.now(), self._chance)
            self._due.look = self._clock.elapsed() + wait

    def _problem_of(self, refused: OpenKcmError) -> AgentProblem:
        if isinstance(refused, ProofRefused | EnrolmentRefused):
            return AgentProblem.PROOF_REFUSED
        if isinstance(refused, AuthorityRefused | ControlRefused):
            return AgentProblem.AUTHORITY_REFUSED
        if isinstance(refused, FolderRefused):
            return AgentProblem.FOLDER_UNUSABLE
        return AgentProblem.CERTIFICATE_REVOKED if self._revoked else AgentProblem.CERTIFICATE_LAPSED

    # The next certificate.

    def _look(self, leaf: x509.Certificate) -> None:
        """Fetch the newest certificate; what it is, or that none came, decides when to look again."""
        backoff, between = self._backoffs["look"], timing.between_looks(leaf)
        self._looked_at = self._clock.elapsed()
        try:
            self._renewal.fetch()
            self._revoked = False
        except AccessRefused as refused:
            self._shut_out(refused)
            wait = backoff.next(between)
        except (ClientError, ControlUnavailable, AnswerNotUnderstood) as failed:
            detail = failed.detail if isinstance(failed, ClientError) else failed.message
            log.warning("no certificate fetched", code=failed.code, detail=detail)
            wait = backoff.next(between)
        except FolderRefused as refused:
            self.health.failed(AgentProblem.FOLDER_UNUSABLE, refused)
            wait = backoff.next(between)
        else:
            backoff.succeeded()
            self.health.mended(AgentProblem.FOLDER_UNUSABLE, AgentProblem.CERTIFICATE_REVOKED)
            self._observe()
            now = self._leaf or leaf
            wait = timing.until_renewal(now, self._clock.now(), self._chance)
            wait = max(wait, timing.between_looks(now) * (0.5 + self._chance() / 2))
        self._due.look = self._clock.elapsed() + wait
        self._judge_renewal()

    def _judge_renewal(self) -> None:
        """Say so while a certificate is a good part into its last third, and when it has ended."""
        leaf = self._leaf
        if leaf is None:
            return
        left = timing.remaining(leaf, self._clock.now())
        if left.total_seconds() <= 0:
            ended = f"the certificate ended at {leaf.not_valid_after_utc.isoformat()}"
            self.health.found(AgentProblem.CERTIFICATE_LAPSED, ended, ProofMissing.hint)
        elif left < timing.life(leaf) / 4:
            until = f"the certificate ends at {leaf.not_valid_after_utc.isoformat()} and there is no newer one"
            self.health.found(
                AgentProblem.NOT_RENEWED, until, "check the network, and the service on the Services page"
            )
        else:
            self.health.mended(AgentProblem.NOT_RENEWED)

    def _shut_out(self, refused: AccessRefused) -> None:
        if refused.code == "caller_refused":
            self._revoked = True
            self.health.found(AgentProblem.CERTIFICATE_REVOKED, refused.detail, ProofMissing.hint)
        else:
            log.warning("the tenant is closed", code=refused.code, detail=refused.detail)

    # The service, and those who look after it.

    def _tell_service(self, leaf: x509.Certificate) -> None:
        if self._memory.told == serial_of(leaf) or not self._is_due(self._due.reload):
            return
        try:
            self._reload.tell(self._folder.path)
        except ReloadFailed as failed:
            self.health.failed(AgentProblem.RELOAD_FAILED, failed)
            self._due.reload = self._clock.elapsed() + self._backoffs["reload"].next()
            return
        self._backoffs["reload"].succeeded()
        self.health.mended(AgentProblem.RELOAD_FAILED)
        self._memory.told = serial_of(leaf)
        remember(self._folder, self._memory)
        if not isinstance(self._reload, NoReload):
            log.info("service told to reload", serial=self._memory.told)

    def _beat(self, leaf: x509.Certificate) -> None:
        if self._must_enrol() or not self._memory.https or not self._is_due(self._due.heartbeat):
            return
        worst = self.health.worst
        told = {
            "instance": f"{self._job.instance_of}-{self._memory.name}",
            "agent_version": self._job.version,
            "not_after": leaf.not_valid_after_utc.isoformat(),
            "problem": None if worst is None else worst.value,
        }
        seconds = float(HEARTBEAT_SECONDS)
        try:
            answer = self._connection.heartbeat(told)
            seconds = min(max(float(answer["heartbeat_seconds"]), _HEARTBEATS[0]), _HEARTBEATS[1])
            if answer["certificate_newer"] is True and not self._backoffs["look"].failing:
                self._due.look = min(self._due.look, max(self._clock.elapsed(), self._looked_at + _SOONEST_LOOK))
        except AccessRefused as refused:
            self._shut_out(refused)
        except ClientError as failed:
            log.warning("no heartbeat", code=failed.code, detail=failed.detail)
        except (KeyError, TypeError, ValueError):
            log.warning("no heartbeat", code=AnswerNotUnderstood.code)
        self._due.heartbeat = self._clock.elapsed() + seconds * (0.9 + self._chance() / 5)

    def _watch_clock(self) -> None:
        ahead = self._clock.wrong_by()
        if ahead is None:
            self.health.mended(AgentProblem.CLOCK_WRONG)
            return
        minutes = round(ahead.total_seconds() / 60)
        detail = f"this machine's clock is {abs(minutes)} minutes {'ahead' if minutes > 0 else 'behind'}"
        self.health.found(AgentProblem.CLOCK_WRONG, detail, "set it; until then the servers' time is used")


_AGAIN_SECONDS = 300.0


class Health:
    def __init__(self, elapsed: Callable[[], float]) -> None:
        self._elapsed = elapsed
        self._found: dict[AgentProblem, tuple[str, float]] = {}

    @property
    def worst(self) -> AgentProblem | None:
        return next((problem for problem in AgentProblem if problem in self._found), None)

    def found(self, problem: AgentProblem, detail: str, hint: str = "") -> None:
        """Note a problem. `detail` and `hint` are for people and hold no secret."""
        said, at = self._found.get(problem, ("", 0.0))
        now = self._elapsed()
        if said != detail or now - at >= _AGAIN_SECONDS:
            log.warning("agent has a problem", problem=problem.value, detail=detail, hint=hint)
            self._found[problem] = (detail, now)

    def failed(self, problem: AgentProblem, error: OpenKcmError) -> None:
        self.found(problem, error.message, error.hint)

    def mended(self, *problems: AgentProblem) -> None:
        for problem in problems:
            if self._found.pop(problem, None) is not None:
                log.info("problem is over", problem=problem.value)
