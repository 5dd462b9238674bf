"""The servers' time replaces a wrong machine clock, also for the validation of a server certificate."""

from datetime import UTC, datetime, timedelta

import pytest

from openkcm.agent.renewal import Connection
from openkcm.agent.schedule import ServerClock
from openkcm.credentials.store import CredentialStore
from openkcm.sdk.errors import Unavailable
from tests.client.agent.control import SERVICE, TENANT
from tests.crypto_service.authority import _authority
from tests.crypto_service.https.stage import Stage

REAL = datetime(2026, 11, 26, 12, tzinfo=UTC)
DATE_HEADER = "Thu, 26 Nov 2026 12:00:00 GMT"


class Machine:
    def __init__(self) -> None:
        self.shown, self.up = REAL, 0.0

    def passes(self, seconds: float) -> None:
        self.shown += timedelta(seconds=seconds)
        self.up += seconds


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def clock(machine: Machine) -> ServerClock:
    return ServerClock(lambda: machine.shown, lambda: machine.up)


def test_machine_clock_is_used_until_a_server_reports_the_time(machine: Machine, clock: ServerClock):
    machine.shown += timedelta(hours=9)
    assert clock.now() == machine.shown
    assert clock.wrong_by() is None
    clock.learn(DATE_HEADER)
    assert clock.now() == REAL
    assert clock.wrong_by() == timedelta(hours=9)


def test_server_time_advances_for_a_day_independent_of_the_machine_clock(machine, clock):
    clock.learn(DATE_HEADER)
    machine.passes(3600)
    machine.shown -= timedelta(days=400)
    assert clock.now() == REAL + timedelta(hours=1)
    assert clock.wrong_by() == -timedelta(days=400)
    machine.passes(24 * 3600)
    assert clock.now() == machine.shown
    assert clock.wrong_by() is None


def test_small_offset_is_not_a_wrong_clock(machine: Machine, clock: ServerClock):
    machine.shown += timedelta(seconds=59)
    clock.learn(DATE_HEADER)
    assert clock.wrong_by() is None


def test_invalid_date_header_is_ignored(machine: Machine, clock: ServerClock):
    machine.shown += timedelta(hours=9)
    for text in ("", "yesterday", "Thu, 99 Nov 2026 12:00:00 GMT", "\0", "Thu, 26 Nov 2026 12:00:00"):
        clock.learn(text)
        assert clock.wrong_by() is None, text


def _ask(stage: Stage, clock: ServerClock, host: str = "localhost") -> dict[str, object]:
    connection = Connection(CredentialStore(stage.folder, TENANT, SERVICE), clock)
    connection.use(f"https://{host}:{stage.port}")
    try:
        return connection.newest_certificate()
    finally:
        connection.close()


def _at(moment: datetime) -> ServerClock:
    return ServerClock(lambda: moment, lambda: 0.0)


@pytest.mark.integration
@pytest.mark.parametrize("days", [-100, 100])
def test_server_certificate_outside_its_validity_period_is_rejected(stage: Stage, days: int):
    with pytest.raises(Unavailable):
        _ask(stage, _at(datetime.now(UTC) + timedelta(days=days)))
    assert stage.certificates.asked == []
    assert "certificate" in _ask(stage, _at(datetime.now(UTC)))


@pytest.mark.integration
def test_name_and_ca_of_the_server_certificate_are_still_verified(stage: Stage):
    now = _at(datetime.now(UTC))
    with pytest.raises(Unavailable):
        _ask(stage, now, "127.0.0.2")  # not a name in its certificate
    (stage.folder / "ca.pem").write_text(_authority("Another root", None, None).pem)
    with pytest.raises(Unavailable):
        _ask(stage, now)
    assert stage.certificates.asked == []
