"""What the processes may ask of all tenants at once: the part of `interfaces` that is about it. Imports no psycopg."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Protocol

from database.audit_interfaces import AuditKeys
from database.boundary_interfaces import TroubledExamination
from database.certificate_rows import EndingRow
from database.root_key_rows import NumberedKey, WatchedKey
from database.rotation_rows import StuckRotationRow
from database.rows import TenantRow


class PlatformDatabase(AuditKeys, Protocol):
    """The few questions that span tenants, each a function or a policy of its own with its own grant."""

    def unstarted_events(self, limit: int) -> Sequence[tuple[str, str, str, str]]:
        """Return (tenant id, event id, region, kind) of events no workflow has yet, oldest first (marketplace)."""
        ...

    def pending_enrolments(self, limit: int) -> Sequence[tuple[str, str, str, str]]:
        """Return (tenant id, enrolment id, region, service) of those without an answer, oldest first (marketplace)."""
        ...

    def unknown_serials(self, serials: Sequence[str]) -> Sequence[str]:
        """Return those serials that are on record for no tenant (worker)."""
        ...

    def moved_heads(self, limit: int) -> Sequence[str]:
        """Return tenants whose audit stream grew since its head was last signed (worker)."""
        ...

    def record_audit_keys(self, keys: Mapping[str, str]) -> None:
        """Record public keys, each once and for good (worker); raises DatabaseRefused for another of a known name."""
        ...

    def waiting_outboxes(self, limit: int) -> Sequence[str]:
        """Return tenants with announcements that were stored over a minute ago and are still unsent (worker)."""
        ...

    def watched_root_keys(self, region: str, lately: timedelta) -> Sequence[WatchedKey]:
        """Return the root keys in force that customers of a region hold; `used` within `lately` (worker)."""
        ...

    def numbered_root_keys(self) -> Sequence[NumberedKey]:
        """Return the root keys in force of tenants in use that number their versions and are well (worker).

        Tenants that were rotated longest ago come first.
        """
        ...

    def untaken_credentials(self, limit: int) -> Sequence[str]:
        """Return tenants with sealed credentials that nobody came for in a quarter of an hour (worker)."""
        ...

    def stale_services(self, after: tuple[str, str], limit: int) -> Sequence[tuple[str, str]]:
        """Return (tenant id, service) where objects may have to be sealed anew, in order, behind `after` (crypto)."""
        ...

    def due_rotations(self, limit: int) -> Sequence[str]:
        """Return tenants with a key that is older than they want, or with a rotation to be finished (worker)."""
        ...

    def stuck_rotations(self, unfinished: timedelta, overdue: timedelta, limit: int) -> Sequence[StuckRotationRow]:
        """Return rotations that failed, have run for longer, or are due for longer than these times (worker)."""
        ...

    def key_probes(self, after: str, limit: int) -> Sequence[tuple[str, str]]:
        """Return (tenant id, ciphertext) of what tenants left for others, behind `after` and round to it (worker)."""
        ...

    def due_authorities(self, limit: int) -> Sequence[str]:
        """Return tenants whose authority has a third of its life left and can be rolled (worker)."""
        ...

    def outlived_authorities(self, limit: int) -> Sequence[str]:
        """Return tenants whose former authority's certificates have all expired (worker)."""
        ...

    def stale_revocation_lists(self, oldest: timedelta, limit: int) -> Sequence[str]:
        """Return tenants with a revocation list that is missing, older than that, or lacks a revocation (worker)."""
        ...

    def expiring(self, limit: int) -> Sequence[EndingRow]:
        """Return what is late or lapsed (tenancy/expiry.py) of tenants that were opened and have not left (worker)."""
        ...

    def due_examinations(self, after: str, limit: int) -> Sequence[tuple[str, str]]:
        """Return (tenant id, region) whose boundaries are to be examined, in order, behind `after` (worker)."""
        ...

    def troubled_examinations(self, late: timedelta, limit: int) -> Sequence[TroubledExamination]:
        """Return tenants with a breach, or whose examination is due for longer than `late` (worker)."""
        ...

    def list_tenants(self, after: str, limit: int) -> Sequence[TenantRow]:
        """Return tenants in order of id, from the first one behind `after` (operator)."""
        ...
