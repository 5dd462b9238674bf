"""A tenant's connected services: what they are and what becomes of them."""

from enum import StrEnum

from core.errors.services import ServiceConflict
from core.errors.tenants import TenantNotOperational
from core.tenants.lifecycle import DECRYPTS, ENCRYPTS, State
from openkcm.contract.services import ServiceKind


class ServiceState(StrEnum):
    CONNECTING = "connecting"
    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    """Its certificates are revoked; its key stays, so that what it encrypted opens when it is connected again."""


RENEWED = DECRYPTS | {State.LOCKED}
"""The states of a tenant whose services' certificates are renewed. A locked one's open nothing until it is unlocked."""


class CryptoOperation(StrEnum):
    """What a service can ask of the crypto service; the words of audit records and usage counters.

    Those in `RELEASES` hand out key material; each is a record of its own in the audit stream. The others are counted.
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
    CONNECT = "connect"
    """Opening a connection, which is counted only when it is refused."""
    OPEN = "open"
    """Opening the service's key itself, with root key and tenant key; what nobody asks for, and no usage."""


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
"""What changes a key's life; also a record of its own."""
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
"""What is counted as a key request: the work needs a key, to use it, to hand it out or to seal a new one."""


def refuse_unconnectable(state: State, kind: ServiceKind, known: ServiceKind | None) -> None:
    """Refuse, before a key is made, a connection that the workflow would refuse; `known` is the kind it already has.

    Raises:
        TenantNotOperational, ServiceConflict
    """
    if state not in ENCRYPTS:
        raise TenantNotOperational(state)
    if known is not None and known is not kind:
        raise ServiceConflict
