"""Three years of one tenant's lifetime in about a minute: all clocks are moved, everything else is real.

Only the clocks are replaced (tests/simulation/clocks.py). Certificates last at most 72 hours and are renewed after
48, 552 times, so the clock moves by two days. The schedules for CRLs and for expired certificates run every ten days,
and histories continue as new after a fortieth of the usual number of events.
"""

from collections import Counter
from datetime import timedelta

from core.keys.root_keys import PlatformKeyRef, RootKeyMode
from core.keys.rotation import KeyState
from core.messages.tenants import StatusChange
from core.notifications import NotificationKind
from core.tenants.lifecycle import State
from core.tenants.policy import TenantPolicy
from openkcm.contract.audit_events import AuditName
from tests.e2e.receivers import CallbackReceiver
from tests.kms.customer_openbao import CustomerOpenBao
from tests.kms.opening import Opener
from tests.simulation.clocks import MovedClock
from tests.simulation.life import TENANT, TenantLifetime
from tests.simulation.skipping import EVENTS, TimeSkippingTemporal, describe
from worker import wiring

DAYS = 1096
"""Three years, one of which is a leap year."""
SERVICE_KEYS = list(range(90, DAYS, 90))
TENANT_KEYS = [366, 732, 1032]
"""After one year, after two years, and 300 days later by the policy of day 800; due work is checked every two days."""
CA_ROTATIONS = [244, 488, 732, 976]
"""Each when the former tenant CA has a third of a year left."""
FORMER_CA_ENDS = [day + 4 for day in CA_ROTATIONS]
"""The last certificate of the former tenant CA expires after three days."""
RENEWALS = DAYS // 2 + len(CA_ROTATIONS)
"""Every 48 hours, and once more after each rotation of the tenant CA."""
ROTATIONS = len(SERVICE_KEYS) + len(TENANT_KEYS)
LATE_ROTATIONS = 2
"""The tenant key is due on days 365 and 731 and is rotated a day later, which raises an alert."""

INTENDED = {
    **dict.fromkeys((AuditName.PROVISION_INTENDED, AuditName.SERVICE_CONNECT_INTENDED), 1),
    AuditName.SERVICE_CERTIFICATE_ISSUED: RENEWALS,
    AuditName.KEYS_ROTATED: ROTATIONS,
    AuditName.TENANT_KEY_RETIRED: len(TENANT_KEYS),
    AuditName.AUTHORITY_ROLL_INTENDED: len(CA_ROTATIONS),
    AuditName.ROOT_KEY_CHANGED: 2,
}
SUCCEEDED = {
    **dict.fromkeys((AuditName.TENANT_KEY_CREATED, AuditName.PAYLOAD_KEY_CREATED, AuditName.BOUNDARY_CHECKED), 1),
    **dict.fromkeys((AuditName.ROUTE_PUBLISHED, AuditName.TENANT_ACTIVATED, AuditName.SERVICE_CONNECTED), 1),
    **dict.fromkeys((AuditName.TENANT_SUSPENDED, AuditName.TENANT_RESUMED), 1),
    **dict.fromkeys((AuditName.TENANT_LOCKED, AuditName.TENANT_UNLOCKED, AuditName.POLICY_CHANGED), 1),
    **dict.fromkeys((AuditName.ROOT_KEY_CHECKED, AuditName.ROOT_KEY_CHANGED), 2),
    **dict.fromkeys((AuditName.TENANT_KEY_ROTATED, AuditName.TENANT_KEY_RETIRED), len(TENANT_KEYS)),
    **dict.fromkeys((AuditName.AUTHORITY_ROLLED, AuditName.AUTHORITY_ENDED), len(CA_ROTATIONS)),
    AuditName.SERVICE_CERTIFICATE_ISSUED: 1 + RENEWALS,
    AuditName.KEYS_ROTATED: ROTATIONS,
    AuditName.SERVICE_KEY_CREATED: 1 + len(SERVICE_KEYS),
    AuditName.SERVICE_KEY_ROTATED: len(SERVICE_KEYS),
    AuditName.AUTHORITY_CREATED: 1 + len(CA_ROTATIONS),
    AuditName.ANNOUNCED: ROTATIONS + LATE_ROTATIONS + 5,
}
EXPECTED = {
    **{(name, "intended"): number for name, number in INTENDED.items()},
    **{(name, "success"): number for name, number in SUCCEEDED.items()},
    (AuditName.ROTATION_STUCK, "failure"): LATE_ROTATIONS,
}
NOTIFICATIONS = {
    NotificationKind.READY: 1,
    NotificationKind.KEYS_ROTATED: ROTATIONS,
    NotificationKind.ROOT_KEY_CHANGED: 2,
    NotificationKind.ROTATION_STUCK: LATE_ROTATIONS,
    NotificationKind.LOCKED: 1,
    NotificationKind.UNLOCKED: 1,
}


async def test_three_years_of_a_tenant_run_on_schedule_and_lose_no_data(  # noqa: PLR0917 - the servers
    parts: wiring.WorkerDependencies,
    clock: MovedClock,
    skipping_temporal: TimeSkippingTemporal,
    opener: Opener,
    bao: CustomerOpenBao,
    receiver: CallbackReceiver,
) -> None:
    async with TenantLifetime.start(parts, clock, skipping_temporal.address, opener) as lifetime:
        await lifetime.encrypt_sample()
        await lifetime.advance_to(200)
        await lifetime.check_decryption()
        await lifetime.change_root_key(bao.place(), bao.token())
        assert lifetime.root_key_mode is RootKeyMode.OPENBAO
        await lifetime.advance_to(440)
        await lifetime.check_decryption()
        await lifetime.gateway.change_standing(TENANT, StatusChange.SUSPEND)
        await lifetime.advance_to(470)
        assert lifetime.state is State.SUSPENDED
        await lifetime.gateway.change_standing(TENANT, StatusChange.RESUME)
        await lifetime.advance_to(500)
        await lifetime.gateway.change_standing(TENANT, StatusChange.LOCK)
        clock.move_to(clock.now() + timedelta(hours=5))
        assert lifetime.state is State.LOCKED
        await lifetime.gateway.change_standing(TENANT, StatusChange.UNLOCK)
        await lifetime.advance_to(600)
        await lifetime.check_decryption()
        await lifetime.change_root_key(PlatformKeyRef(), None)
        assert lifetime.root_key_mode is RootKeyMode.PLATFORM
        await lifetime.advance_to(800)
        await lifetime.check_decryption()
        await lifetime.gateway.change_policy(TENANT, TenantPolicy(tenant_key_days=300))
        await lifetime.advance_to(DAYS)
        await lifetime.check_decryption()

        assert lifetime.state is State.ACTIVE
        newest = len(SERVICE_KEYS) + 1
        assert lifetime.versions == dict.fromkeys(range(1, newest), KeyState.DEACTIVATED) | {newest: KeyState.ACTIVE}
        assert lifetime.l2 == (len(TENANT_KEYS) + 1, len(TENANT_KEYS) + 1)
        assert lifetime.leaf.generation == RENEWALS + 1
        assert_recorded_events(lifetime)
        assert_notifications(receiver)
        await assert_bounded(lifetime)


def assert_recorded_events(lifetime: TenantLifetime) -> None:
    """Assert that the stream contains each expected event on its day and no other event."""
    records = lifetime.verified_events()
    counted = Counter((record.name, record.outcome) for record in records)
    # The first CRL of each CA, the last CRL of each former CA, and those between: every signed CRL is recorded.
    assert counted.pop((AuditName.REVOCATION_LIST_PUBLISHED, "success")) >= 1 + 2 * len(CA_ROTATIONS)
    assert counted == EXPECTED
    for name, days in (
        (AuditName.SERVICE_KEY_ROTATED, SERVICE_KEYS),
        (AuditName.TENANT_KEY_ROTATED, TENANT_KEYS),
        (AuditName.AUTHORITY_ROLLED, CA_ROTATIONS),
        (AuditName.AUTHORITY_ENDED, FORMER_CA_ENDS),
    ):
        assert [record.day for record in records if record.name is name and record.outcome == "success"] == days


def assert_notifications(receiver: CallbackReceiver) -> None:
    """Assert that the customer was notified once of each event, and of no expired certificate."""
    assert Counter(callback.event["data"]["kind"] for callback in receiver.taken) == NOTIFICATIONS


async def assert_bounded(lifetime: TenantLifetime) -> None:
    """Assert that no workflow failed, that histories are short and that the clocks agree."""
    assert await lifetime.failed_workflows() == []
    for handle, least in ((lifetime.entity, 3), (lifetime.service, 40)):
        histories = await lifetime.histories(handle)
        assert max(histories) < 2 * EVENTS
        assert len(histories) > least
    assert abs((await describe(lifetime.service)).now - lifetime.clock.now()) < timedelta(minutes=5)
