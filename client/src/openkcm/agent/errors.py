"""Errors of the agent, part of the vocabulary of `openkcm.errors`."""

from openkcm.errors import CallerError, PlatformError


class ProofMissing(CallerError):
    code = "attestation_missing"
    message = "the service has no certificate that can be renewed and no attestation to enrol with"
    hint = "create a join token on the Services page and give it with --join-token-file, or a JWT with --jwt-file"


class ProofUnreadable(CallerError):
    code = "attestation_unreadable"
    message = "the attestation is neither a join token nor a JWT"
    hint = "give a file that holds the whole token and nothing else"


class AuthorityRefused(CallerError):
    """The attestation was not sent."""

    code = "ca_fingerprint_mismatch"
    message = "the control endpoint names a certificate authority that is not the trusted one"
    hint = "check the address given with --url, and that the join token is from the same installation"


class ControlRefused(CallerError):
    """The attestation was not sent."""

    code = "control_endpoint_untrusted"
    message = "the control endpoint is not trusted"
    hint = "give an https address, and its CA with --ca-file unless the system trusts it"


class EnrolmentRefused(CallerError):
    code = "enrolment_refused"

    def __init__(self, problem: str) -> None:
        super().__init__(f"the enrolment was rejected: {problem}", "ask the tenant administrator")


class ControlUnavailable(PlatformError):
    code = "control_endpoint_unavailable"
    message = "the control endpoint does not answer"
    hint = "check the address given with --url and the network; the agent retries automatically"


class AnswerNotUnderstood(PlatformError):
    code = "unexpected_response"
    message = "the response does not have the documented format"
    hint = "check the address given with --url and the versions of client and server"


class ReloadFailed(CallerError):
    code = "reload_failed"
    message = "the service was not notified of its new certificate"
    hint = "check --reload-pid-file or --reload-command; the agent retries automatically"


class NotInOrder(CallerError):
    """The error of `--once` when work is left."""

    code = "agent_incomplete"

    def __init__(self, problem: str) -> None:
        super().__init__(f"the agent could not complete its work: {problem}", "see the log above for the cause")
