"""The content of a compliance report, section by section: PDF, HTML and JSON are made from this one model.

It has two kinds of figures, which are verified differently. *Derived* figures are functions of the tenant's audit
records in the period (`DerivedFigures`); any holder of an export can recompute them. The *snapshot* describes the
moment of the report (`Snapshot`). Its digest was appended to the audit stream before the report was signed, so a report
with a different snapshot does not match the stream.

The report maps evidence to ids of control frameworks. It is no attestation, and says so.
"""

from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EventCounts(_Part):
    """Records of one kind of event."""

    name: str
    success: int = 0
    intended: int = 0
    refused: int = 0
    failure: int = 0


class ReportedEvent(_Part):
    """One listed record: its sequence number, time, actor, name and description."""

    seq: int
    at: AwareDatetime
    actor: str
    actor_kind: str
    name: str
    subject: str
    outcome: str
    words: str


class RootKeyEvent(_Part):
    """An event of the root key. `seconds` from the holder's rejection to the lock, if it caused one."""

    moment: ReportedEvent
    seconds: float | None = None


class ClauseRuns(_Part):
    """How often the checks of a control ran in the period, according to the stream."""

    clause: str
    held: int
    breached: int
    not_checked: int = 0


class ServiceAccess(_Part):
    """Use of keys by one service: operations completed and rejected."""

    service: str
    answered: int
    refused: int


class DerivedFigures(_Part):
    """Figures that follow from the audit records of the period alone."""

    records: int = Field(ge=0)
    first_seq: int = Field(ge=0, description="0 when the period has no records")
    last_seq: int = Field(ge=0)
    events: tuple[EventCounts, ...]
    access: tuple[ServiceAccess, ...]
    denied: tuple[ReportedEvent, ...] = Field(description="the newest rejected attempts, at most DENIED of them")
    denied_total: int = Field(description="attempts: one record can represent many within a second")
    isolation: tuple[ClauseRuns, ...]
    isolation_runs: int
    root_key: tuple[RootKeyEvent, ...]
    changes: tuple[ReportedEvent, ...]
    changes_total: int
    approvals: tuple[ReportedEvent, ...]
    approvals_total: int = 0
    root_key_total: int = 0
    is_complete: bool = Field(default=True, description="whether all names and services could be listed separately")


class CoveredService(_Part):
    """A service and its encrypted data. `protected`: places; `under`: the names of L3, L2 and L1."""

    service: str
    kind: str
    state: str
    protected: tuple[str, ...]
    ways: tuple[str, ...]
    under: str
    operations_30_days: int
    last_used: str
    complete: bool
    is_unknown: bool = Field(default=False, description="whether no field is listed and no gap is known")
    gaps: tuple[str, ...]


class InventoryKey(_Part):
    """A key and its cryptoperiod (NIST SP 800-57 part 1, 5.3 and 6.2). `level` is L1, L2, L3 or CA."""

    level: str
    name: str
    version: int
    state: str
    algorithm: str
    holder: str
    purpose: str
    created_at: AwareDatetime | None
    cryptoperiod_days: int | None
    due_at: AwareDatetime | None
    overdue: bool
    last_used_at: AwareDatetime | None


class LatestCheck(_Part):
    """The newest result of one isolation check."""

    clause: str
    name: str
    outcome: str
    evidence: str
    at: AwareDatetime


class Snapshot(_Part):
    """The state at the moment of the report."""

    state: str
    root_key_mode: str
    root_key_holder: str
    tenant_key_days: int
    service_key_days: int
    four_eyes: tuple[str, ...]
    revoked_keys_readable: bool = False
    resources_recorded: bool = False
    enabled_at: AwareDatetime | None = None
    """When the tenant was enabled in the marketplace; it has no records before."""
    coverage: tuple[CoveredService, ...]
    keys: tuple[InventoryKey, ...]
    checks: tuple[LatestCheck, ...]
    certificates: int
    next_certificate_expiry: AwareDatetime | None


class Finding(_Part):
    """One line of the summary: subject, status and description."""

    subject: str
    status: Literal["in order", "attention", "missing"]
    words: str


class Evidence(_Part):
    """One kind of evidence and the ids of the controls that it supports, by framework."""

    evidence: str
    section: str
    status: Literal["in order", "attention", "missing"]
    controls: dict[str, tuple[str, ...]]


class StreamPosition(_Part):
    """A position of the audit stream; the checkpoint signed there covers every record before."""

    seq: int
    chain_hash: str = Field(pattern="^[0-9a-f]{64}$")


class Report(_Part):
    """A complete report. `since` belongs to the period, `until` does not.

    `stream` is the position of the record with the digest of `stated`; the figures include every record before it.
    """

    format: Literal["openkcm-report/1"] = "openkcm-report/1"
    report_id: str
    tenant_id: str
    organization: str
    region: str
    since: AwareDatetime
    until: AwareDatetime
    made_at: AwareDatetime
    made_for: str
    stream: StreamPosition
    summary: tuple[Finding, ...]
    counted: DerivedFigures
    stated: Snapshot
    stated_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    evidence: tuple[Evidence, ...]
    limits: tuple[str, ...]
    made_with: str = Field(default="", description="the version of OpenKCM that produced the texts")
