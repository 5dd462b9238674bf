"""What can be done to keys, what happens then, and whether it can be undone; one table, which pages and dialogs read.

An action that this version cannot do yet is explained and not offered. It becomes available by one entry in `WHERE` and
its handler in the page.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from tenancy.lifecycle import Move, State, moves_from
from tenancy.locks import LockReason, may_change_root_key
from tenancy.people import Permission


class KeyAction(StrEnum):
    ROTATE_TENANT_KEY = "rotate-tenant-key"
    ROTATE_SERVICE_KEY = "rotate-service-key"
    CHANGE_ROOT_KEY = "change-root-key"
    SUSPEND = "suspend"
    RESUME = "resume"
    LOCK = "lock"
    UNLOCK = "unlock"
    DISCONNECT = "disconnect"
    OFFBOARD = "offboard"


@dataclass(frozen=True, slots=True)
class Action:
    """`move` is the lifecycle's, for actions that change the tenant's state."""

    name: KeyAction
    title: str
    happens: str
    undone: str
    permission: Permission
    move: Move | None = None


ACTIONS = (
    Action(
        KeyAction.ROTATE_TENANT_KEY,
        "Rotate the tenant key (L2)",
        "Your tenant key gets a new version, and every service key is wrapped anew under it. Your data is not "
        "encrypted anew and no service is interrupted. The old wrapping is kept until the new one was seen to open.",
        "No, and there is no need: older versions still open what they wrapped.",
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
        Move.SUSPEND,
    ),
    Action(
        KeyAction.RESUME,
        "Resume the tenant",
        "Services encrypt again, and services can be connected again.",
        "Yes, by suspending it.",
        Permission.MANAGE_KEYS,
        Move.RESUME,
    ),
    Action(
        KeyAction.LOCK,
        "Lock the tenant (kill switch)",
        "No service key opens any more and live connections end: every service fails to read and write encrypted data. "
        "A client that fetched a key before may use it until its own cache ends.",
        "Yes, by unlocking it; nothing is destroyed.",
        Permission.MANAGE_KEYS,
        Move.LOCK,
    ),
    Action(
        KeyAction.UNLOCK,
        "Unlock the tenant",
        "The kill switch is released: everything opens as before, and a tenant that was suspended is suspended again. "
        "While your own root key does not work the tenant stays locked all the same, until it does.",
        "Yes, by locking it again.",
        Permission.MANAGE_KEYS,
        Move.UNLOCK,
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
        Move.LEAVE,
    ),
)

_STOP = "above, under Stop and start"
WHERE: Mapping[KeyAction, str] = MappingProxyType(
    {
        KeyAction.CHANGE_ROOT_KEY: "above, at the root key",
        KeyAction.SUSPEND: _STOP,
        KeyAction.RESUME: _STOP,
        KeyAction.LOCK: _STOP,
        KeyAction.UNLOCK: _STOP,
        KeyAction.DISCONNECT: "on the page Services",
    }
)
"""Where an action is found."""
BUILT = frozenset(WHERE)
"""What this version can do."""


@dataclass(frozen=True, slots=True)
class Offer:
    """Whether an action can be taken now, and the words for it."""

    action: Action
    available: bool
    words: str


def offers(state: State, permissions: frozenset[Permission], locks: Collection[LockReason] = ()) -> tuple[Offer, ...]:
    """Return every action with whether somebody with these permissions can take it in this state, locked by `locks`."""
    return tuple(_offer(action, state, permissions, locks) for action in ACTIONS)


def _offer(action: Action, state: State, permissions: frozenset[Permission], locks: Collection[LockReason]) -> Offer:
    if action.name not in BUILT:
        return Offer(action, available=False, words="Not in this version yet.")
    if not _possible(action, state, locks):
        return Offer(action, available=False, words=f"Not while the tenant is {state}.")
    if action.permission not in permissions:
        return Offer(action, available=False, words="Your role does not include it.")
    return Offer(action, available=True, words=f"Available {WHERE[action.name]}.")


def _possible(action: Action, state: State, locks: Collection[LockReason]) -> bool:
    """Return what the switch and the root key allow: each of the two locks and unlocks for itself."""
    if action.name is KeyAction.CHANGE_ROOT_KEY:
        return may_change_root_key(state, locks)
    if state is State.LOCKED and action.move in {Move.LOCK, Move.UNLOCK}:
        return (action.move is Move.UNLOCK) == (LockReason.SWITCH in locks)
    return action.move is None or action.move in moves_from(state)
