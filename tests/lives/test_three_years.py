"""Three years of one tenant's life in about a minute: every clock is moved, everything else is real.

Only the present is replaced (tests/lives/clocks.py). Certificates last 72 hours at most and are renewed after 48, 552
times, so the present moves by two days. Revocation lists and the check of what was not renewed run every ten days, and
histories continue as new after a fortieth of the usual number of events.
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
from tests.kms.customer_openbao import CustomerOpenBao
from tests.kms.opening import Opener
from tests.lives.clocks import PlayedClock
from tests.lives.life import TENANT, Life
from tests.lives.skipping import EVENTS, ImpatientTemporal, describe
from tests.stories.receivers import CallbackReceiver
from worker import wiring

DAYS = 1096
"""Three years, one of which has a day more."""
SERVICE_KEYS = list(range(90, DAYS, 90))
TENANT_KEYS = [366, 732, 1032]
"""After a year, after another, and 300 days later, as the policy of day 800 wants it; there is a look each two days."""
ROLLS = [244, 488, 732, 976]
"""Each when a third of a year is left to the authority before."""
ROLLS_OVER = [day + 4 for day in ROLLS]
"""The last certificate of the former authority ends after three days."""
RENEWALS = DAYS // 2 + len(ROLLS)
"""Every 48 hours, and once more after each roll."""
ROTATIONS = len(SERVICE_KEYS) + len(TENANT_KEYS)
LATE = 2
"""The tenant key is due on days 365 and 731, and looked at a day later: that raises the alarm."""

INTENDED = {
    **dict.fromkeys((AuditName.PROVISION_INTENDED, AuditName.SERVICE_CONNECT_INTENDED), 1),
    AuditName.SERVICE_CERTIFICATE_ISSUED: RENEWALS,
    AuditName.KEYS_ROTATED: ROTATIONS,
    AuditName.TENANT_KEY_RETIRED: len(TENANT_KEYS),
    AuditName.AUTHORITY_ROLL_INTENDED: len(ROLLS),
    AuditName.ROOT_KEY_CHANGED: 2,
}
SUCCEEDED = {
    **dict.fromkeys((AuditName.TENANT_KEY_CREATED, AuditName.PAYLOAD_KEY_CREATED, AuditName.BOUNDARY_CHECKED), 1),
    **dict.fromkeys((AuditName.ROUTE_PUBLISHED, AuditName.TENANT_ACTIVATED, AuditName.SERVICE_CONNECTED), 1),
    **dict.fromkeys((AuditName.TENANT_SUSPENDED, AuditName.TENANT_RESUMED), 1),
    **dict.fromkeys((AuditName.TENANT_LOCKED, AuditName.TENANT_UNLOCKED, AuditName.POLICY_CHANGED), 1),
    **dict.fromkeys((AuditName.ROOT_KEY_CHECKED, AuditName.ROOT_KEY_CHANGED), 2),
    **dict.fromkeys((AuditName.TENANT_KEY_ROTATED, AuditName.TENANT_KEY_RETIRED), len(TENANT_KEYS)),
    **dict.fromkeys((AuditName.AUTHORITY_ROLLED, AuditName.AUTHORITY_ENDED), len(ROLLS)),
    AuditName.SERVICE_CERTIFICATE_ISSUED: 1 + RENEWALS,
    AuditName.KEYS_ROTATED: ROTATIONS,
    AuditName.SERVICE_KEY_CREATED: 1 + len(SERVICE_KEYS),
    AuditName.SERVICE_KEY_ROTATED: len(SERVICE_KEYS),
    AuditName.AUTHORITY_CREATED: 1 + len(ROLLS),
    AuditName.ANNOUNCED: ROTATIONS + LATE + 5,
}
EXPECTED = {
    **{(name, "intended"): number for name, number in INTENDED.items()},
    **{(name, "success"): number for name, number in SUCCEEDED.items()},
    (AuditName.ROTATION_STUCK, "failure"): LATE,
}
TOLD = {
    NotificationKind.READY: 1,
    NotificationKind.KEYS_ROTATED: ROTATIONS,
    NotificationKind.ROOT_KEY_CHANGED: 2,
    NotificationKind.ROTATION_STUCK: LATE,
    NotificationKind.LOCKED: 1,
    NotificationKind.UNLOCKED: 1,
}


async def test_three_years_of_a_tenants_life_go_by_the_clock_and_lose_nothing(  # noqa: PLR0917 - its servers
    parts: wiring.WorkerDependencies,
    clock: PlayedClock,
    impatient: ImpatientTemporal,
    opener: Opener,
    bao: CustomerOpenBao,
    receiver: CallbackReceiver,
) -> None:
    async with Life.of(parts, clock, impatient.address, opener) as life:
        await life.keep_a_text()
        await life.until(200)
        await life.milestone()
        await life.change_root_key(bao.place(), bao.token())
        assert life.root_key_mode is RootKeyMode.OPENBAO
        await life.until(440)
        await life.milestone()
        await life.gateway.change_standing(TENANT, StatusChange.SUSPEND)
        await life.until(470)
        assert life.state is State.SUSPENDED
        await life.gateway.change_standing(TENANT, StatusChange.RESUME)
        await life.until(500)
        await life.gateway.change_standing(TENANT, StatusChange.LOCK)
        clock.reach(clock.now() + timedelta(hours=5))
        assert life.state is State.LOCKED
        await life.gateway.change_standing(TENANT, StatusChange.UNLOCK)
        await life.until(600)
        await life.milestone()
        await life.change_root_key(PlatformKeyRef(), None)
        assert life.root_key_mode is RootKeyMode.PLATFORM
        await life.until(800)
        await life.milestone()
        await life.gateway.change_policy(TENANT, TenantPolicy(tenant_key_days=300))
        await life.until(DAYS)
        await life.milestone()

        assert life.state is State.ACTIVE
        newest = len(SERVICE_KEYS) + 1
        assert life.versions == dict.fromkeys(range(1, newest), KeyState.DEACTIVATED) | {newest: KeyState.ACTIVE}
        assert life.l2 == (len(TENANT_KEYS) + 1, len(TENANT_KEYS) + 1)
        assert life.leaf.generation == RENEWALS + 1
        assert_on_record(life)
        assert_told(receiver)
        await assert_bounded(life)


def assert_on_record(life: Life) -> None:
    """Each thing that happened is in the stream, on its day, and nothing else is."""
    records = life.verified()
    counted = Counter((record.name, record.outcome) for record in records)
    # The first of each authority, the last of each that ended, and those between: whatever is signed is on record.
    assert counted.pop((AuditName.REVOCATION_LIST_PUBLISHED, "success")) >= 1 + 2 * len(ROLLS)
    assert counted == EXPECTED
    for name, days in (
        (AuditName.SERVICE_KEY_ROTATED, SERVICE_KEYS),
        (AuditName.TENANT_KEY_ROTATED, TENANT_KEYS),
        (AuditName.AUTHORITY_ROLLED, ROLLS),
        (AuditName.AUTHORITY_ENDED, ROLLS_OVER),
    ):
        assert [record.day for record in records if record.name is name and record.outcome == "success"] == days


def assert_told(receiver: CallbackReceiver) -> None:
    """The customer was told of each thing once, and of nothing that was not renewed."""
    assert Counter(taken.event["data"]["kind"] for taken in receiver.taken) == TOLD


async def assert_bounded(life: Life) -> None:
    """Nothing failed, no history grew beyond what its workflow needs to come to a rest, and clocks agree."""
    assert await life.failed() == []
    for handle, least in ((life.entity, 3), (life.service, 40)):
        histories = await life.histories(handle)
        assert max(histories) < 2 * EVENTS
        assert len(histories) > least
    assert abs((await describe(life.service)).now - life.clock.now()) < timedelta(minutes=5)
