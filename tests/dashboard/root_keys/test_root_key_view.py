"""Texts about a customer's root key: every failure, the grace period, a running and a completed change."""

from datetime import timedelta

import pytest

from core.errors.keys import CustomerKeyError
from core.keys.root_keys import RootKeyMode, parse_place
from core.tenants.lifecycle import State
from core.tenants.locks import OUT_OF_REACH, LockReason, requires_lock
from dashboard.components.tenant_status import Severity, sentence
from dashboard.root_keys import view as root_key
from dashboard.status.view import notices
from database.root_keys import RootKeyVersionsRow
from database.tenants import TenantRow
from tests.dashboard.held import KEY_ARN, NOW, a_change, a_held_key
from tests.dashboard.held import TENANT as PLATFORM

GRACE = 60.0
TENANT = PLATFORM._replace(root_key_mode="aws-kms")
GONE = TENANT._replace(state=State.LOCKED, locks=(LockReason.ROOT_KEY,))
BOTH = TENANT._replace(state=State.LOCKED, locks=(LockReason.ROOT_KEY, LockReason.MANUAL))
SWITCHED = TENANT._replace(state=State.LOCKED, locks=(LockReason.MANUAL,))
CODES = sorted(root_key.PROBLEMS)


def how(tenant: TenantRow, health: str, since: float = 20.0) -> root_key.Health:
    found = root_key.health(tenant, a_held_key(health, timedelta(seconds=since)), GRACE, NOW)
    assert found is not None
    return found


def test_the_effect_depends_on_the_lock_and_the_grace_period() -> None:
    assert len(CODES) >= 12
    assert set(CODES) >= OUT_OF_REACH
    assert all(issubclass(kind, CustomerKeyError) for kind in root_key.PROBLEMS.values())
    assert "locked now" in how(TENANT, "root_key_timeout", 61).meanwhile
    assert "locked until the root key works again" in how(GONE, "root_key_disabled").meanwhile
    assert "Nothing can be decrypted in this tenant state" in how(SWITCHED, "root_key_disabled").meanwhile
    assert "root_key_new" in how(TENANT, "root_key_new").title
    assert "can only replace its credentials" in root_key.only_credentials(GONE)
    assert not root_key.only_credentials(GONE._replace(state=State.ACTIVE, locks=()))
    [said] = notices(GONE, a_held_key(), GRACE, NOW)
    assert "Healthy" not in said.advice
    assert "The root key is" not in said.advice


@pytest.mark.parametrize("code", CODES)
def test_each_failure_has_its_own_text_with_the_effect_on_services(code: str) -> None:
    kind, said = root_key.PROBLEMS[code], how(TENANT, code)
    assert said.title == sentence(kind.message)
    assert said.advice == sentence(kind.hint)
    assert said.since == "Since 25 Nov 2026, 11:59 UTC (20 seconds ago)."
    assert root_key.NO_FALLBACK in said.meanwhile
    assert (said.tone is Severity.WARNING) is kind.retryable
    assert ("the tenant is locked in 40 s" in said.meanwhile) is kind.retryable
    assert ("being locked immediately" in said.meanwhile) is requires_lock(code, 0.0, GRACE)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("tenant", [TENANT, GONE, BOTH, SWITCHED, TENANT._replace(state=State.SUSPENDED)])
def test_every_failure_is_in_the_notices_and_none_is_good(code: str, tenant: TenantRow) -> None:
    said = notices(tenant, a_held_key(code), GRACE, NOW)
    assert said
    assert {one.tone for one in said} <= {Severity.WARNING, Severity.BAD}
    if LockReason.ROOT_KEY in tenant.locks or tenant.state is not State.LOCKED:
        assert any(sentence(root_key.PROBLEMS[code].message) in f"{one.meaning} {one.advice}" for one in said)


def test_a_healthy_key_and_the_platforms_key_need_no_notice() -> None:
    assert how(TENANT, "ok").tone is Severity.GOOD
    assert notices(TENANT, a_held_key(), GRACE, NOW) == ()
    assert root_key.health(TENANT, None, GRACE, NOW) is None
    assert notices(PLATFORM._replace(root_key_mode="platform"), None, GRACE, NOW) == ()


@pytest.mark.parametrize(
    ("tenant", "unlocks"),
    [
        (SWITCHED, "Only a key administrator can unlock the tenant, at the top of any page."),
        (GONE, "unlocks automatically within seconds when the root key works again"),
        (BOTH, "Both are required"),
    ],
)
def test_a_lock_shows_its_reason_and_what_unlocks_it(tenant: TenantRow, unlocks: str) -> None:
    [said] = notices(tenant, a_held_key("root_key_disabled"), GRACE, NOW)
    assert unlocks in said.advice
    assert "Nothing is destroyed." in said.advice
    assert ("The root key is disabled." in said.advice) is (LockReason.ROOT_KEY in tenant.locks)


@pytest.mark.parametrize(
    ("total", "wrapped", "share", "words"),
    [
        (0, 0, 0.0, "Checking the new root key"),
        (1000, 340, 0.34, "340 of 1,000 key versions are wrapped"),
        (1, 0, 0.0, "0 of 1 key version is wrapped"),
        (1000, 1000, 1.0, "re-wrapped; switching"),
    ],
)
def test_a_running_change_shows_its_progress(total: int, wrapped: int, share: float, words: str) -> None:
    found = root_key.progress(a_change(total=total, wrapped=wrapped))
    assert found is not None
    assert found.share == share
    assert words in found.words
    assert root_key.progress(None) is root_key.progress(a_change("done")) is None


def test_the_last_change_is_the_newest_completed_one() -> None:
    assert root_key.last_change([a_change()], NOW) == "Never changed."
    done = root_key.last_change([a_change(), a_change("done")], NOW)
    assert "from Platform-Managed (default) to Your own key in AWS KMS (BYOK), 1,000 versions of service keys" in done
    failed = root_key.last_change([a_change("failed", problem="root_key_denied")], NOW)
    assert "without effect" in failed
    assert "Access to the root key is denied." in failed
    assert "vault_refused" in root_key.last_change([a_change("failed", problem="vault_refused")], NOW)


@pytest.mark.parametrize("state", list(State))
def test_a_change_is_offered_only_where_service_keys_can_be_unwrapped(state: State) -> None:
    why = root_key.why_no_change(TENANT._replace(state=state), None)
    assert (why == "") is (state in {State.ACTIVE, State.SUSPENDED})
    assert "has ended" in root_key.why_no_change(TENANT, a_change())


@pytest.mark.parametrize(
    ("hint", "words", "code"),
    [
        ("enable it", "enable it", ""),
        ('add to the key\'s policy: {"Sid": "A"}', "add to the key's policy:", '{"Sid": "A"}'),
        (
            'let the policy say: path "a" { capabilities = ["read"] } path "b" { capabilities = ["read"] }',
            "let the policy say:",
            'path "a" { capabilities = ["read"] }\npath "b" { capabilities = ["read"] }',
        ),
    ],
)
def test_a_hint_is_split_into_text_and_code(hint: str, words: str, code: str) -> None:
    assert root_key.hint_parts(hint) == (words, code)


def test_a_versioned_key_shows_its_version_and_older_wraps() -> None:
    assert root_key.versions(None) == ""
    whole = root_key.versions(RootKeyVersionsRow(newest=2, older=0, wraps=5))
    assert whole == "Version 2 is in use. No wrap uses an older version."
    one = root_key.versions(RootKeyVersionsRow(newest=2, older=1, wraps=5))
    assert one.startswith("Version 2 is in use. 1 wrap uses an older version.")
    more = root_key.versions(RootKeyVersionsRow(newest=2, older=1200, wraps=5000))
    assert "1,200 wraps use an older version." in more
    assert "Do not disable an older version before that." in more


PLACES = [
    (
        {"provider": "aws-kms", "key_arn": KEY_ARN},
        "Root key: AWS KMS in eu-west-1, your account 111122223333.",
    ),
    ({"provider": "pkcs11", "token": "acme", "key": "root"}, "Root key: your HSM."),
    ({"provider": "openbao", "address": "https://bao.acme.example", "key": "root"}, "Root key: your key server."),
]


@pytest.mark.parametrize(("place", "said"), PLACES)
def test_each_provider_says_where_the_root_key_and_where_the_other_keys_are(place: dict[str, str], said: str) -> None:
    parsed = parse_place(place)
    tenant = PLATFORM._replace(root_key_mode=place["provider"])
    name, words = root_key.where(tenant, a_held_key(mode=RootKeyMode(place["provider"]), name="n", place=parsed))
    assert words.startswith(said)
    assert "Tenant key: key server of the platform in eu-west-1." in words
    assert "Root key: key server of the platform" not in words
    assert name


def test_the_platforms_root_key_is_in_the_region() -> None:
    assert root_key.where(PLATFORM, None)[1].startswith("Root key: key server of the platform in eu-west-1.")
    assert set(root_key.WITHDRAWAL) == set(RootKeyMode)
