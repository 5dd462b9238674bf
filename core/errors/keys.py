"""How a root key fails, by what a person would do about it; the rest of the vocabulary is in `errors`.

What can be wrong with a version of a key that somebody names; part of the vocabulary of `errors`.
"""

from openkcm.errors import CallerError, Fault, OpenKcmError, PlatformError


class CustomerKeyError(OpenKcmError):
    """The root key does not do its part, so no service key opens; the platform cannot mend that nor go round it.

    A retryable one (out of reach, slow, asked to wait) says nothing of the customer's will: what is open stays open for
    the cache time, the grace. Any other means that the key was taken away: what is open is dropped at once.
    """

    fault = Fault.CUSTOMER_KEY


class RootKeyDisabled(CustomerKeyError):
    code = "root_key_disabled"
    message = "the root key is disabled"
    hint = "enable it where it is held"


class RootKeyPendingDeletion(CustomerKeyError):
    code = "root_key_pending_deletion"
    message = "the root key is about to be deleted"
    hint = "cancel the deletion where the key is held: once it is gone, nothing under it can be opened again"


class RootKeyMissing(CustomerKeyError):
    code = "root_key_missing"
    message = "there is no such root key where it should be"
    hint = "check its name, region and address; if it was deleted, restore it from your backup"


class RootKeyDenied(CustomerKeyError):
    code = "root_key_denied"
    message = "access to the root key is denied"
    hint = "grant the platform's identity the use of the key again"


class RootKeyCredentialsRefused(RootKeyDenied):
    """The platform's credentials themselves are not accepted; `RootKeyDenied`: they are, and not for this use."""

    code = "root_key_credentials_refused"
    message = "the credentials for the root key are not accepted"
    hint = "give new ones with openkcmctl root-key change, or make the old ones valid again"


class RootKeyMismatch(CustomerKeyError):
    """A key answers under the name, and it is not the one that wrapped."""

    code = "root_key_swapped"
    message = "another key answers in the place of the root key"
    hint = "put the former key back; to use the new one, change the root key while the former one works"


class RootKeyUnsuitable(CustomerKeyError):
    code = "root_key_unsuitable"
    message = "the root key cannot do what is needed"
    hint = "use a symmetric key that may encrypt and decrypt"


class RootKeyUnreachable(CustomerKeyError):
    code = "root_key_unreachable"
    retryable = True
    message = "the root key's server does not answer"
    hint = "check the network and the server that holds the root key"


class RootKeyTimeout(RootKeyUnreachable):
    code = "root_key_slow"
    message = "the root key's server answers too late"
    hint = "check the load of the server that holds the root key and the network to it"


class RootKeyServerError(RootKeyUnreachable):
    code = "root_key_failing"
    message = "the root key's server answers with errors of its own"
    hint = "look at the log of the server that holds the root key"


class RootKeyClockSkew(RootKeyUnreachable):
    code = "root_key_clock_skew"
    message = "the clocks of the root key's server and the platform differ too much"
    hint = "set both clocks by NTP; requests signed more than five minutes off are refused"


class RootKeyThrottled(CustomerKeyError):
    code = "root_key_throttled"
    retryable = True
    message = "the root key's server asks to slow down"
    hint = "raise its request quota; openings are tried again"


class RootKeyRefused(CallerError):
    """What was said about a root key cannot be right, whatever its server would answer."""

    code = "root_key_refused"
    message = "this cannot be a root key"
    hint = "see docs/root-keys.md#the-commands, and the section of the provider for what it needs"


class RootKeyRequestUnknown(CallerError):
    code = "root_key_request_unknown"
    message = "there is no such request for a root key"
    hint = "ask for the change or the preflight again"


class KeyUnavailable(PlatformError):
    code = "key_unavailable"
    message = "the key is missing or disabled"
    hint = "see the tenant's audit stream for who disabled it, and enable it again or restore the key server"


class WrongContext(OpenKcmError):
    """The ciphertext was not made under this key and this context (MTCI C3); never retried."""

    code = "wrong_context"
    message = "the ciphertext does not belong to this key and context"
    hint = "the data was moved or altered; restore it to where it was encrypted"


class KeyNotUsable(CallerError):
    """The key's state forbids the use."""

    code = "key_not_usable"

    def __init__(self, state: str) -> None:
        super().__init__(f"the key is {state}, which does not allow this", "activate it, or use its replacement")


class KeyVersionUnknown(CallerError):
    code = "key_version_unknown"
    message = "the service has no such version of its key"
    hint = "openkcmctl service list shows the services, openkcmctl tenant show the versions of their keys"


class KeyVersionInUse(CallerError):
    """Something would be lost that nobody asked to lose."""

    code = "key_version_in_use"

    def __init__(self, service: str, version: int, use: str) -> None:
        super().__init__(
            f"version {version} of the key of {service} is in use: {use}",
            "rotate the service first, and retire only versions that encrypt nothing and hold no objects",
        )


class KeyVersionRetired(CallerError):
    """Sealed under a version of the service's key that is compromised or destroyed: genuine or not, it stays closed."""

    code = "key_version_retired"
    message = "this was encrypted under a version of the service's key that was retired"
    hint = "ask the security administrator why it was retired; store the data anew from its source"
