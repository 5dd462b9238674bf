"""Texts about offboarding, and about tenant CAs, without a database."""

import pytest

from core.certificates import AuthorityState
from core.keys.rotation import KeyState
from core.tenants.lifecycle import State
from core.tenants.offboarding import KEPT
from dashboard.certificates import view as authorities
from dashboard.offboarding import view as leaving
from dashboard.status.view import notices
from database.certificates import AuthorityRow
from database.keys import KeyRow, KeyVersionRow
from database.offboarding import ErasureCertificateRow, KeyToDestroyRow, OffboardingRow
from tests.dashboard.held import DAY, NOW
from tests.dashboard.held import TENANT as ENABLED

TENANT = ENABLED._replace(state=State.LEAVING)
LEFT = OffboardingRow(State.LEAVING, NOW - DAY, NOW + 29 * DAY, State.ACTIVE, None, None, {})


def test_every_page_shows_until_when_a_tenant_can_be_restored() -> None:
    [said] = notices(TENANT, None, 60.0, NOW, LEFT)
    assert said.title == "Offboarding: restorable until 24 Dec 2026, 12:00 UTC (in 29 days)"
    assert "nothing is destroyed" in said.meaning
    assert leaving.is_restorable(LEFT)


def test_after_the_grace_period_a_restore_is_not_offered() -> None:
    begun = LEFT._replace(destroying_at=NOW)
    [said] = notices(TENANT, None, 60.0, NOW, begun)
    assert said.title == "Destroying keys"
    assert "The tenant can no longer be restored." in said.advice
    assert not leaving.is_restorable(begun)
    assert not leaving.is_restorable(None)
    assert not leaving.is_restorable(LEFT._replace(state=State.ACTIVE))


def test_an_offboarding_without_a_grace_period_mentions_none() -> None:
    at_once = LEFT._replace(since=NOW, until=NOW)
    assert not leaving.is_restorable(at_once)
    for row in (at_once, at_once._replace(destroying_at=NOW)):
        [said] = notices(TENANT, None, 60.0, NOW, row)
        assert said.title == "Destroying keys"
        assert "Offboarded without a grace period" in said.meaning
        assert "cannot be restored" in said.advice
    gone = at_once._replace(state=State.OFFBOARDED, offboarded_at=NOW)
    [first, *_] = leaving.summary(gone, None, NOW)
    assert first == "Offboarded 25 Nov 2026, 12:00 UTC (just now), without a grace period."


@pytest.mark.parametrize("state", list(State))
def test_a_tenant_can_be_offboarded_after_activation_or_a_failed_provisioning(state: State) -> None:
    may = leaving.may_leave(TENANT._replace(state=state))
    assert may is (state in {State.FAILED, State.ACTIVE, State.SUSPENDED, State.LOCKED})


def test_the_dry_run_lists_keys_and_counts_the_rest() -> None:
    l2 = KeyRow("L2-acme-primary", "L2", 2, NOW, 2, NOW)
    versions = [
        KeyVersionRow("orders", number, l2.name, "platform", "root", NOW, state)
        for number, state in enumerate((KeyState.DESTROYED, KeyState.DEACTIVATED, KeyState.ACTIVE), start=1)
    ]
    assert leaving.keys_to_destroy([l2], versions) == ("Tenant key `L2-acme-primary`", "Key of **orders**, 2 versions")
    many = [versions[2]._replace(service=f"service-{number}") for number in range(30)]
    assert leaving.keys_to_destroy([l2], many)[-1] == "and 11 more keys"
    assert leaving.until(30, NOW) == "25 Dec 2026, 12:00 UTC (in 30 days)"


def test_the_summary_of_an_offboarded_tenant_is_complete() -> None:
    gone = LEFT._replace(state=State.OFFBOARDED, offboarded_at=NOW, erased={"service": 2, "route": 1})
    said = "\n".join(leaving.summary(gone, ErasureCertificateRow("{}", "s", "audit-checkpoints:1", NOW), NOW))
    assert "Offboarded 25 Nov 2026, 12:00 UTC (just now)" in said
    assert "after a grace period that began 24 Nov 2026, 12:00 UTC (1 day ago)." in said
    assert "can never be decrypted again" in said
    assert "3 rows about the tenant were erased" in said
    assert "`audit-checkpoints:1`" in said
    rows = [KeyToDestroyRow("service key", f"orders {number}", "1", "a" * 64) for number in (1, 2)]
    assert leaving.destroyed([*rows, KeyToDestroyRow("L2 tenant key", "L2", "1", "a" * 64)]) == (
        "1 L2 tenant key and 2 service keys"
    )
    assert len(leaving.stays()) == len(KEPT)


def an_authority(serial: str, state: AuthorityState) -> AuthorityRow:
    return AuthorityRow(serial, "certificate", "chain", NOW + 365 * DAY, state=state)


def test_authorities_show_the_issuer_and_how_long_the_former_is_trusted() -> None:
    rows = [an_authority("0b", AuthorityState.CURRENT), an_authority("0a", AuthorityState.FORMER)]
    current, former = authorities.lines([*rows, an_authority("09", AuthorityState.ENDED)], {"0a": NOW + DAY}, NOW)
    assert current == ("**Current**: `0b` issues every certificate; expires 25 Nov 2027, 12:00 UTC (in 365 days).")
    assert "until the last one expires, 26 Nov 2026, 12:00 UTC (in 1 day)" in former
    active = TENANT._replace(state=State.ACTIVE)
    assert "still has valid certificates" in authorities.why_not(active, rows)
    assert authorities.why_not(active, rows[:1]) == ""
    assert "while the tenant is offboarding" in authorities.why_not(TENANT, rows[:1])
    [over] = authorities.lines(rows[1:], {}, NOW)
    assert "removed within the hour" in over
