"""Late renewals are recorded, notified and retried, once for each item and stage."""

from datetime import UTC, datetime, timedelta

import pytest
from structlog.testing import capture_logs

from activities.certificates.expiry import ExpiryActivities
from activities.notifications import NotificationOutbox
from core.errors.platform import VaultUnavailable
from core.messages.services import ExpiryResult
from core.notifications import Channel
from core.tenants.lifecycle import Transition
from database.platform.scheduled import PlatformQueries
from openkcm.contract.audit_events import AuditName
from tests.activities.certificates.rolling import Roll
from tests.activities.counting import UNCOUNTED, counting
from tests.activities.services.connecting import SERVICE
from vault.pki.authorities import PkiAuthorities
from vault.pki.certificates import PkiRoot

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def check(roll: Roll) -> ExpiryResult:
    return roll.tenant.run_platform("check-expiry")


STAGES = {AuditName.EXPIRY_LATE: "late", AuditName.EXPIRY_LAPSED: "lapsed"}


def alarms(roll: Roll) -> list[tuple[str, str]]:
    return [
        (STAGES[record["name"]], record["details"]["kind"])
        for record in roll.records("certificate.")
        if record["name"] in STAGES
    ]


class Unavailable:
    """An unreachable key server."""

    def root(self) -> PkiRoot:
        raise VaultUnavailable


def a_look(roll: Roll, authorities: PkiAuthorities | Unavailable, years: int = 0) -> ExpiryActivities:
    """Return the check with a clock `years` ahead."""
    database = roll.tenant.database
    announcer = NotificationOutbox((Channel.EMAIL,), "")
    return ExpiryActivities(
        database,
        PlatformQueries(database),
        authorities,
        announcer,
        lambda: datetime.now(UTC) + years * 365 * DAY,
        UNCOUNTED,
    )


def notifications(roll: Roll) -> list[str]:
    sent = roll.read(lambda tx: [(one.kind.value, one.channel) for one, _ in tx.outbox.all()])
    return [kind for kind, channel in sent if channel == "email" and kind.startswith("certificate-")]


def test_late_renewal_is_notified_before_and_after_the_expiry(roll: Roll) -> None:
    roll.age(59 * HOUR)  # of 72: due since a while, and not late
    assert check(roll).services == ()
    assert (alarms(roll), notifications(roll)) == ([], [])
    roll.age(2 * HOUR)
    for _ in range(2):
        (late,) = check(roll).services
        assert (late.tenant_id, late.service, late.generation) == (roll.tenant_id, SERVICE, 1)
    assert (alarms(roll), notifications(roll)) == ([("late", "certificate")], ["certificate-renewal-overdue"])
    roll.age(12 * HOUR)
    for _ in range(2):
        assert len(check(roll).services) == 1
    assert alarms(roll) == [("late", "certificate"), ("lapsed", "certificate")]
    assert notifications(roll) == ["certificate-renewal-overdue", "certificate-expired"]
    roll.connection.certify(roll.connection.plan_renewal())
    assert check(roll).services == ()
    roll.tenant.assert_audited_once()


def test_expiry_is_notified_for_a_locked_and_not_for_an_offboarding_tenant(roll: Roll) -> None:
    roll.connection.move(Transition.LOCK)
    roll.age(61 * HOUR)
    assert len(check(roll).services) == 1
    assert notifications(roll) == ["certificate-renewal-overdue"]
    roll.connection.move(Transition.LEAVE)
    roll.age(12 * HOUR)
    assert check(roll).services == ()
    roll.connection.disconnect()
    assert check(roll).services == ()
    assert alarms(roll) == [("late", "certificate")]


def test_late_ca_and_crl_are_recorded(roll: Roll) -> None:
    roll.publish()
    roll.age(21 * HOUR)
    check(roll)
    assert (alarms(roll), notifications(roll)) == ([("late", "revocation-list")], [])
    roll.connection.disconnect()
    roll.age(310 * DAY)
    check(roll)
    assert set(alarms(roll)) == {("late", "revocation-list"), ("lapsed", "revocation-list"), ("late", "authority")}
    assert notifications(roll) == ["certificate-renewal-overdue"]


@pytest.mark.parametrize(
    ("years", "found"), [(1, []), (9, [("root", "late")]), (11, [("root", "lapsed")])], ids=["fresh", "late", "lapsed"]
)
def test_late_pki_root_is_counted_and_logged_and_no_tenant_is_notified(roll, years, found) -> None:
    with capture_logs() as logs:
        counted = counting(a_look(roll, PkiAuthorities(roll.tenant.parts.vault), years).check_expiry)
    assert [
        (one["kind"], one["stage"]) for one in counted.of("openkcm_certificates_unrenewed") if one["kind"] == "root"
    ] == found
    assert [line["stage"] for line in logs if line["event"] == "pki root not renewed"] == [stage for _, stage in found]
    assert "root" not in {kind for _, kind in alarms(roll)}


def test_unreachable_key_server_hides_no_late_renewal(roll: Roll) -> None:
    roll.age(61 * HOUR)
    counted = counting(a_look(roll, Unavailable()).check_expiry)
    assert counted.of("openkcm_certificates_unrenewed") == [{"kind": "certificate", "stage": "late"}]
    assert alarms(roll) == [("late", "certificate")]


def test_crash_between_record_and_notification_loses_neither(roll: Roll) -> None:
    roll.age(61 * HOUR)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("activities.notifications.NotificationOutbox.store", _crash)
        with pytest.raises(SystemExit):
            check(roll)
    assert alarms(roll) == []
    check(roll)
    assert (alarms(roll), notifications(roll)) == ([("late", "certificate")], ["certificate-renewal-overdue"])


def _crash(*_: object) -> bool:
    raise SystemExit
