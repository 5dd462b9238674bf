"""Why a tenant's audit stream does not reach the receiver it is forwarded to."""

from openkcm.errors import CallerError, PlatformError


class DestinationRefused(CallerError):
    code = "destination_refused"
    message = "an audit stream is not forwarded there"
    hint = "https://HOST/PATH, syslog+tls://HOST:PORT, or syslog+tcp://127.0.0.1:PORT on this machine"


class ForwardingRefused(CallerError):
    code = "forwarding_refused"
    message = "the receiver refuses what is forwarded to it"
    hint = (
        "look at the receiver: address, token and what it takes; nothing is skipped, so run it again when it is mended"
    )


class ForwardingStateRefused(CallerError):
    code = "forwarding_state_refused"
    message = "the state file does not belong to this"
    hint = "a state file is of one tenant, one receiver and one form; name another with --state"


class ForwardingBusy(CallerError):
    code = "forwarding_busy"
    message = "another process forwards with this state file"
    hint = "one is enough; end it, or name another state file with --state"


class ReceiverUnavailable(PlatformError):
    code = "receiver_unavailable"
    message = "the receiver did not acknowledge what was forwarded"
    hint = "nothing is lost: it is sent again from the record after the last that was acknowledged"
