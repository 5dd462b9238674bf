"""What a program knows of its protection: asked of a real front over real mTLS, followed in the background, kept."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from database.interfaces import ProtectionRow
from hooks.crypto_service import CryptoService
from hooks.protection import ProtectionUnreadable, ServiceProtection
from tenancy.lifecycle import State
from tenancy.protection import Mode, ProtectedField, Store
from tests.crypto.https.stage import SERVICE, TENANT, Stage

SSN = ProtectedField(Store.POSTGRESQL, "public.customers", "ssn", Mode.RANDOMISED)
PHONE = ProtectedField(Store.MONGODB, "shop.customers", "contact.phone", Mode.DETERMINISTIC, plain_allowed=True)


MADE: list[ServiceProtection] = []


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path) as running:
        yield running
        while MADE:
            MADE.pop().close()


def keep(stage: Stage, *fields: ProtectedField, service: str = SERVICE) -> None:
    stage.on_loop(lambda: stage.protections.lists.__setitem__((TENANT, service), ProtectionRow(1, fields)))


def asked_every(stage: Stage, seconds: float) -> ServiceProtection:
    MADE.append(ServiceProtection(CryptoService(stage.folder), seconds))
    return MADE[-1]


def becomes(value: Callable[[], object], wanted: object) -> None:
    deadline = time.monotonic() + 10
    while value() != wanted:
        assert time.monotonic() < deadline, value()
        time.sleep(0.01)


def test_the_list_is_the_services_own(stage: Stage) -> None:
    keep(stage, SSN, PHONE)
    keep(stage, service="another")
    assert asked_every(stage, 60).fields() == (SSN, PHONE)


def test_a_change_comes_by_itself_and_without_one_the_list_is_the_same_object(stage: Stage) -> None:
    keep(stage, SSN)
    protection = asked_every(stage, 0.05)
    first = protection.fields()
    asked = stage.protections.asked
    becomes(lambda: stage.protections.asked > asked + 3, wanted=True)
    assert protection.fields() is first
    keep(stage, SSN, PHONE)
    becomes(protection.fields, (SSN, PHONE))
    keep(stage)
    becomes(protection.fields, ())


def test_no_statement_asks_but_the_first(stage: Stage) -> None:
    keep(stage, SSN)
    protection = asked_every(stage, 60)
    for _ in range(100):
        protection.fields()
    assert stage.protections.asked == 1


def test_without_a_list_the_reason_is_told_and_it_recovers(stage: Stage) -> None:
    keep(stage, SSN)
    stage.on_loop(lambda: stage.core.move(TENANT, State.LOCKED))
    protection = asked_every(stage, 60)
    with pytest.raises(ProtectionUnreadable) as refused:
        protection.fields()
    assert refused.value.code == "tenant_closed"
    stage.on_loop(lambda: stage.core.move(TENANT, State.ACTIVE))

    def now() -> tuple[ProtectedField, ...] | None:
        try:
            return protection.fields()
        except ProtectionUnreadable:
            return None

    becomes(now, (SSN,))


def test_an_unreachable_service_is_not_taken_for_an_empty_list(tmp_path: Path) -> None:
    with Stage(tmp_path) as stage:
        folder = stage.folder
    with pytest.raises(ProtectionUnreadable) as refused:
        ServiceProtection(CryptoService(folder), 60).fields()
    assert refused.value.code == "connection_failed"


def test_the_last_list_stays_in_force_when_it_cannot_be_asked_for(stage: Stage) -> None:
    """The attack: whoever cuts the network, or has the service refused, must not end the protection of a field."""
    keep(stage, SSN)
    protection = asked_every(stage, 0.05)
    protection.fields()
    stage.on_loop(lambda: stage.core.move(TENANT, State.LOCKED))
    keep(stage)
    asked = stage.protections.asked
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        assert protection.fields() == (SSN,)
    assert stage.protections.asked <= asked + 1  # one may have been under way
    stage.on_loop(lambda: stage.core.move(TENANT, State.ACTIVE))
    becomes(protection.fields, ())


def test_a_child_follows_on_its_own_from_its_parents_list(stage: Stage) -> None:
    keep(stage, SSN)
    protection = asked_every(stage, 0.05)
    protection.fields()
    heard, said = os.pipe()
    child = os.fork()
    if not child:
        try:
            known = protection.fields()
            os.write(said, b"1" if known == (SSN,) else b"0")
            deadline = time.monotonic() + 10
            while protection.fields() != (SSN, PHONE) and time.monotonic() < deadline:
                time.sleep(0.01)
            os.write(said, b"1" if protection.fields() == (SSN, PHONE) else b"0")
        finally:
            os._exit(0)
    os.close(said)
    assert os.read(heard, 1) == b"1"
    keep(stage, SSN, PHONE)
    assert os.read(heard, 1) == b"1"
    os.close(heard)
    os.waitpid(child, 0)
