"""What was not renewed is put on record, told and tried again, once for each thing and stage."""

from datetime import UTC, datetime, timedelta

import pytest
from structlog.testing import capture_logs

from activities.announcing import Announcer
from activities.expiry import ExpiryActivities
from tenancy.errors import VaultUnavailable
from tenancy.events import Channel
from tenancy.lifecycle import Move
from tenancy.messages import ExpiryResult
from tests.activities.connecting import SERVICE, Connection, connection, operator
from tests.activities.counting import counting
from tests.activities.rolling import Roll
from tests.database.fixtures import Field
from vault.interfaces import PkiRoot
from vault.pki import PkiAuthorities

__all__ = ["connection", "operator"]  # fixtures that pytest finds here by their names

HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.fixture
def roll(connection: Connection, field: Field) -> Roll:
    connection.connect()
    return Roll(connection, field)


def check(roll: Roll) -> ExpiryResult:
    result = roll.tenant.run_platform("check-expiry")
    assert isinstance(result, ExpiryResult)
    return result


def alarms(roll: Roll) -> list[tuple[str, str]]:
    return [
        (record["name"].removeprefix("certificate.expiry_"), record["details"]["kind"])
        for record in roll.tenant.audited()
        if record["name"].startswith("certificate.expiry_")
    ]


class Unavailable:
    """A key server that does not answer."""

    def root(self) -> PkiRoot:
        raise VaultUnavailable


def a_look(roll: Roll, authorities: PkiAuthorities | Unavailable, years: int = 0) -> ExpiryActivities:
    """Return the look as it is made so many years from now."""
    database = roll.tenant.database
    return ExpiryActivities(
        database,
        database,
        authorities,
        Announcer((Channel.EMAIL,), ""),
        lambda: datetime.now(UTC) + years * 365 * DAY,
    )


def told(roll: Roll) -> list[str]:
    with roll.tenant.database.tenant_tx(roll.tenant.tenant_id) as tx:
        kinds = [message.kind.value for message, _ in tx.outbox.all() if message.channel == "email"]
    return [kind for kind in kinds if kind.startswith("expiry")]


def test_what_is_renewed_in_time_is_no_news(roll: Roll) -> None:
    roll.age(59 * HOUR)  # of 72: due for long, and not late
    assert check(roll).services == ()
    assert (alarms(roll), told(roll)) == ([], [])


def test_a_service_that_was_not_renewed_is_told_of_while_its_certificate_still_works_and_again_when_not(
    roll: Roll,
) -> None:
    roll.age(61 * HOUR)
    for _ in range(2):
        (late,) = check(roll).services
        assert (late.tenant_id, late.service, late.generation) == (roll.tenant.tenant_id, SERVICE, 1)
    assert (alarms(roll), told(roll)) == ([("late", "certificate")], ["expiry-late"])
    roll.age(12 * HOUR)
    for _ in range(2):
        assert len(check(roll).services) == 1
    assert alarms(roll) == [("late", "certificate"), ("lapsed", "certificate")]
    assert told(roll) == ["expiry-late", "expiry-lapsed"]
    roll.connection.certify(roll.connection.plan_renewal())
    assert check(roll).services == ()
    roll.tenant.assert_audited_once()


def test_a_disconnected_service_and_a_tenant_that_leaves_are_nobodys_worry(roll: Roll) -> None:
    roll.age(61 * HOUR)
    roll.connection.move(Move.LEAVE)
    assert check(roll).services == ()
    roll.connection.disconnect()
    assert alarms(roll) == []


def test_a_locked_tenants_service_is_told_of_before_it_lapses(roll: Roll) -> None:
    roll.connection.move(Move.LOCK)
    roll.age(61 * HOUR)
    assert len(check(roll).services) == 1
    assert told(roll) == ["expiry-late"]


def test_an_authority_and_a_list_that_were_not_renewed_are_told_of(roll: Roll) -> None:
    roll.publish()
    roll.age(21 * HOUR)
    check(roll)
    assert (alarms(roll), told(roll)) == ([("late", "revocation-list")], [])
    roll.connection.disconnect()
    roll.age(310 * DAY)
    check(roll)
    assert set(alarms(roll)) == {("late", "revocation-list"), ("lapsed", "revocation-list"), ("late", "authority")}
    assert told(roll) == ["expiry-late"]


@pytest.mark.parametrize(
    ("years", "found"), [(1, []), (9, [("root", "late")]), (11, [("root", "lapsed")])], ids=["fresh", "late", "lapsed"]
)
def test_the_pki_root_is_counted_and_logged_and_no_tenant_is_told(
    roll: Roll, years: int, found: list[tuple[str, str]]
) -> None:
    with capture_logs() as logs:
        counted = counting(a_look(roll, PkiAuthorities(roll.tenant.parts.vault), years).check_expiry)
    assert [(one["kind"], one["stage"]) for one in counted.of("openkcm_not_renewed") if one["kind"] == "root"] == found
    assert [line["stage"] for line in logs if line["event"] == "pki root not renewed"] == [stage for _, stage in found]
    assert "root" not in {kind for _, kind in alarms(roll)}


def test_a_key_server_that_is_down_hides_nothing_of_what_is_late(roll: Roll) -> None:
    roll.age(61 * HOUR)
    counted = counting(a_look(roll, Unavailable()).check_expiry)
    assert counted.of("openkcm_not_renewed") == [{"kind": "certificate", "stage": "late"}]
    assert alarms(roll) == [("late", "certificate")]


def test_dying_between_the_record_and_the_message_loses_neither(roll: Roll) -> None:
    roll.age(61 * HOUR)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("activities.announcing.Announcer.store", _dies)
        with pytest.raises(ZeroDivisionError):
            check(roll)
    assert alarms(roll) == []
    check(roll)
    assert (alarms(roll), told(roll)) == ([("late", "certificate")], ["expiry-late"])


def _dies(*_: object) -> bool:
    raise ZeroDivisionError
