"""Permitted operations of each identity at the key server, and discrepancies for all others in its audit log.

The policies reject requests; this module reports rejected requests, and successful requests that are not permitted. It
also covers requests without a tenant: administration, root tokens, and requests that OpenKCM never sends.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType

from compliance.reconciliation.model import (
    CHECKING,
    SLACK,
    USES,
    Discrepancy,
    DiscrepancyKind,
    KeyKind,
    KeyOperation,
    RequestOutcome,
    ServerEvent,
    Severity,
    Window,
    near,
)

ROOT, FIRST_BOOT, SETUP, UNAUTHENTICATED = "root", "first boot", "setup", "unauthenticated"
WORKER, CRYPTO, CODEC, OFFBOARDING, OPERATOR = "worker", "crypto", "codec", "offboarding", "operator"
TENANT = "tenant:"
OURS = frozenset({WORKER, CRYPTO, CODEC, OFFBOARDING, OPERATOR, SETUP, FIRST_BOOT})
_SETTING_UP = frozenset({SETUP, FIRST_BOOT})

_MAY: Mapping[KeyOperation, frozenset[str]] = MappingProxyType(
    {act: frozenset({WORKER}) | _SETTING_UP for act in (KeyOperation.MADE, KeyOperation.ENSURED)}
    | {KeyOperation.READ: frozenset({WORKER, OPERATOR}) | _SETTING_UP}
    | {
        act: frozenset({WORKER})
        for act in (
            KeyOperation.CONFIGURED,
            KeyOperation.ROTATED,
            KeyOperation.RETIRED,
            KeyOperation.TRIMMED,
            KeyOperation.DISABLED,
            KeyOperation.ENABLED,
            KeyOperation.AUTHORITY,
            KeyOperation.SIGNED,
            KeyOperation.LOCK_RECORDED,
        )
    }
    | {act: frozenset({OFFBOARDING}) for act in (KeyOperation.DELETION_ALLOWED, KeyOperation.DELETED)}
    | {KeyOperation.SERVER_CERTIFICATE: frozenset({CRYPTO}), KeyOperation.SET_UP: _SETTING_UP}
)
_MAY_USE: Mapping[KeyKind, frozenset[str]] = MappingProxyType(
    {
        KeyKind.ROOT_KEY: frozenset({WORKER, CRYPTO}),
        KeyKind.PAYLOAD_KEY: frozenset({WORKER, CODEC}),
        KeyKind.PLATFORM: frozenset({WORKER}),
    }
)


def is_permitted(event: ServerEvent) -> bool:
    """Return whether the identity is permitted to send this request."""
    if event.act in USES or event.act is KeyOperation.FINGERPRINTED:
        if event.layer is KeyKind.TENANT_KEY:
            return event.who == TENANT + event.tenant_id
        return event.who in _MAY_USE.get(event.layer, ())
    return event.who in _MAY.get(event.act, ())


def is_foreign(event: ServerEvent) -> bool:
    """Return whether a tenant's token was used for a resource of another tenant."""
    return event.who.startswith(TENANT) and event.who != TENANT + event.tenant_id


def check_principal(event: ServerEvent, *, checked: bool) -> Discrepancy | None:
    """Return the discrepancy if the identity is not permitted; `checked`: an isolation check was running then.

    The requests of an isolation check must be rejected, so their rejection is no discrepancy.
    """
    if event.answer is RequestOutcome.REFUSED:
        if checked and (event.who in OURS or event.who.startswith(TENANT)):
            return None
        kind = DiscrepancyKind.FOREIGN_TOKEN if is_foreign(event) else DiscrepancyKind.DENIED
        return difference(event, kind, Severity.DIFFERENCE, f"request of {event.who} for {event.path} was rejected")
    if is_permitted(event):
        return None
    severity = Severity.ALARM if event.answer is RequestOutcome.DONE else Severity.DIFFERENCE
    what = describe(event) if event.answer is RequestOutcome.DONE else f"{event.path} was called without effect"
    if is_foreign(event):
        return difference(event, DiscrepancyKind.FOREIGN_TOKEN, severity, f"{what} with the token of {event.who}")
    if event.act is KeyOperation.OTHER:
        return difference(
            event, DiscrepancyKind.UNKNOWN_REQUEST, Severity.DIFFERENCE, f"{event.who} called {event.path}"
        )
    kind = DiscrepancyKind.ROOT_TOKEN if event.who == ROOT else DiscrepancyKind.UNKNOWN_IDENTITY
    if event.act in {KeyOperation.SET_UP, KeyOperation.ADMINISTERED}:
        kind = DiscrepancyKind.ADMINISTRATION
    return difference(event, kind, severity, f"{what} by {event.who}, which is not authorized")


def about_the_platform(
    events: Sequence[ServerEvent], window: Window, checks: Sequence[datetime] | None, checks_since: datetime
) -> tuple[Discrepancy, ...]:
    """Return the discrepancies of events without a tenant, and one notice for each identity that set the server up.

    `checks`: times of isolation checks; None if those of some tenants are unknown, so that any rejection may belong to
    a check. So may any rejection before `checks_since`: records of checks before that time may be archived.
    """
    found, setting_up = list[Discrepancy](), Counter[str]()
    for event in events:
        if not window.begin <= event.at <= window.end:
            continue
        unknown = checks is None or event.at < checks_since
        wrong = check_principal(event, checked=unknown or near(checks or (), event.at, SLACK, CHECKING))
        if wrong is not None:
            found.append(wrong)
        elif event.act is KeyOperation.SET_UP:
            setting_up[event.who] += 1
    found += hidden_contexts(events, window)
    found += [
        Discrepancy(
            DiscrepancyKind.ADMINISTRATION,
            Severity.NOTICE,
            None,
            f"{who} set up the key server: {number} requests",
            who=who,
        )
        for who, number in setting_up.items()
    ]
    return tuple(found)


def hidden_contexts(events: Sequence[ServerEvent], window: Window) -> Iterator[Discrepancy]:
    """Yield one discrepancy for each key with uses whose context the log hides."""
    hidden = Counter(event.key for event in events if is_hidden(event) and window.begin <= event.at <= window.end)
    for key, number in hidden.items():
        what = f"{key} was used {number} times with contexts that the log hides: update the set-up of the key server"
        yield Discrepancy(DiscrepancyKind.HIDDEN, Severity.DIFFERENCE, None, what)


def is_hidden(event: ServerEvent) -> bool:
    """Return whether the event is a use of a key whose required context is missing in the log."""
    layers = {KeyKind.TENANT_KEY, KeyKind.ROOT_KEY}
    return event.answer is RequestOutcome.DONE and event.act in USES and event.layer in layers and event.context is None


def describe(event: ServerEvent) -> str:
    """Return a description of the operation."""
    text = f"{event.key} {event.act}"
    if event.act in USES or event.act is KeyOperation.SIGNED:
        text = f"data was {event.act} with {event.key}" + (f" {event.count} times" if event.count > 1 else "")
    if event.version:
        text += f", version {event.version}"
    if event.serial:
        text += f", serial {event.serial}"
    context = event.context
    if context is not None:
        place = " ".join(filter(None, (context.service, context.object_id)))
        text += f" ({context.purpose}{f' {place}' if place else ''})"
    return text


def difference(
    event: ServerEvent, kind: DiscrepancyKind, severity: Severity, what: str, lacks: str = ""
) -> Discrepancy:
    """Return a discrepancy for an event."""
    return Discrepancy(kind, severity, event.at, what, event.tenant_id, lacks, event.who, event.request_id)
