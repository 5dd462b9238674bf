"""The badges of the verdict (core/tenants/status.py) in the status strip: words first, colour and icon repeat them."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from core.tenants.status import Status, Subject, SubjectStatus, Verdict
from dashboard.components.tenant_status import Severity, TenantStatusView
from dashboard.usage.view import reason

Color = Literal["green", "orange", "red", "gray", "blue"]

COLORS: Mapping[Status, tuple[Color, str]] = MappingProxyType(
    {
        Status.OPERATIONAL: ("green", ":material/check:"),
        Status.DEGRADED: ("orange", ":material/warning:"),
        Status.STOPPED: ("red", ":material/error:"),
        Status.UNKNOWN: ("gray", ":material/help:"),
    }
)
TITLES: Mapping[Subject, str] = MappingProxyType(
    {
        Subject.TENANT: "Tenant",
        Subject.REQUESTS: "Requests",
        Subject.CRYPTO_SERVICE: "Crypto service",
        Subject.KEY_SERVER: "Key server",
        Subject.ROOT_KEY: "Root key",
        Subject.CERTIFICATES: "Certificates",
        Subject.ISOLATION: "Isolation",
        Subject.CHANGES: "Changes",
        Subject.COVERAGE: "Coverage",
        Subject.APPROVALS: "Approvals",
    }
)
_ALWAYS = (Subject.REQUESTS, Subject.KEY_SERVER, Subject.ROOT_KEY, Subject.CERTIFICATES, Subject.ISOLATION)
_WITH_FAULT = (Subject.TENANT, Subject.CRYPTO_SERVICE, Subject.CHANGES)
"""Shown only when they are not operational: the strip stays short while all is well."""
_NOTICED: Mapping[Subject, str] = MappingProxyType(
    {
        Subject.KEY_SERVER: "Key server",
        Subject.CRYPTO_SERVICE: "Crypto service",
        Subject.CHANGES: "Requested changes",
    }
)
_TONES: Mapping[Status, Severity] = MappingProxyType(
    {
        Status.DEGRADED: Severity.WARNING,
        Status.STOPPED: Severity.BAD,
        Status.UNKNOWN: Severity.WARNING,
    }
)


@dataclass(frozen=True, slots=True)
class Badge:
    label: str
    color: Color
    icon: str

    @property
    def markdown(self) -> str:
        """The badge as Markdown; a label contains no names of the customer."""
        return f":{self.color}-badge[{f'{self.icon} {self.label}'.strip()}]"


def overall(found: Verdict) -> Badge:
    """Return the badge of the whole tenant."""
    return Badge(found.overall.capitalize(), *COLORS[found.overall])


def badge(one: SubjectStatus) -> Badge:
    """Return the badge of a subject."""
    return Badge(f"{TITLES[one.subject]}: {one.words}", *COLORS[one.status])


def strip(found: Verdict, as_of: str) -> tuple[Badge, ...]:
    """Return the badges of the strip; `as_of` is the time of the measurement in words."""
    faults = [one for one in _WITH_FAULT if found.of(one).status is not Status.OPERATIONAL]
    shown = (*faults, *_ALWAYS)
    return (overall(found), *(badge(found.of(one)) for one in shown), Badge(f"as of {as_of}", "gray", ""))


def not_measured(as_of: str) -> tuple[Badge, ...]:
    """Return the strip while nothing can be read: no badge is green."""
    return (
        Badge("Unknown", *COLORS[Status.UNKNOWN]),
        Badge("The platform's database does not respond", *COLORS[Status.STOPPED]),
        Badge(f"page as of {as_of}", "gray", ""),
    )


def notices(found: Verdict) -> tuple[TenantStatusView, ...]:
    """Return a notice for each measured fault that no state of the tenant and no root key explains."""
    shown = []
    requests = found.of(Subject.REQUESTS)
    if requests.causes:
        causes = f"Causes: {', '.join(sorted({reason(code).name for code in requests.causes}))}."
        tone = _TONES[requests.status]
        shown.append(TenantStatusView("Requests", "Requests rejected", tone, f"{requests.words}.", causes))
    for subject, title in _NOTICED.items():
        one = found.of(subject)
        if one.status is not Status.OPERATIONAL:
            shown.append(TenantStatusView(title, f"{title}: {_lowered(one.words)}", _TONES[one.status], one.detail, ""))
    return tuple(shown)


def _lowered(words: str) -> str:
    return words[:1].lower() + words[1:]
