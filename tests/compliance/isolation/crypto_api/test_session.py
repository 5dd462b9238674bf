"""The connections of the control: kept for a while, and never used again when something was the matter with them."""

import time
from collections.abc import Iterator

import pytest

import compliance.isolation.crypto_api.session
from compliance.isolation.crypto_api.model import CryptoApiFailing
from compliance.isolation.crypto_api.session import ProbeSession, SessionPool
from core.errors.platform import VaultUnavailable
from tests.compliance.isolation.crypto_api.doors import Doors, connected, hang_up
from tests.crypto_service.core.world import Home


@pytest.fixture
def kept(doors: Doors) -> Iterator[SessionPool]:
    kept = SessionPool(doors.address)
    yield kept
    hang_up(kept)


def test_the_controls_connections_are_kept_for_a_while_and_never_after_something_failed(
    kept: SessionPool, customer: Home, monkeypatch: pytest.MonkeyPatch
):
    identity = connected(customer, "kept")
    with kept.of(identity) as first, kept.of(identity) as second:
        assert first is not second
        assert first.works()
    with kept.of(identity) as again:
        assert again in (first, second)
    with pytest.raises(VaultUnavailable), kept.of(identity) as failing:
        raise VaultUnavailable
    with kept.of(identity) as other:
        assert other is not failing
    assert not _is_usable(failing)
    monkeypatch.setattr(compliance.isolation.crypto_api.session, "KEPT_SECONDS", 0.0)
    with kept.of(connected(customer, "kept-2")) as short:
        pass
    with kept.of(short.identity) as anew:
        assert anew is not short
    assert not _is_usable(short)


def test_a_connection_that_the_service_closed_is_not_used_again(kept: SessionPool, customer: Home):
    identity = connected(customer, "closed")
    with kept.of(identity) as side:
        assert side.works()
    with customer.world.worker.tenant_tx(customer.tenant_id) as tx:
        tx.services.disconnect("closed")
    end = time.monotonic() + 60
    while side.is_open():
        assert time.monotonic() < end
        time.sleep(0.02)
    with kept.of(identity) as anew:
        assert anew is not side
        assert not anew.works()


def _is_usable(side: ProbeSession) -> bool:
    try:
        return side.works()
    except (OSError, CryptoApiFailing):
        return False
