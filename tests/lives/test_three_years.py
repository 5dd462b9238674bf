"""Three years of one tenant's life in about a minute: every clock is moved, everything else is real.

PostgreSQL with the schema, OpenBao, the customer's OpenBao, Temporal and the worker's own wiring are those of every
other test. What stands in is said in tests/lives/clocks.py: the present, and who asks OpenBao for an authority's end.

What takes the time is the 552 renewals of a certificate of 72 hours, the longest that settings and key server's adapter
allow: each is renewed by the timer of its service's workflow, after 48 hours. So the present moves on by two days. The
revocation lists, which would be made anew twice a day, and the look for what was not renewed are played every ten days,
and histories continue as new after a fortieth of the events that it takes otherwise.
"""

from collections import Counter
from datetime import timedelta

from tenancy.audit import AuditName
from tenancy.events import AnnouncementKind
from tenancy.lifecycle import State
from tenancy.messages import StandingMove
from tenancy.policy import TenantPolicy
from tenancy.root_keys import PlatformPlace, RootKeyMode
from tenancy.rotation import KeyState
from tests.keystores.customer_openbao import CustomerOpenBao
from tests.keystores.opening import Opener
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
EXPECTED = {
    (AuditName.PROVISION_INTENDED, "intended"): 1,
    (AuditName.TENANT_KEY_CREATED, "success"): 1,
    (AuditName.PAYLOAD_KEY_CREATED, "success"): 1,
    (AuditName.BOUNDARY_CHECKED, "success"): 1,
    (AuditName.ROUTE_PUBLISHED, "success"): 1,
    (AuditName.TENANT_ACTIVATED, "success"): 1,
    (AuditName.SERVICE_CONNECT_INTENDED, "intended"): 1,
    (AuditName.SERVICE_CONNECTED, "success"): 1,
    (AuditName.SERVICE_CERTIFICATE_ISSUED, "intended"): RENEWALS,
    (AuditName.SERVICE_CERTIFICATE_ISSUED, "success"): 1 + RENEWALS,
    (AuditName.KEYS_ROTATED, "intended"): ROTATIONS,
    (AuditName.KEYS_ROTATED, "success"): ROTATIONS,
    (AuditName.SERVICE_KEY_CREATED, "success"): 1 + len(SERVICE_KEYS),
    (AuditName.SERVICE_KEY_ROTATED, "success"): len(SERVICE_KEYS),
    (AuditName.TENANT_KEY_ROTATED, "success"): len(TENANT_KEYS),
    (AuditName.TENANT_KEY_RETIRED, "intended"): len(TENANT_KEYS),
    (AuditName.TENANT_KEY_RETIRED, "success"): len(TENANT_KEYS),
    (AuditName.AUTHORITY_CREATED, "success"): 1 + len(ROLLS),
    (AuditName.AUTHORITY_ROLL_INTENDED, "intended"): len(ROLLS),
    (AuditName.AUTHORITY_ROLLED, "success"): len(ROLLS),
    (AuditName.AUTHORITY_ENDED, "success"): len(ROLLS),
    (AuditName.ROOT_KEY_CHECKED, "success"): 2,
    (AuditName.ROOT_KEY_CHANGED, "intended"): 2,
    (AuditName.ROOT_KEY_CHANGED, "success"): 2,
    (AuditName.TENANT_SUSPENDED, "success"): 1,
    (AuditName.TENANT_RESUMED, "success"): 1,
    (AuditName.TENANT_LOCKED, "success"): 1,
    (AuditName.TENANT_UNLOCKED, "success"): 1,
    (AuditName.POLICY_CHANGED, "success"): 1,
    (AuditName.ROTATION_STUCK, "failure"): LATE,
    (AuditName.ANNOUNCED, "success"): ROTATIONS + LATE + 5,
}
TOLD = {
    AnnouncementKind.READY: 1,
    AnnouncementKind.KEYS_ROTATED: ROTATIONS,
    AnnouncementKind.ROOT_KEY_CHANGED: 2,
    AnnouncementKind.ROTATION_STUCK: LATE,
    AnnouncementKind.LOCKED: 1,
    AnnouncementKind.UNLOCKED: 1,
}


async def test_three_years_of_a_tenants_life_go_by_the_clock_and_lose_nothing(  # noqa: PLR0917 - its servers
    parts: wiring.Parts,
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
        await life.gateway.change_standing(TENANT, StandingMove.SUSPEND)
        await life.until(470)
        assert life.state is State.SUSPENDED
        await life.gateway.change_standing(TENANT, StandingMove.RESUME)
        await life.until(500)
        await life.gateway.change_standing(TENANT, StandingMove.LOCK)
        clock.reach(clock.now() + timedelta(hours=5))
        assert life.state is State.LOCKED
        await life.gateway.change_standing(TENANT, StandingMove.UNLOCK)
        await life.until(600)
        await life.milestone()
        await life.change_root_key(PlatformPlace(), None)
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
