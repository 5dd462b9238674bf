"""The list of protected fields: loaded from a real HTTPS server with mTLS, refreshed in the background, kept."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from core.tenants.lifecycle import State
from database.services.protected_fields import ProtectionRow
from openkcm.contract.protected_fields import Mode, ProtectedField, Store
from openkcm.field_encryption.protected_fields import ProtectionUnreadable, ServiceProtection
from openkcm.field_encryption.service_client import CryptoService
from tests.client.field_encryption.stand import no_thread
from tests.concurrency import wait_until
from tests.crypto_service.https.stage import SERVICE, TENANT, Stage

pytestmark = pytest.mark.integration  # the crypto service listens on loopback

SSN = ProtectedField(Store.POSTGRESQL, "public.customers", "ssn", Mode.RANDOMISED)
PHONE = ProtectedField(Store.MONGODB, "shop.customers", "contact.phone", Mode.DETERMINISTIC, plaintext_allowed=True)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path) as running:
        yield running


@pytest.fixture
def refreshed_every(stage: Stage) -> Iterator[Callable[[float], ServiceProtection]]:
    with ExitStack() as stack:

        def make(seconds: float) -> ServiceProtection:
            return stack.enter_context(closing(ServiceProtection(CryptoService(stage.folder), seconds)))

        yield make


def set_list(stage: Stage, *fields: ProtectedField, service: str = SERVICE) -> None:
    stage.on_loop(lambda: stage.protections.lists.__setitem__((TENANT, service), ProtectionRow(1, fields)))


def test_list_is_that_of_the_service(stage: Stage, refreshed_every) -> None:
    set_list(stage, SSN, PHONE)
    set_list(stage, service="another")
    protection = refreshed_every(60)
    assert [protection.fields() for _ in range(100)] == [(SSN, PHONE)] * 100
    assert stage.protections.asked == 1, "only the first statement loads the list"


def test_change_is_loaded_automatically_and_an_unchanged_list_is_the_same_object(stage: Stage, refreshed_every) -> None:
    set_list(stage, SSN)
    protection = refreshed_every(0.05)
    first = protection.fields()
    asked = stage.protections.asked
    wait_until(lambda: stage.protections.asked > asked + 3)
    assert protection.fields() is first
    set_list(stage, SSN, PHONE)
    wait_until(lambda: protection.fields() == (SSN, PHONE))
    set_list(stage)
    wait_until(lambda: protection.fields() == ())


def test_list_is_refreshed_by_a_statement_while_no_thread_can_be_started(stage: Stage, monkeypatch) -> None:
    now = 0.0
    set_list(stage, SSN)
    with closing(ServiceProtection(CryptoService(stage.folder), 30, lambda: now)) as protection:
        monkeypatch.setattr(threading.Thread, "start", no_thread)
        assert protection.fields() == (SSN,)
        set_list(stage, SSN, PHONE)
        now = 29.0
        assert protection.fields() == (SSN,)
        now = 30.0
        assert protection.fields() == (SSN, PHONE)


def test_missing_list_raises_its_reason_and_recovers(stage: Stage, refreshed_every) -> None:
    set_list(stage, SSN)
    stage.on_loop(lambda: stage.core.move(TENANT, State.LOCKED))
    protection = refreshed_every(60)
    with pytest.raises(ProtectionUnreadable) as refused:
        protection.fields()
    assert refused.value.code == "tenant_not_operational"
    stage.on_loop(lambda: stage.core.move(TENANT, State.ACTIVE))

    def is_known() -> bool:
        try:
            return protection.fields() == (SSN,)
        except ProtectionUnreadable:
            return False

    wait_until(is_known)


def test_unreachable_service_is_not_treated_as_an_empty_list(tmp_path: Path) -> None:
    with Stage(tmp_path) as stage:
        folder = stage.folder
    protection, frames = ServiceProtection(CryptoService(folder), 60, lambda: 0.0), []
    for _ in range(3):
        with pytest.raises(ProtectionUnreadable) as refused:
            protection.fields()
        assert refused.value.code == "connection_failed"
        frames.append(len(refused.traceback))
    assert frames[1] == frames[2], "a repeated error keeps no frames"


def test_last_list_stays_in_force_when_the_refresh_fails(stage: Stage, refreshed_every) -> None:
    """An attacker who cuts the network must not end the protection of a field."""
    set_list(stage, SSN)
    protection = refreshed_every(0.05)
    protection.fields()
    stage.on_loop(lambda: stage.core.move(TENANT, State.LOCKED))
    set_list(stage)
    deadline = time.monotonic() + 0.3  # six times the interval of the refresh
    while time.monotonic() < deadline:
        assert protection.fields() == (SSN,)
    stage.on_loop(lambda: stage.core.move(TENANT, State.ACTIVE))
    wait_until(lambda: protection.fields() == ())


def test_child_process_starts_with_its_parents_list_and_refreshes_it(stage: Stage, refreshed_every) -> None:
    set_list(stage, SSN)
    protection = refreshed_every(0.05)
    protection.fields()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            known = protection.fields()
            os.write(writing, b"1" if known == (SSN,) else b"0")
            wait_until(lambda: protection.fields() == (SSN, PHONE))
            os.write(writing, b"1")
        finally:
            os._exit(0)
    os.close(writing)
    assert os.read(reading, 1) == b"1"
    set_list(stage, SSN, PHONE)
    assert os.read(reading, 1) == b"1"
    os.close(reading)
    os.waitpid(child, 0)
