"""Which pages lie at which place. Title, icon, path and page of each; the first has the place's own path."""

from collections.abc import Callable
from dataclasses import dataclass

from dashboard.pages import audit, compliance, keys, left, operations, overview, services, settings, usage
from dashboard.seat import Seat


@dataclass(frozen=True, slots=True)
class Entry:
    """A page of a place; `path` is its part of the address, empty for the first."""

    title: str
    icon: str
    path: str
    draw: Callable[[Seat], None]


TENANT = (
    Entry("Overview", ":material/dashboard:", "", overview.draw),
    Entry("Keys", ":material/key:", "keys", keys.draw),
    Entry("Services", ":material/hub:", "services", services.draw),
    Entry("Usage", ":material/bar_chart:", "usage", usage.draw),
    Entry("Compliance", ":material/verified_user:", "compliance", compliance.draw),
    Entry("Audit", ":material/fact_check:", "audit", audit.draw),
    Entry("Settings", ":material/tune:", "settings", settings.draw),
)
LEFT = (Entry("Farewell", ":material/waving_hand:", "", left.draw), TENANT[5])
"""Of a tenant that has left there is nothing else to look at: everything that the other pages show is erased."""
OPERATIONS = (Entry("Operations", ":material/monitoring:", "", operations.draw),)
