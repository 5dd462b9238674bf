"""The session pool of positive controls: sessions are reused for a limited time and never after a failure."""

import time
from collections.abc import Iterator

import pytest

import compliance.isolation.crypto_api.session
from compliance.isolation.crypto_api.model import CryptoApiFailing
from compliance.isolation.crypto_api.session import ProbeSession, SessionPool
from core.errors.platform import VaultUnavailable
from tests.compliance.isolation.crypto_api.endpoints import RunningCryptoService, close_sessions, connected
from tests.crypto_service.core.world import Home


@pytest.fixture
def pool(running_service: RunningCryptoService) -> Iterator[SessionPool]:
    pool = SessionPool(running_service.address)
    yield pool
    close_sessions(pool)


def test_pool_reuses_sessions_for_a_limited_time_and_never_after_a_failure(
    pool: SessionPool, customer: Home, monkeypatch: pytest.MonkeyPatch
):
    identity = connected(customer, "pooled")
    with pool.of(identity) as first, pool.of(identity) as second:
        assert first is not second
        assert first.works()
    with pool.of(identity) as again:
        assert again in (first, second)
    with pytest.raises(VaultUnavailable), pool.of(identity) as failing:
        raise VaultUnavailable
    with pool.of(identity) as other:
        assert other is not failing
    assert not _is_usable(failing)
    monkeypatch.setattr(compliance.isolation.crypto_api.session, "KEPT_SECONDS", 0.0)
    with pool.of(connected(customer, "pooled-2")) as short:
        pass
    with pool.of(short.identity) as fresh:
        assert fresh is not short
    assert not _is_usable(short)


def test_pool_does_not_reuse_a_session_that_the_service_closed(pool: SessionPool, customer: Home):
    identity = connected(customer, "closed")
    with pool.of(identity) as side:
        assert side.works()
    with customer.world.worker.tenant_tx(customer.tenant_id) as tx:
        tx.services.disconnect("closed")
    end = time.monotonic() + 60
    while side.is_open():
        assert time.monotonic() < end
        time.sleep(0.02)
    with pool.of(identity) as fresh:
        assert fresh is not side
        assert not fresh.works()


def _is_usable(side: ProbeSession) -> bool:
    try:
        return side.works()
    except (OSError, CryptoApiFailing):
        return False
