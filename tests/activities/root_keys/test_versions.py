"""A root key has a new version at its holder: the platform detects it and re-encrypts every wrap under it.

A second OpenBao is the customer's; the first has the platform's root key.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import pytest

from core import names as ids
from core.errors.keys import RootKeyDisabled, RootKeyServerError
from core.keys.rotation import KeyState, RotationScope
from core.messages.keys import PlanRotationStep, RotationPlan, WatchRootKeysInput
from core.tenants.lifecycle import Transition
from core.tenants.locks import HEALTHY, LockReason
from database.root_keys import RootKeyVersionsRow
from tests.activities.counting import run_until
from tests.activities.dying import crashes_after
from tests.activities.provisioning import REGION
from tests.activities.root_keys.changing import SERVICES
from tests.activities.rotation.rotating import Rotating
from tests.kms.customer_openbao import CustomerOpenBao
from tests.vault.server import Server
from vault.auth.client import TokenSession

_numbers = itertools.count(1)
FOLLOWING = ("rewrap-keys", "finish-rotation")


@dataclass
class Following:
    """A tenant whose root key is in Transit; `holder` is the administrator of that server."""

    rotating: Rotating
    holder: TokenSession
    key: str
    bao: CustomerOpenBao | None = None

    def make_version(self) -> None:
        self.holder.write(f"transit/keys/{self.key}/rotate")

    def end_versions_before(self, version: int) -> None:
        self.holder.write(f"transit/keys/{self.key}/config", {"min_decryption_version": version})

    def look(self) -> tuple[str, ...]:
        """Run the platform's hourly check; returns the tenants that it signals."""
        return tuple(self.rotating.tenant.run_platform("detect-root-key-versions").tenants)

    def plan(self) -> tuple[PlanRotationStep, RotationPlan]:
        """Plan the due rotation, which rotates nothing else."""
        request = self.rotating.due()
        assert request is not None
        assert (request.services, request.tenant_key, request.compromised) == (RotationScope.NONE, False, False)
        step = self.rotating.wants(services=RotationScope.NONE, tenant_key=False)
        plan: RotationPlan = self.rotating.step_of("plan-rotation", step)
        assert (plan.services, plan.retires, plan.destroys, plan.follows) == (0, False, False, True)
        return step, plan

    def follow(self) -> PlanRotationStep:
        """Run the steps of the due rotation as the workflow does."""
        step, _ = self.plan()
        for name in FOLLOWING:
            self.rotating.step_of(name, step)
        return step

    @property
    def versions(self) -> RootKeyVersionsRow:
        return self.rotating.get(lambda tx: tx.root_keys.versions())

    def watch(self, tries: int | None = 2) -> tuple[str, ...]:
        """Run the monitoring of the root key of used services; return the tenants that it reports."""
        with self.rotating.opener.database.tenant_tx(self.rotating.tenant_id) as tx:
            tx.services.seen(["orders"], datetime.now(UTC))
        assert self.bao is not None
        bao, began = self.bao, self.bao.log.stat().st_size
        activity = next(a for a in self.rotating.tenant.parts.lifecycle if a.__name__ == "watch_root_keys")

        def has_tried() -> bool:
            return tries is not None and bao.count("decrypt", self.key, began) >= tries

        return tuple(run_until(has_tried, activity, WatchRootKeysInput(region=REGION)).tenants)


@pytest.fixture
def following(rotating: Rotating, bao: CustomerOpenBao) -> Iterator[Following]:
    """Return a tenant under a separate key in the customer's OpenBao, at its first version."""
    key = f"follow-{next(_numbers)}"
    bao.make_key(key)
    rotating.to(bao.place(key), bao.token())
    yield Following(rotating, bao.admin, key, bao)
    bao.allow()


@pytest.fixture
def of_platform(rotating: Rotating, vault_admin: TokenSession) -> Following:
    """Return a tenant under the platform's root key of the region."""
    return Following(rotating, vault_admin, ids.root_key(REGION))


def test_rotation_follows_a_customers_new_version_and_the_older_ones_can_be_disabled(following: Following) -> None:
    rotating, before = following.rotating, following.rotating.opened()
    following.watch()
    assert following.versions == RootKeyVersionsRow(newest=1, older=0, wraps=len(SERVICES) + 1)
    following.make_version()
    for _ in range(2):
        assert following.look() == (rotating.tenant_id,)
    assert following.versions == RootKeyVersionsRow(newest=2, older=len(SERVICES) + 1, wraps=len(SERVICES) + 1)
    step = following.follow()
    assert following.versions == RootKeyVersionsRow(newest=2, older=0, wraps=len(SERVICES) + 1)
    following.end_versions_before(2)
    assert rotating.opened() == before
    # The monitoring has cached the former ciphertext, with which the key would appear disabled now.
    assert following.watch() == ()
    assert rotating.current.health == HEALTHY
    assert (following.look(), following.rotating.due()) == ((), None)
    assert rotating.rotation(step.number).wanted.root_key_version == 2
    assert (rotating.rotation(step.number).done, rotating.rotation(step.number).state) == (3, "done")
    rotating.assert_whole()
    for name in ("root_key.version_detected", "root_key.version_adopted"):
        assert [outcome for _, outcome in rotating.audited(name)] == ["success"]
    [intended] = rotating.records("key.rotated", "intended")
    assert intended["details"]["root_key"] == "version 2 is followed"
    assert intended["details"]["tenant_key"] == "kept"
    rotating.tenant.assert_audited_once()
    assert "keys-rotated" in rotating.announced()


def test_rotation_follows_a_new_version_of_the_platforms_root_key(of_platform: Following, key_server: Server) -> None:
    assert key_server.url
    before, versions = of_platform.rotating.opened(), of_platform.versions
    assert of_platform.look() == ()
    of_platform.make_version()
    assert of_platform.look() == (of_platform.rotating.tenant_id,)
    of_platform.follow()
    assert of_platform.versions == RootKeyVersionsRow(newest=versions.newest + 1, older=0, wraps=len(SERVICES))
    of_platform.end_versions_before(versions.newest + 1)
    assert of_platform.rotating.opened() == before


def test_unchanged_version_starts_no_rotation(following: Following) -> None:
    wraps = following.rotating.rows("select wrapped from okcm.service_key order by service")
    assert (following.look(), following.rotating.due()) == ((), None)
    plan = following.rotating.step_of(
        "plan-rotation", following.rotating.wants(services=RotationScope.NONE, tenant_key=False)
    )
    assert not plan.follows
    assert following.rotating.rows("select wrapped from okcm.service_key order by service") == wraps
    assert following.rotating.rows("select root_key_newest from okcm.tenant") == [(None,)]


def test_canary_ciphertext_of_a_tenant_without_services_is_rewrapped(following: Following) -> None:
    """Otherwise the end of an older version would appear as a key disabled by the customer."""
    with following.rotating.database.raw_tx(following.rotating.tenant_id) as connection:
        connection.execute("update okcm.service_key set state = 'destroyed', wrapped = null")
    following.make_version()
    assert following.look() == (following.rotating.tenant_id,)
    following.follow()
    following.end_versions_before(2)
    assert following.watch() == ()


def test_versions_created_during_a_rotation_are_followed_by_it_or_the_next_one(following: Following) -> None:
    rotating = following.rotating
    following.make_version()
    following.look()
    step, _ = following.plan()
    following.make_version()
    rotating.add_service("payroll")
    for name in FOLLOWING:
        rotating.step_of(name, step)
    versions = rotating.rows("select distinct root_key_version from okcm.service_key")
    assert versions == [(3,)], "every wrap has the newest version, also an undetected one"
    assert following.look() == ()


def test_rotation_of_all_keys_follows_the_root_key_too(following: Following) -> None:
    rotating = following.rotating
    before = rotating.opened()
    following.make_version()
    following.look()
    rotating.rotate(rotating.wants())
    assert (following.versions.newest, following.versions.older) == (2, 0)
    following.end_versions_before(2)
    assert before.items() <= rotating.opened().items()


def test_unreachable_key_does_not_fail_the_check_and_is_checked_again(following, bao) -> None:
    following.make_version()
    with bao.allowing(()):
        assert following.look() == ()
    with bao.down():
        assert following.look() == ()
    assert following.rotating.rows("select root_key_newest from okcm.tenant") == [(None,)]
    assert following.look() == (following.rotating.tenant_id,)


@pytest.mark.parametrize("standing", ["suspended", "locked", "offboarding"])
def test_suspended_tenant_is_followed_and_an_inactive_one_is_not(following: Following, standing: str) -> None:
    rotating = following.rotating
    following.make_version()
    if standing == "locked":
        rotating.hold(LockReason.MANUAL)
    else:
        rotating.connection.move(Transition.SUSPEND if standing == "suspended" else Transition.LEAVE)
    assert following.look() == ((rotating.tenant_id,) if standing == "suspended" else ())
    if standing == "locked":
        rotating.release(LockReason.MANUAL)
        assert following.look() == (rotating.tenant_id,)
    if standing != "offboarding":
        following.follow()


def test_outdated_server_fails_the_attempt_and_replaces_nothing(following: Following) -> None:
    """The server is a node without the newest version, or its key was restored from a backup."""
    rotating = following.rotating
    current = rotating.current
    with rotating.database.tenant_tx(rotating.tenant_id) as tx:
        tx.tenants.lock()
        assert tx.root_keys.notice(current.root_key_id, 9)
    wraps = rotating.rows("select wrapped from okcm.service_key order by service")
    step, _ = following.plan()
    with pytest.raises(RootKeyServerError, match="older version than 9"):
        rotating.step_of("rewrap-keys", step)
    assert rotating.rows("select wrapped from okcm.service_key order by service") == wraps
    rotating.give_up(step, RootKeyServerError.code, "rewrap-keys")
    assert following.look() == ()
    assert following.rotating.due() is None, "the current version of the key counts"


def test_revoked_key_ends_the_rotation_and_the_next_check_repeats_it(following, bao) -> None:
    rotating, before = following.rotating, following.rotating.opened()
    following.make_version()
    following.look()
    step, _ = following.plan()
    with bao.disabled(following.key), pytest.raises(RootKeyDisabled):
        rotating.step_of("rewrap-keys", step)
    rotating.give_up(step, RootKeyDisabled.code, "rewrap-keys")
    assert following.look() == (rotating.tenant_id,)
    following.follow()
    following.end_versions_before(2)
    assert rotating.opened() == before


@pytest.mark.parametrize(
    "crashing_step",
    [
        *(pytest.param(name, marks=pytest.mark.full) for name in ("plan-rotation", "rewrap-keys")),
        "finish-rotation",
    ],
)
def test_retry_completes_a_step_that_crashed_after_an_effect(following: Following, crashing_step: str) -> None:
    rotating, before = following.rotating, following.rotating.opened()
    crashed, effect, version = True, 0, 1
    while crashed:
        effect, version = effect + 1, version + 1
        following.make_version()
        assert following.look() == (rotating.tenant_id,)
        step, crashed = rotating.wants(services=RotationScope.NONE, tenant_key=False), False
        for name in ("plan-rotation", *FOLLOWING):
            if name == crashing_step:
                crashed = crashes_after(rotating.tenant, effect, partial(rotating.step_of, name, step))
                assert rotating.opened() == before
            rotating.step_of(name, step)
        assert following.versions == RootKeyVersionsRow(newest=version, older=0, wraps=len(SERVICES) + 1)
        following.end_versions_before(version)
        assert rotating.opened() == before
        assert set(rotating.states().values()) == {KeyState.ACTIVE}
    assert following.watch() == ()
    rotating.tenant.assert_audited_once()


def test_crash_during_the_check_is_completed_by_the_next_check(following: Following) -> None:
    following.make_version()
    crashed, effect = True, 0
    while crashed:
        effect += 1
        crashed = crashes_after(following.rotating.tenant, effect, following.look)
    assert following.look() == (following.rotating.tenant_id,)
    assert len(following.rotating.audited("root_key.version_detected")) == 1


def test_monitoring_continues_after_a_rotation_of_the_tenant_key(following: Following, bao: CustomerOpenBao) -> None:
    """The cached credentials were encrypted under a version of the tenant key that is retired now."""
    rotating = following.rotating
    assert following.watch() == ()
    rotating.rotate(rotating.wants(services=RotationScope.NONE))
    assert following.watch() == ()
    with bao.disabled(following.key):
        assert following.watch(None) == (rotating.tenant_id,)
    assert rotating.current.health == RootKeyDisabled.code
