"""The actions on keys and tenants: what happens and whether it can be undone; one table for pages and dialogs."""

from dataclasses import dataclass
from enum import StrEnum

from core.tenants.lifecycle import Transition
from core.tenants.roles import Permission


class KeyAction(StrEnum):
    ROTATE_TENANT_KEY = "rotate-tenant-key"
    ROTATE_SERVICE_KEY = "rotate-service-key"
    COMPROMISE = "compromise"
    RETIRE_VERSION = "retire-version"
    CHANGE_ROOT_KEY = "change-root-key"
    SUSPEND = "suspend"
    RESUME = "resume"
    LOCK = "lock"
    UNLOCK = "unlock"
    DISCONNECT = "disconnect"
    OFFBOARD = "offboard"
    RESTORE = "restore"


@dataclass(frozen=True, slots=True)
class Action:
    """One action; `move` is the lifecycle transition of actions that change the tenant's state."""

    name: KeyAction
    title: str
    happens: str
    undone: str
    permission: Permission
    move: Transition | None = None


ACTIONS = (
    Action(
        KeyAction.ROTATE_TENANT_KEY,
        "Rotate tenant key",
        "The tenant key gets a new version, and every service key is re-wrapped with it. Your data is not "
        "re-encrypted and no service is interrupted. The old wrap is kept until the new one is verified. Older "
        "versions are retired once they wrap no key.",
        "No. Existing data stays readable. A database backup from before the rotation can be decrypted only after "
        "the platform's operator has re-enabled the older version.",
        Permission.MANAGE_KEYS,
    ),
    Action(
        KeyAction.ROTATE_SERVICE_KEY,
        "Rotate service key",
        "The service encrypts with a new version of its key. Older versions continue to decrypt existing data.",
        "No. Existing data stays readable.",
        Permission.MANAGE_KEYS,
    ),
    Action(
        KeyAction.COMPROMISE,
        "Replace compromised keys",
        "New versions are used immediately. Requests with data of the older versions are rejected: data that "
        "services encrypted under them and store themselves can no longer be decrypted through OpenKCM. KMIP "
        "objects are stored here; they are re-encrypted and stay readable, and then the old versions are "
        "destroyed. If the tenant key is replaced too, its older versions are deleted permanently, also for "
        "database backups.",
        "No. Data encrypted under those versions must be encrypted again from its source.",
        Permission.MANAGE_KEYS,
    ),
    Action(
        KeyAction.RETIRE_VERSION,
        "Retire service key version",
        "The version is destroyed. Data that the service encrypted under it, and has not re-encrypted since, can "
        "never be decrypted again. Not possible while the version encrypts, or while it protects KMIP objects.",
        "No. The destruction is permanent.",
        Permission.MANAGE_KEYS,
    ),
    Action(
        KeyAction.CHANGE_ROOT_KEY,
        "Change root key",
        "The new root key is tested first. Then every service key is re-wrapped with it and the wrap is verified, "
        "and all service keys are switched together. Until that moment the former root key is in effect and "
        "nothing has changed. Your data is not re-encrypted and no service is interrupted. Afterwards decryption "
        "requires the new root key; there is no fallback to a key of the platform.",
        "Yes, by changing back with the credentials of the former root key, as long as both keys work. If the "
        "change fails before all service keys are switched, the former root key stays in effect.",
        Permission.MANAGE_KEYS,
    ),
    Action(
        KeyAction.SUSPEND,
        "Suspend tenant",
        "Decrypt only: services can read encrypted data but cannot encrypt new data, and no service can be "
        "connected. A lock, in contrast, also rejects decryption.",
        "Yes, by resuming the tenant.",
        Permission.MANAGE_KEYS,
        Transition.SUSPEND,
    ),
    Action(
        KeyAction.RESUME,
        "Resume tenant",
        "Services can encrypt again, and services can be connected.",
        "Yes, by suspending it.",
        Permission.MANAGE_KEYS,
        Transition.RESUME,
    ),
    Action(
        KeyAction.LOCK,
        "Lock tenant (kill switch)",
        "All requests for keys are rejected and live connections end: no service can read or write encrypted "
        "data. A client that fetched a key earlier may use it until its cache expires.",
        "Yes, by unlocking the tenant. Nothing is destroyed.",
        Permission.MANAGE_KEYS,
        Transition.LOCK,
    ),
    Action(
        KeyAction.UNLOCK,
        "Unlock tenant",
        "The administrator's lock is removed and services work as before; a tenant that was suspended is "
        "suspended again. If your own root key does not work, the tenant stays locked until it does.",
        "Yes, by locking the tenant again.",
        Permission.MANAGE_KEYS,
        Transition.UNLOCK,
    ),
    Action(
        KeyAction.DISCONNECT,
        "Disconnect service",
        "All certificates of this service are revoked immediately and its connections end. Its key is kept.",
        "Yes, by connecting it again: it gets a new certificate and can decrypt its existing data.",
        Permission.MANAGE_SERVICES,
    ),
    Action(
        KeyAction.OFFBOARD,
        "Offboard tenant",
        "During the grace period all requests are rejected and nothing is destroyed. When it ends, the keys of "
        "your tenant are destroyed, with an erasure certificate, and the tenant id is never reused.",
        "Until the grace period ends, by restoring the tenant. Afterwards no: the encrypted data can never be "
        "decrypted again.",
        Permission.MANAGE_KEYS,
        Transition.LEAVE,
    ),
    Action(
        KeyAction.RESTORE,
        "Restore tenant",
        "The tenant returns to its former state, including its locks, and its services work again. A service "
        "whose certificate has expired must be connected again; its key is the same.",
        "Yes, by offboarding the tenant again.",
        Permission.MANAGE_KEYS,
        Transition.RESTORE,
    ),
)


def action_of(name: KeyAction) -> Action:
    """Return an action with its texts."""
    return next(action for action in ACTIONS if action.name is name)
