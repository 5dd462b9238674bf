"""One item that needs attention, with the page where the user acts on it. Each feature lists its own items."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from dashboard.components.tenant_status import Severity


@dataclass(frozen=True, slots=True)
class AttentionItem:
    """What needs attention, in words that follow the name of the service; `path` and `query` are the page's address."""

    subject: str
    """The area in one word, such as `Certificate`."""
    words: str
    path: str
    severity: Severity
    service: str = ""
    """Empty for an item of the tenant itself or of several services."""
    opens: str = ""
    """What the link opens, when it is neither the whole page nor one service."""
    query: Mapping[str, str] = field(default_factory=dict)
