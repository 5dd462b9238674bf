"""Errors of root keys, tenant keys and service keys."""

from openkcm.errors import CallerError, Fault, OpenKcmError, PlatformError


class CustomerKeyError(OpenKcmError):
    """The customer's root key cannot be used, so no service key can be unwrapped; the platform cannot change that.

    A retryable error (unreachable, timeout, throttled) does not express the customer's will: unwrapped service keys
    stay in memory for the cache time. Any other error means that access was withdrawn: they are dropped at once.
    """

    fault = Fault.CUSTOMER_KEY


class RootKeyDisabled(CustomerKeyError):
    code = "root_key_disabled"
    message = "the root key is disabled"
    hint = "enable it at its provider"


class RootKeyPendingDeletion(CustomerKeyError):
    code = "root_key_pending_deletion"
    message = "the root key is scheduled for deletion"
    hint = "cancel the deletion at its provider: after the deletion nothing that it wraps can be decrypted"


class RootKeyMissing(CustomerKeyError):
    code = "root_key_missing"
    message = "the root key does not exist at its address"
    hint = "check its name, region and address; if it was deleted, restore it from your backup"


class RootKeyDenied(CustomerKeyError):
    code = "root_key_denied"
    message = "access to the root key is denied"
    hint = "grant the platform's identity the use of the key again"


class RootKeyCredentialsRefused(RootKeyDenied):
    """The provider rejects the credentials; with `RootKeyDenied` it accepts them but denies the use of the key."""

    code = "root_key_credentials_refused"
    message = "the credentials for the root key are rejected"
    hint = "submit new credentials with openkcmctl root-key change, or make the existing ones valid again"


class RootKeyMismatch(CustomerKeyError):
    """The key at this address is another key than the one that wrapped the service keys."""

    code = "root_key_mismatch"
    message = "the root key was replaced by another key"
    hint = "restore the former key; to use the new one, change the root key while the former one works"


class RootKeyUnsuitable(CustomerKeyError):
    code = "root_key_unsuitable"
    message = "the key does not meet the requirements for a root key"
    hint = "use a symmetric key that may encrypt and decrypt"


class RootKeyUnreachable(CustomerKeyError):
    code = "root_key_unreachable"
    retryable = True
    message = "the root key's server does not answer"
    hint = "check the network and the server that holds the root key"


class RootKeyTimeout(RootKeyUnreachable):
    code = "root_key_timeout"
    message = "the root key's server answers too late"
    hint = "check the load of the server that holds the root key and the network to it"


class RootKeyServerError(RootKeyUnreachable):
    code = "root_key_server_error"
    message = "the root key's server returns server errors"
    hint = "read the log of the server that holds the root key"


class RootKeyClockSkew(RootKeyUnreachable):
    code = "root_key_clock_skew"
    message = "the clocks of the root key's server and the platform differ too much"
    hint = "set both clocks by NTP; requests signed more than five minutes off are rejected"


class RootKeyThrottled(CustomerKeyError):
    code = "root_key_throttled"
    retryable = True
    message = "the root key's server throttles requests"
    hint = "raise its request quota; the platform retries"


class RootKeyRefused(CallerError):
    """The root key reference or its credentials are invalid, regardless of the response of the key server."""

    code = "root_key_rejected"
    message = "this cannot be a root key"
    hint = "see docs/root-keys.md#commands, and the section of the provider for its requirements"


class RootKeyRequestUnknown(CallerError):
    code = "root_key_request_unknown"
    message = "the root key request does not exist"
    hint = "request the change or the preflight again"


class KeyUnavailable(PlatformError):
    code = "key_unavailable"
    message = "the key is missing or disabled"
    hint = "see the tenant's audit stream for who disabled it, and enable it again or restore the key server"


class WrongContext(OpenKcmError):
    """The ciphertext was encrypted with another key or another context (MTCI C3); never retried."""

    code = "wrong_context"
    message = "the ciphertext does not belong to this key and context"
    hint = "the data was moved or altered; restore it to where it was encrypted"


class KeyNotUsable(CallerError):
    """The state of the key forbids the operation."""

    code = "key_not_usable"

    def __init__(self, state: str) -> None:
        super().__init__(
            f"the key is {state}, which does not allow this operation", "activate it, or use its replacement"
        )


class KeyVersionUnknown(CallerError):
    code = "key_version_unknown"
    message = "the service has no such key version"
    hint = "openkcmctl service list shows the services, openkcmctl tenant show the versions of their keys"


class KeyVersionInUse(CallerError):
    """Retirement would make data or objects unreadable that still need this version."""

    code = "key_version_in_use"

    def __init__(self, service: str, version: int, use: str) -> None:
        super().__init__(
            f"version {version} of the key of {service} is in use: {use}",
            "rotate the service first, and retire only versions that encrypt nothing and hold no objects",
        )


class KeyVersionRetired(CallerError):
    """The service key version is compromised or destroyed, so it decrypts nothing, not even genuine ciphertexts."""

    code = "key_version_retired"
    message = "this was encrypted under a retired version of the service key"
    hint = "ask the security administrator why it was retired; store the data again from its source"
