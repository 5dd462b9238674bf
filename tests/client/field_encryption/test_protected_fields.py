"""What a program knows of its protection: asked of a real front over real mTLS, followed in the background, kept."""

import os
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
from tests.concurrency import wait_until
from tests.crypto_service.https.stage import SERVICE, TENANT, Stage

pytestmark = pytest.mark.integration  # the crypto service listens on loopback

SSN = ProtectedField(Store.POSTGRESQL, "public.customers", "ssn", Mode.RANDOMISED)
PHONE = ProtectedField(Store.MONGODB, "shop.customers", "contact.phone", Mode.DETERMINISTIC, plain_allowed=True)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path) as running:
        yield running


@pytest.fixture
def asked_every(stage: Stage) -> Iterator[Callable[[float], ServiceProtection]]:
    with ExitStack() as stack:

        def make(seconds: float) -> ServiceProtection:
            return stack.enter_context(closing(ServiceProtection(CryptoService(stage.folder), seconds)))

        yield make


def keep(stage: Stage, *fields: ProtectedField, service: str = SERVICE) -> None:
    stage.on_loop(lambda: stage.protections.lists.__setitem__((TENANT, service), ProtectionRow(1, fields)))


def test_the_list_is_the_services_own(stage: Stage, asked_every) -> None:
    keep(stage, SSN, PHONE)
    keep(stage, service="another")
    protection = asked_every(60)
    assert [protection.fields() for _ in range(100)] == [(SSN, PHONE)] * 100
    assert stage.protections.asked == 1, "only the first statement asks"


def test_a_change_is_fetched_automatically_and_without_one_the_list_is_the_same_object(
    stage: Stage, asked_every
) -> None:
    keep(stage, SSN)
    protection = asked_every(0.05)
    first = protection.fields()
    asked = stage.protections.asked
    wait_until(lambda: stage.protections.asked > asked + 3)
    assert protection.fields() is first
    keep(stage, SSN, PHONE)
    wait_until(lambda: protection.fields() == (SSN, PHONE))
    keep(stage)
    wait_until(lambda: protection.fields() == ())


def test_without_a_list_the_reason_is_raised_and_it_recovers(stage: Stage, asked_every) -> None:
    keep(stage, SSN)
    stage.on_loop(lambda: stage.core.move(TENANT, State.LOCKED))
    protection = asked_every(60)
    with pytest.raises(ProtectionUnreadable) as refused:
        protection.fields()
    assert refused.value.code == "tenant_closed"
    stage.on_loop(lambda: stage.core.move(TENANT, State.ACTIVE))

    def is_known() -> bool:
        try:
            return protection.fields() == (SSN,)
        except ProtectionUnreadable:
            return False

    wait_until(is_known)


def test_an_unreachable_service_is_not_taken_for_an_empty_list(tmp_path: Path) -> None:
    with Stage(tmp_path) as stage:
        folder = stage.folder
    with pytest.raises(ProtectionUnreadable) as refused:
        ServiceProtection(CryptoService(folder), 60).fields()
    assert refused.value.code == "connection_failed"


def test_the_last_list_stays_in_force_when_it_cannot_be_asked_for(stage: Stage, asked_every) -> None:
    """The attack: an attacker who cuts the network must not end the protection of a field."""
    keep(stage, SSN)
    protection = asked_every(0.05)
    protection.fields()
    stage.on_loop(lambda: stage.core.move(TENANT, State.LOCKED))
    keep(stage)
    deadline = time.monotonic() + 0.3  # six times what it waits between two requests
    while time.monotonic() < deadline:
        assert protection.fields() == (SSN,)
    stage.on_loop(lambda: stage.core.move(TENANT, State.ACTIVE))
    wait_until(lambda: protection.fields() == ())


def test_a_child_follows_on_its_own_from_its_parents_list(stage: Stage, asked_every) -> None:
    keep(stage, SSN)
    protection = asked_every(0.05)
    protection.fields()
    heard, said = os.pipe()
    child = os.fork()
    if not child:
        try:
            known = protection.fields()
            os.write(said, b"1" if known == (SSN,) else b"0")
            wait_until(lambda: protection.fields() == (SSN, PHONE))
            os.write(said, b"1")
        finally:
            os._exit(0)
    os.close(said)
    assert os.read(heard, 1) == b"1"
    keep(stage, SSN, PHONE)
    assert os.read(heard, 1) == b"1"
    os.close(heard)
    os.waitpid(child, 0)
