"""Builders of service facts for coverage tests: fully covered services, reported uses and backfills."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

from compliance.coverage.assessment import BackfillProgress, ReportedUse, ServiceFacts
from core.services import ServiceState
from openkcm.contract.protected_fields import Backfill, Mode, ProtectedField, Store
from openkcm.contract.services import ServiceKind

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
TODAY = NOW.date()
DIAGNOSIS = ProtectedField(Store.POSTGRESQL, "public.patients", "diagnosis", Mode.RANDOMISED)
PHONE = ProtectedField(Store.MONGODB, "clinic.people", "contact.phone", Mode.DETERMINISTIC)
PLACE = "postgresql:public.patients.diagnosis"


def ago(days: int) -> date:
    return TODAY - timedelta(days=days)


def a_use(place: str = PLACE, days: int = 0, **changed: int) -> ReportedUse:
    return replace(ReportedUse(ago(days), place, 10, 320, 70, 4, 2000), **changed)


def a_backfill(state: Backfill, place: str = PLACE, days: int = 0) -> BackfillProgress:
    return BackfillProgress(place, state, 40, 60, ago(days))


def whole(name: str = "orders", *fields: ProtectedField) -> ServiceFacts:
    """Return a fully covered service: its listed fields, by default one, are in use."""
    fields = fields or (DIAGNOSIS,)
    uses = tuple(a_use(one.name) for one in fields)
    return ServiceFacts(
        name,
        ServiceKind.POSTGRESQL,
        ServiceState.CONNECTED,
        certificate_ends=NOW + timedelta(hours=48),
        fields=fields,
        uses=uses,
    )
