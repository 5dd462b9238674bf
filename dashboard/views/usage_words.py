"""What operations and refusals are called on the Usage page, and what a refusal means for the customer."""

from dataclasses import dataclass
from types import MappingProxyType

from core.services import KEY_REQUESTS, CryptoOperation

NO_SERVICE = "no service on record"
"""Instead of the name: somebody had a certificate of the tenant that no service has."""

OPERATIONS = MappingProxyType(
    {
        CryptoOperation.ENCRYPT: "Encrypt",
        CryptoOperation.DECRYPT: "Decrypt",
        CryptoOperation.REWRAP: "Re-wrap",
        CryptoOperation.DATA_KEY: "Data key",
        CryptoOperation.WRAPPED_DATA_KEY: "Data key, wrapped only",
        CryptoOperation.GET: "KMIP Get",
        CryptoOperation.CREATE: "Create key",
        CryptoOperation.REGISTER: "Register key",
        CryptoOperation.REKEY: "Re-key",
        CryptoOperation.ACTIVATE: "Activate key",
        CryptoOperation.REVOKE: "Revoke key",
        CryptoOperation.DESTROY: "Destroy key",
        CryptoOperation.LOCATE: "Locate key",
        CryptoOperation.ATTRIBUTES: "Read attributes",
        CryptoOperation.CHANGE_ATTRIBUTES: "Change attributes",
        CryptoOperation.MAC: "MAC or signature",
        CryptoOperation.CONNECT: "Connect",
        CryptoOperation.OPEN: "Open the service's key",
    }
)

DEFINITION = (
    "A key request is a request whose work needs a key: encrypt, decrypt, re-wrap, data keys, KMIP Get, MAC and "
    "signature, and the creation, registration and re-keying of KMIP keys. Each item of a batch counts, and so do "
    "requests that were denied. Searching keys, reading or changing their attributes, activating, revoking and "
    "destroying them are counted as other requests."
)


@dataclass(frozen=True, slots=True)
class Reason:
    """`denied`: somebody was not let. Otherwise a server did not do its part, and nobody asked for too much."""

    name: str
    meaning: str
    denied: bool = True


def _failed(name: str, meaning: str) -> Reason:
    return Reason(name, meaning, denied=False)


_REASONS = MappingProxyType(
    {
        "caller_refused": Reason(
            "Certificate refused", "The certificate is expired, revoked, not on record, or of a disconnected service."
        ),
        "tenant_closed": Reason(
            "Tenant suspended or locked",
            "The tenant's state did not allow it: suspended only decrypts, locked does nothing.",
        ),
        "ciphertext_refused": Reason(
            "Ciphertext refused",
            "It was altered, or belongs to another service or resource. Many of these deserve a look.",
        ),
        "object_not_found": Reason(
            "No such key", "The key does not exist or belongs to another service; nobody is told which."
        ),
        "key_not_usable": Reason("Key not usable", "The key is not active, or its usage mask does not allow this."),
        "invalid_request": Reason(
            "Request not understood", "A client sent what no operation takes: most often a mistake in its code."
        ),
        "invalid_name": Reason(
            "Name not allowed", "A client used a name that is not allowed: most often a mistake in its code."
        ),
        "too_many_requests": Reason(
            "Too many requests",
            "More was asked at once than the tenant's limit allows; clients try again by themselves.",
        ),
        "root_key_disabled": _failed(
            "Root key disabled", "The root key is disabled where it is held, so no service key opens."
        ),
        "root_key_pending_deletion": _failed(
            "Root key pending deletion",
            "The root key is about to be deleted where it is held. Cancel that at once if it was not meant.",
        ),
        "root_key_denied": _failed(
            "Root key access denied", "Whoever holds the root key no longer lets the platform use it."
        ),
        "root_key_unreachable": _failed("Root key unreachable", "The server that holds the root key did not answer."),
        "root_key_missing": _failed("Root key missing", "There is no such root key where it should be."),
        "root_key_credentials_refused": _failed(
            "Root key credentials refused", "The platform's credentials for the root key are not accepted any more."
        ),
        "root_key_swapped": _failed("Root key replaced", "Another key answers in the place of the root key."),
        "root_key_unsuitable": _failed("Root key unsuitable", "The root key cannot do what is needed."),
        "root_key_slow": _failed("Root key too slow", "The server that holds the root key answered too late."),
        "root_key_failing": _failed(
            "Root key failing", "The server that holds the root key answered with errors of its own."
        ),
        "root_key_clock_skew": _failed(
            "Clocks differ", "The clocks of the root key's server and the platform differ too much."
        ),
        "root_key_throttled": _failed("Root key throttled", "The server that holds the root key asked to slow down."),
        "vault_unavailable": _failed("Key server unavailable", "The platform's key server did not answer."),
        "key_unavailable": _failed("Tenant key unavailable", "The platform's key server did not open the tenant key."),
        "database_unavailable": _failed("Database unavailable", "The platform's database did not answer."),
        "audit_unavailable": _failed(
            "Audit unavailable", "The record could not be made safe, and then nothing is answered."
        ),
        "internal": _failed(
            "Internal error", "Something went wrong in the crypto service. Operators see it in its log."
        ),
        "not_recorded": Reason("Reason not recorded", "Counted before reasons were kept."),
    }
)


def operation(one: CryptoOperation) -> str:
    """Return its name, which is its own word where it has no other yet."""
    return OPERATIONS.get(one, one.value)


def kind(one: CryptoOperation) -> str:
    """Return whether it is a key request."""
    return "Key request" if one in KEY_REQUESTS else "Other request"


def reason(code: str) -> Reason:
    """Return what a refusal is called and means; a code without an entry is a denial by its own name."""
    return _REASONS.get(code) or Reason(code.replace("_", " ").capitalize(), "The audit stream has the details.")
