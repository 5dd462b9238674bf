"""What stops the agent beside a service, and who has to do what; part of the vocabulary of `errors`."""

from openkcm.errors import CallerError, PlatformError


class ProofMissing(CallerError):
    code = "proof_missing"
    message = "the service has no certificate that can be renewed, and there is no proof of which service this is"
    hint = "make a join token on the Services page and give it with --join-token-file, or a JWT with --jwt-file"


class ProofUnreadable(CallerError):
    code = "proof_unreadable"
    message = "this is neither a join token nor a JWT"
    hint = "give the file with the whole token and nothing else"


class AuthorityRefused(CallerError):
    """The proof was not sent."""

    code = "authority_refused"
    message = "the control endpoint names another certificate authority than the one that is trusted"
    hint = "check the address given with --url, and that the join token is from the same installation"


class ControlRefused(CallerError):
    """The proof was not sent."""

    code = "control_refused"
    message = "the control endpoint is not trusted"
    hint = "give an https address, and its authority with --ca-file unless the system trusts it"


class EnrolmentRefused(CallerError):
    code = "enrolment_refused"

    def __init__(self, problem: str) -> None:
        super().__init__(f"the enrolment was refused: {problem}", "ask the administrator of the tenant")


class ControlUnavailable(PlatformError):
    code = "control_unavailable"
    message = "the control endpoint does not answer"
    hint = "check the address given with --url and the network; it is tried again by itself"


class AnswerNotUnderstood(PlatformError):
    code = "answer_not_understood"
    message = "the answer is not as documented"
    hint = "check the address given with --url and the versions of both sides"


class ReloadFailed(CallerError):
    code = "reload_failed"
    message = "the service was not told of its new certificate"
    hint = "check --reload-pid-file or --reload-command; it is tried again by itself"


class NotInOrder(CallerError):
    """What `--once` ends with when something is left to do."""

    code = "agent_problem"

    def __init__(self, problem: str) -> None:
        super().__init__(f"the agent could not do all of its work: {problem}", "the log above says what happened")
