"""Rows of a tenant, its services and keys, and of a customer's root key and its changes."""

from datetime import UTC, datetime, timedelta

from core.keys.root_keys import RootKeyMode, RootKeyState, parse_place
from core.services import CryptoOperation, ServiceState
from core.tenants.lifecycle import State
from core.tenants.status import CertificateFacts, Facts, IsolationFacts, ProcessFacts, ProcessKind
from database.keys import KeyVersionRow
from database.root_keys import CustomerRootKeyRow, RootKeyChangeRow
from database.services.repository import ServiceRow
from database.tenants import TenantRow
from database.usage import UsageTotalRow
from openkcm.contract.services import ServiceKind

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
KEY_ARN = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
TENANT = TenantRow("acme", "ACME", "eu-west-1", State.ACTIVE, "platform", NOW, NOW, None)


def a_service(name: str, state: ServiceState = ServiceState.CONNECTED, **changed: object) -> ServiceRow:
    row = ServiceRow(name, ServiceKind.MONGODB, state, NOW - HOUR, None, None, NOW + 48 * HOUR, NOW - HOUR)
    return row._replace(**changed)


def a_key(service: str, version: int = 1) -> KeyVersionRow:
    return KeyVersionRow(service, version, "L2-acme-primary", "platform", "root-eu-west-1", NOW - HOUR)


def some_use(
    service: str, count: int = 10, refused: int = 0, operation: CryptoOperation = CryptoOperation.ENCRYPT
) -> UsageTotalRow:
    return UsageTotalRow(service, operation, count, refused, NOW - 2 * HOUR)


def a_held_key(health: str = "ok", since: timedelta = timedelta(seconds=20), **changed: object) -> CustomerRootKeyRow:
    place = parse_place({"provider": "aws-kms", "key_arn": KEY_ARN})
    row = CustomerRootKeyRow(
        "5" * 32, RootKeyMode.AWS_KMS, KEY_ARN, place, RootKeyState.CURRENT, health, NOW - since, NOW - since
    )
    return row._replace(**changed)


def a_change(state: str = "running", **changed: object) -> RootKeyChangeRow:
    ended = None if state == "running" else NOW - timedelta(hours=1)
    row = RootKeyChangeRow(
        1,
        RootKeyMode.PLATFORM,
        "root-eu-west-1",
        RootKeyMode.AWS_KMS,
        KEY_ARN,
        "5" * 32,
        state,
        1000,
        340,
        None,
        NOW - timedelta(hours=2),
        ended,
    )
    return row._replace(**changed)


PROCESSES = tuple(
    ProcessFacts(kind, "host", 0.5, None if kind is ProcessKind.SHIPPER else "ok") for kind in ProcessKind
)
WELL = Facts(
    measured_at=NOW,
    state=State.ACTIVE,
    processes=PROCESSES,
    answered=10,
    certificates=CertificateFacts(1),
    isolation=IsolationFacts(NOW - HOUR, passed=True),
    approvals=0,
)
"""What is measured of a tenant without a fault."""
