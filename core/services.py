"""States of a tenant's services and the operations that they request."""

from enum import StrEnum

from core.errors.services import ServiceAlreadyConnected, ServiceConflict
from core.errors.tenants import TenantNotOperational
from core.tenants.lifecycle import DECRYPTS, ENCRYPTS, State
from openkcm.contract.services import ServiceKind


class ServiceState(StrEnum):
    CONNECTING = "connecting"
    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    """Its certificates are revoked; its key is kept, so that it can decrypt its data when it is connected again."""


RENEWED = DECRYPTS | {State.LOCKED}
"""The tenant states in which certificates are renewed. Those of a locked tenant are rejected until it is unlocked."""


class CryptoOperation(StrEnum):
    """Operations of the crypto service, as audit records and usage counters name them.

    Each operation in `RELEASES` returns key material and has its own audit record. The others are counted.
    """

    ENCRYPT = "encrypt"
    DECRYPT = "decrypt"
    REWRAP = "rewrap"
    DATA_KEY = "data-key"
    WRAPPED_DATA_KEY = "wrapped-data-key"
    GET = "get"
    CREATE = "create"
    REGISTER = "register"
    REKEY = "rekey"
    ACTIVATE = "activate"
    REVOKE = "revoke"
    DESTROY = "destroy"
    LOCATE = "locate"
    ATTRIBUTES = "attributes"
    CHANGE_ATTRIBUTES = "change-attributes"
    MAC = "mac"
    RANDOM = "random"
    """Random bytes for a client, which are no key of the service."""
    CONNECT = "connect"
    """A new connection, which is counted only if it is rejected."""
    OPEN = "open"
    """Unwrapping the service key with root key and tenant key; internal, not requested and not counted as usage."""


RELEASES = frozenset({CryptoOperation.DATA_KEY, CryptoOperation.GET})
CHANGES = frozenset(
    {
        CryptoOperation.CREATE,
        CryptoOperation.REGISTER,
        CryptoOperation.REKEY,
        CryptoOperation.ACTIVATE,
        CryptoOperation.REVOKE,
        CryptoOperation.DESTROY,
        CryptoOperation.CHANGE_ATTRIBUTES,
    }
)
"""Operations that change the state of a key; each has its own audit record."""
KEY_REQUESTS = frozenset(
    {
        CryptoOperation.ENCRYPT,
        CryptoOperation.DECRYPT,
        CryptoOperation.REWRAP,
        CryptoOperation.DATA_KEY,
        CryptoOperation.WRAPPED_DATA_KEY,
        CryptoOperation.GET,
        CryptoOperation.MAC,
        CryptoOperation.CREATE,
        CryptoOperation.REGISTER,
        CryptoOperation.REKEY,
    }
)
"""Operations counted as key requests: they use a key, return it, or encrypt a new one."""


def refuse_unconnectable(state: State, kind: ServiceKind, known: ServiceKind | None) -> None:
    """Reject a connection before a key is created; `known` is the existing kind of the service.

    Raises:
        TenantNotOperational: the tenant's state forbids encryption.
        ServiceConflict: the service exists with another kind.
    """
    if state not in ENCRYPTS:
        raise TenantNotOperational(state)
    if known is not None and known is not kind:
        raise ServiceConflict


def refuse_another_key(state: ServiceState | None, newest_pem: str | None, csr_pem: str) -> None:
    """Reject a request for another key than that of the newest certificate of a connected service.

    A request for the same key is a repetition or a renewal by the holder of the key.

    Raises:
        ServiceAlreadyConnected: the service is connected with another key.
        CsrRefused: the request is not acceptable.
    """
    from openkcm.contract.csr import is_of_same_key  # noqa: PLC0415 - X.509, which most commands do not need

    if state is ServiceState.CONNECTED and newest_pem is not None and not is_of_same_key(csr_pem, newest_pem):
        raise ServiceAlreadyConnected
