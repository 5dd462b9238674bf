"""Receivers that a tenant chose: e-mail addresses and webhooks, each with its events.

A target gets every event except its muted ones. A muted name is an event or `group:` and a group, so a later version's
new event of a group reaches each target that has any event of this group.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from urllib.parse import urlsplit

from core.errors.notifications import TargetInvalid
from core.notifications.messages import Channel, NotificationKind

MAX_TARGETS = 10
SECRET_OVERLAP = timedelta(hours=24)
"""How long messages also have a signature with the former secret; the trigger `target_secret_replaced` has it too."""
TESTS_PER_MINUTE = 10

_MAX_LABEL = 60
_MAX_EMAIL = 254
"""Characters of a mail address (RFC 5321 section 4.5.3.1.3, without the angle brackets)."""
_MAX_URL = 500
# A subset of RFC 5321: no quoted local part, no literal address. Each part begins and ends with a letter or digit.
_EMAIL = re.compile(
    r"[A-Za-z0-9](?:[A-Za-z0-9._+-]{0,62}[A-Za-z0-9])?"
    r"@(?=.{4,253}\Z)(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
)
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?\.?")
_GROUP = "group:"


class TargetKind(StrEnum):
    EMAIL = "email"
    WEBHOOK = "webhook"

    @property
    def channel(self) -> Channel:
        return Channel.TARGET_EMAIL if self is TargetKind.EMAIL else Channel.TARGET_WEBHOOK


class EventGroup(StrEnum):
    SECURITY = "security"
    KEYS = "keys"
    CERTIFICATES = "certificates"
    APPROVALS = "approvals"
    COMPLIANCE = "compliance"
    LIFECYCLE = "lifecycle"


_K = NotificationKind
GROUPS: Mapping[EventGroup, tuple[NotificationKind, ...]] = MappingProxyType(
    {
        EventGroup.SECURITY: (_K.LOCKED, _K.UNLOCKED, _K.ROOT_KEY_WARNING),
        EventGroup.KEYS: (_K.KEYS_ROTATED, _K.ROTATION_STUCK, _K.ROOT_KEY_CHANGED),
        EventGroup.CERTIFICATES: (_K.EXPIRY_LATE, _K.EXPIRY_LAPSED),
        EventGroup.APPROVALS: (_K.APPROVAL_WAITING,),
        EventGroup.COMPLIANCE: (_K.BREACHED,),
        EventGroup.LIFECYCLE: (_K.READY, _K.LATE, _K.FAILED, _K.LEAVING, _K.LEAVING_REMINDER, _K.RESTORED),
    }
)
"""The events that a target can have. `OFFBOARDED` follows the erasure of all targets; `TEST` is sent on request."""


@dataclass(frozen=True, slots=True)
class NotificationTarget:
    """A receiver. `address` is a mail address or a URL; `shown_address` lacks the parts that can contain a secret.

    `secret_number` counts the signing secrets of a webhook from 1; until `former_until` the former one signs as well.
    """

    target_id: str
    kind: TargetKind
    label: str
    shown_address: str
    muted: frozenset[str]
    paused: bool
    secret_number: int
    former_until: datetime | None
    created_at: datetime

    def wants(self, kind: NotificationKind) -> bool:
        """Return whether this target gets an event."""
        return not self.paused and kind in selected(self.muted)


def selected(muted: Collection[str]) -> frozenset[NotificationKind]:
    """Return the events that are not muted."""
    return frozenset(
        kind
        for group, kinds in GROUPS.items()
        if f"{_GROUP}{group}" not in muted
        for kind in kinds
        if kind not in muted
    )


def muted_for(chosen: Iterable[NotificationKind]) -> frozenset[str]:
    """Return what to mute so that exactly these events remain.

    Raises:
        TargetInvalid: no event was chosen.
    """
    wanted, muted = frozenset(chosen), set[str]()
    for group, kinds in GROUPS.items():
        off = [kind for kind in kinds if kind not in wanted]
        muted.update([f"{_GROUP}{group}"] if len(off) == len(kinds) else off)
    if not selected(muted):
        raise TargetInvalid("no event is selected", "select at least one event; to stop all of them, pause the target")
    return frozenset(muted)


def parse_label(text: str) -> str:
    """Return a label without surrounding spaces; raises TargetInvalid."""
    label = text.strip()
    if not 1 <= len(label) <= _MAX_LABEL or not label.isprintable():
        raise TargetInvalid("the label is empty or too long", f"write 1 to {_MAX_LABEL} characters")
    return label


def parse_address(kind: TargetKind, text: str, *, plain_http: bool) -> str:
    """Return a mail address or the URL of a webhook, as text of ASCII.

    This checks only the form: the worker resolves the host and checks the address of each connection. `plain_http`
    permits URLs without TLS; only the development stack does.

    Raises:
        TargetInvalid: the text has another form; the error does not quote it.
    """
    address = text.strip()
    if kind is TargetKind.EMAIL:
        if len(address) > _MAX_EMAIL or not _EMAIL.fullmatch(address):
            raise TargetInvalid("the e-mail address is not valid", "write it as name@example.com")
        return address
    hint = "write it as https://example.com/path"
    if len(address) > _MAX_URL or not address.isascii() or not address.isprintable() or " " in address:
        raise TargetInvalid(f"the URL is longer than {_MAX_URL} characters, or has others than those of a URL", hint)
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise TargetInvalid("the URL is not valid", hint) from None
    if parts.scheme != "https" and not (plain_http and parts.scheme == "http"):
        raise TargetInvalid("the URL does not begin with https://", hint)
    if not _HOST.fullmatch(host) and ":" not in host:
        raise TargetInvalid("the URL has no valid host name", hint)
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise TargetInvalid(
            "the URL has a user name, a password or a fragment", "remove it; the signature authenticates"
        )
    return address


def shown_address(kind: TargetKind, address: str) -> str:
    """Return what operators may see of an address: no path or query, which can contain a secret, and no person."""
    if kind is TargetKind.EMAIL:
        return f"…@{address.rpartition('@')[2]}"
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc}"


def secret_ref(target_id: str, number: int) -> str:
    """Return the name that a webhook's encrypted secret is bound to."""
    return f"webhook/{target_id}/{number}"
