"""Who may do what at the key server, as its policies say, and what its log shows of everybody else.

The policies refuse; this tells of it, and of what no policy refused. Also for what is about no tenant: administration,
tokens of `root`, requests that OpenKCM never makes.
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

ROOT, FIRST_BOOT, SETUP, NOBODY = "root", "first boot", "setup", "nobody"
WORKER, CRYPTO, CODEC, OFFBOARDING = "worker", "crypto", "codec", "offboarding"
TENANT = "tenant:"
OURS = frozenset({WORKER, CRYPTO, CODEC, OFFBOARDING, SETUP, FIRST_BOOT})
_SETTING_UP = frozenset({SETUP, FIRST_BOOT})

_MAY: Mapping[KeyOperation, frozenset[str]] = MappingProxyType(
    {act: frozenset({WORKER}) | _SETTING_UP for act in (KeyOperation.MADE, KeyOperation.ENSURED, KeyOperation.READ)}
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
        )
    }
    | {act: frozenset({OFFBOARDING}) for act in (KeyOperation.DOOMED, KeyOperation.DELETED)}
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
    """Return whether it was done by whom it is for."""
    if event.act in USES or event.act is KeyOperation.FINGERPRINTED:
        if event.layer is KeyKind.TENANT_KEY:
            return event.who == TENANT + event.tenant_id
        return event.who in _MAY_USE.get(event.layer, ())
    return event.who in _MAY.get(event.act, ())


def is_foreign(event: ServerEvent) -> bool:
    """Return whether a tenant's token was shown for what is not its own."""
    return event.who.startswith(TENANT) and event.who != TENANT + event.tenant_id


def check_principal(event: ServerEvent, *, checked: bool) -> Discrepancy | None:
    """Return what is wrong with who asked for it; `checked`: a boundary check was under way, which is to be refused."""
    if event.answer is RequestOutcome.REFUSED:
        if checked and (event.who in OURS or event.who.startswith(TENANT)):
            return None
        kind = DiscrepancyKind.FOREIGN_TOKEN if is_foreign(event) else DiscrepancyKind.DENIED
        return difference(event, kind, Severity.DIFFERENCE, f"{event.who} tried {event.path} and was refused")
    if is_permitted(event):
        return None
    severity = Severity.ALARM if event.answer is RequestOutcome.DONE else Severity.DIFFERENCE
    did = told(event) if event.answer is RequestOutcome.DONE else f"{event.path} was tried, in vain,"
    if is_foreign(event):
        return difference(event, DiscrepancyKind.FOREIGN_TOKEN, severity, f"{did} by the token of {event.who}")
    if event.act is KeyOperation.OTHER:
        return difference(
            event, DiscrepancyKind.UNKNOWN_REQUEST, Severity.DIFFERENCE, f"{event.who} asked for {event.path}"
        )
    kind = DiscrepancyKind.ROOT_TOKEN if event.who == ROOT else DiscrepancyKind.UNKNOWN_IDENTITY
    if event.act in {KeyOperation.SET_UP, KeyOperation.ADMINISTERED}:
        kind = DiscrepancyKind.ADMINISTRATION
    return difference(event, kind, severity, f"{did} by {event.who}, for whom it is not")


def about_the_platform(
    events: Sequence[ServerEvent], window: Window, checks: Sequence[datetime] | None
) -> tuple[Discrepancy, ...]:
    """Return what there is to tell of events about no tenant; what set the server up is told as one notice each.

    `checks`: when boundaries were checked; None: not known of all tenants, so that any refusal may be one of an attack.
    """
    found, setting_up = list[Discrepancy](), Counter[str]()
    for event in events:
        if not window.begin <= event.at <= window.end:
            continue
        wrong = check_principal(event, checked=checks is None or near(checks, event.at, SLACK, CHECKING))
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
            f"{who} set the key server up: {number} requests",
            who=who,
        )
        for who, number in setting_up.items()
    ]
    return tuple(found)


def hidden_contexts(events: Sequence[ServerEvent], window: Window) -> Iterator[Discrepancy]:
    """Tell, once for each key, of uses of which nobody can say what they were about."""
    hidden = Counter(event.key for event in events if is_hidden(event) and window.begin <= event.at <= window.end)
    for key, number in hidden.items():
        what = (
            f"{key} was used {number} times with contexts that the log hides: bring the key server's set-up up to date"
        )
        yield Discrepancy(DiscrepancyKind.HIDDEN, Severity.DIFFERENCE, None, what)


def is_hidden(event: ServerEvent) -> bool:
    """Return whether it is a use of a key that should say its context and does not."""
    layers = {KeyKind.TENANT_KEY, KeyKind.ROOT_KEY}
    return event.answer is RequestOutcome.DONE and event.act in USES and event.layer in layers and event.context is None


def told(event: ServerEvent) -> str:
    """Return what was done, in words."""
    text = f"{event.key} {event.act}"
    if event.act in USES or event.act is KeyOperation.SIGNED:
        text = f"something was {event.act} with {event.key}" + (f" {event.count} times" if event.count > 1 else "")
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
    """Return a difference about an event."""
    return Discrepancy(kind, severity, event.at, what, event.tenant_id, lacks, event.who, event.request_id)
