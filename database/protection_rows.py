"""Services' protected fields: rows and contract; handed out by `interfaces`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from openkcm.contract.protected_fields import ProtectedField


@dataclass(frozen=True, slots=True)
class ProtectionRow:
    """One service's list and its version, which rises with every change; 0 and none before the first."""

    version: int
    fields: Sequence[ProtectedField]


@dataclass(frozen=True, slots=True)
class ProtectedFieldRow:
    """A field with who changed it last."""

    field: ProtectedField
    changed_by: str
    changed_at: datetime
