"""What can be done to keys, what happens then, and whether it can be undone; one table for pages and dialogs."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from core.tenants.lifecycle import DECRYPTS, State, Transition, transitions_from
from core.tenants.locks import LockReason, may_change_root_key
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
    """`move` is the lifecycle's, for actions that change the tenant's state."""

    name: KeyAction
    title: str
    happens: str
    undone: str
    permission: Permission
    move: Transition | None = None


ACTIONS = (
    Action(
        KeyAction.ROTATE_TENANT_KEY,
        "Rotate the tenant key (L2)",
        "Your tenant key gets a new version, and every service key is wrapped anew under it. Your data is not "
        "encrypted anew and no service is interrupted. The old wrapping is kept until the new one was seen to open; "
        "older versions are retired once nothing lies under them.",
        "No, and there is no need: nothing becomes unreadable. A copy of the database from before opens only after the "
        "platform's operator has brought the older version back.",
        Permission.MANAGE_KEYS,
    ),
    Action(
        KeyAction.ROTATE_SERVICE_KEY,
        "Rotate a service key (L3)",
        "The service gets a new version of its key for what it encrypts from then on. Older versions go on opening "
        "what was encrypted before.",
        "No, and there is no need: nothing becomes unreadable.",
        Permission.MANAGE_KEYS,
    ),
    Action(
        KeyAction.COMPROMISE,
        "Replace keys that may be compromised",
        "New versions take over at once, and the versions before open nothing that a service brings any more: data "
        "that services encrypted under them and keep themselves cannot be read through us again. KMIP objects are kept "
        "here; they are sealed anew and stay readable, and then the old versions are destroyed. Where the tenant key "
        "is replaced too, its older versions are deleted for good, also for backups of the database.",
        "No. What was encrypted under those versions has to be stored anew from its source.",
        Permission.MANAGE_KEYS,
    ),
    Action(
        KeyAction.RETIRE_VERSION,
        "Retire an old version of a service key",
        "The version is destroyed. Data that the service encrypted under it, and not since then, can never be read "
        "again. It is refused while the version encrypts, or while KMIP objects lie under it.",
        "No, by nobody.",
        Permission.MANAGE_KEYS,
    ),
    Action(
        KeyAction.CHANGE_ROOT_KEY,
        "Change the root key (L1)",
        "The new root key is tried first. Then every service key is wrapped anew under it, opened once from there, and "
        "all are switched together; until that moment the former root key is in force and nothing has changed. Your "
        "data is not encrypted anew and no service is interrupted. From then on the new root key decides whether "
        "anything opens, without a silent fallback to a key of the platform.",
        "Yes, by changing back with the credentials of the former root key, as long as both keys work. Before all "
        "service keys are switched, whatever stops the change leaves the former root key in force.",
        Permission.MANAGE_KEYS,
    ),
    Action(
        KeyAction.SUSPEND,
        "Suspend the tenant",
        "Decrypt only: services go on reading what is encrypted, and cannot encrypt anything new; no service can be "
        "connected. Locking is more: then nothing works, reading included.",
        "Yes, by resuming it.",
        Permission.MANAGE_KEYS,
        Transition.SUSPEND,
    ),
    Action(
        KeyAction.RESUME,
        "Resume the tenant",
        "Services encrypt again, and services can be connected again.",
        "Yes, by suspending it.",
        Permission.MANAGE_KEYS,
        Transition.RESUME,
    ),
    Action(
        KeyAction.LOCK,
        "Lock the tenant (kill switch)",
        "No service key opens any more and live connections end: every service fails to read and write encrypted data. "
        "A client that fetched a key before may use it until its own cache ends.",
        "Yes, by unlocking it; nothing is destroyed.",
        Permission.MANAGE_KEYS,
        Transition.LOCK,
    ),
    Action(
        KeyAction.UNLOCK,
        "Unlock the tenant",
        "The kill switch is released: everything opens as before, and a tenant that was suspended is suspended again. "
        "While your own root key does not work the tenant stays locked all the same, until it does.",
        "Yes, by locking it again.",
        Permission.MANAGE_KEYS,
        Transition.UNLOCK,
    ),
    Action(
        KeyAction.DISCONNECT,
        "Disconnect a service",
        "Every certificate of this one service is revoked at once and its connections end. Its key stays.",
        "Yes, by connecting it again: it gets a new certificate and opens what it encrypted before.",
        Permission.MANAGE_SERVICES,
    ),
    Action(
        KeyAction.OFFBOARD,
        "Leave OpenKCM (offboard)",
        "During the grace period nothing works and nothing is destroyed. When it ends, the keys of your tenant are "
        "destroyed, with a proof of it, and the tenant's id is never used again.",
        "Until the grace period ends, by restoring it. After that never: what was encrypted cannot be read again.",
        Permission.MANAGE_KEYS,
        Transition.LEAVE,
    ),
    Action(
        KeyAction.RESTORE,
        "Restore the tenant",
        "The tenant stands as it did before it left, a locked one locked for the same reasons, and its services work "
        "again. A service whose certificate has expired meanwhile has to be connected again; its key is the same.",
        "Yes, by leaving again.",
        Permission.MANAGE_KEYS,
        Transition.RESTORE,
    ),
)

_AT_SERVICE = "above, at each service key"
_STOP = "above, under Stop and start"
WHERE: Mapping[KeyAction, str] = MappingProxyType(
    {
        KeyAction.ROTATE_TENANT_KEY: "above, at the tenant key",
        KeyAction.ROTATE_SERVICE_KEY: _AT_SERVICE,
        KeyAction.COMPROMISE: "above, at the tenant key and at each service key",
        KeyAction.RETIRE_VERSION: _AT_SERVICE,
        KeyAction.CHANGE_ROOT_KEY: "above, at the root key",
        KeyAction.SUSPEND: _STOP,
        KeyAction.RESUME: _STOP,
        KeyAction.LOCK: _STOP,
        KeyAction.UNLOCK: _STOP,
        KeyAction.DISCONNECT: "on the page Services",
        KeyAction.OFFBOARD: "on the page Settings",
        KeyAction.RESTORE: "at the top of every page",
    }
)
"""Where an action is found."""
_OF_KEYS = frozenset(
    {KeyAction.ROTATE_TENANT_KEY, KeyAction.ROTATE_SERVICE_KEY, KeyAction.COMPROMISE, KeyAction.RETIRE_VERSION}
)
"""What needs keys that open, and is therefore possible only where services decrypt."""


def action_of(name: KeyAction) -> Action:
    """Return an action with its words."""
    return next(action for action in ACTIONS if action.name is name)


@dataclass(frozen=True, slots=True)
class ActionAvailability:
    """Whether an action can be taken now, and the words for it."""

    action: Action
    available: bool
    words: str


def offers(
    state: State, permissions: frozenset[Permission], locks: Collection[LockReason] = ()
) -> tuple[ActionAvailability, ...]:
    """Return every action with whether somebody with these permissions can take it in this state, locked by `locks`."""
    return tuple(_offer(action, state, permissions, locks) for action in ACTIONS)


def _offer(
    action: Action, state: State, permissions: frozenset[Permission], locks: Collection[LockReason]
) -> ActionAvailability:
    if not _possible(action, state, locks):
        return ActionAvailability(action, available=False, words=f"Not while the tenant is {state}.")
    if action.permission not in permissions:
        return ActionAvailability(action, available=False, words="Your role does not include it.")
    return ActionAvailability(action, available=True, words=f"Available {WHERE[action.name]}.")


def _possible(action: Action, state: State, locks: Collection[LockReason]) -> bool:
    """Return what the switch and the root key allow: each of the two locks and unlocks for itself."""
    if action.name in _OF_KEYS:
        return state in DECRYPTS
    if action.name is KeyAction.CHANGE_ROOT_KEY:
        return may_change_root_key(state, locks)
    if state is State.LOCKED and action.move in {Transition.LOCK, Transition.UNLOCK}:
        return (action.move is Transition.UNLOCK) == (LockReason.SWITCH in locks)
    return action.move is None or action.move in transitions_from(state)
