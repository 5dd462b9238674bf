"""`openkcmctl service protect-field`: what it shows, what it changes and says of it, and what it does not do unasked."""

import pytest

from core.errors.services import FieldInvalid, FieldNotProtected, ServiceUnknown
from core.errors.tenants import TenantUnknown
from openkcm.contract.services import ServiceKind
from openkcm.errors import InvalidName
from tests.cli.root_key_stand import Desk
from tests.dashboard.scene import ACME

COLUMN = ("orders", "public.patients", "diagnosis", "--store", "postgresql")
LISTED = {"store": "postgresql", "place": "public.patients", "field": "diagnosis", "plain_allowed": False}


@pytest.fixture
def desk(desk: Desk) -> Desk:
    """The tenant has the MongoDB orders, with one protected field, and the microservice billing."""
    with desk.worker.tenant_tx(ACME) as tx:
        tx.services.connect("billing", ServiceKind.MICROSERVICE)
    return desk


def fields(desk: Desk, service: str = "orders") -> list[tuple[str, str, str, bool]]:
    shown = desk.run("service", "list-protected-fields", ACME, service)["fields"]
    return [(one["place"], one["field"], one["mode"], one["plain_allowed"]) for one in shown]


def test_it_shows_what_is_protected_and_who_chose_it(desk: Desk) -> None:
    shown = desk.run("service", "list-protected-fields", ACME, "orders")
    assert (shown["tenant_id"], shown["service_id"], shown["version"]) == (ACME, "orders", 1)
    [one] = shown["fields"]
    assert {name: one[name] for name in LISTED} == LISTED | {"place": "public.customers", "field": "ssn"}
    assert (one["mode"], one["changed_by"]) == ("randomised", "ada")
    assert "public.customers" in desk.invoke("service", "list-protected-fields", ACME, "orders").stdout
    assert "no field of billing is protected" in desk.invoke("service", "list-protected-fields", ACME, "billing").stdout


def test_what_is_not_said_stays_as_it_is(desk: Desk) -> None:
    made = desk.run("service", "protect-field", ACME, *COLUMN, "--mode", "deterministic")
    assert (made["before"], made["after"], made["changed"]) == (None, LISTED | {"mode": "deterministic"}, True)
    assert any("which values are equal" in one for one in made["consequences"])
    allowed = desk.run("service", "protect-field", ACME, *COLUMN, "--plain-allowed")
    assert allowed["after"] == LISTED | {"mode": "deterministic", "plain_allowed": True}
    again = desk.run("service", "protect-field", ACME, *COLUMN)
    assert (again["changed"], again["consequences"]) == (False, [])
    changed = desk.run("service", "protect-field", ACME, *COLUMN, "--mode", "randomised", "--no-plain-allowed")
    assert changed["after"] == LISTED | {"mode": "randomised"}
    assert any("can no longer be searched" in one for one in changed["consequences"])
    assert ("public.patients", "diagnosis", "randomised", False) in fields(desk)


def test_the_store_is_that_of_the_service_where_it_has_one(desk: Desk) -> None:
    desk.run("service", "protect-field", ACME, "orders", "clinic.patients", "contact.phone")
    assert ("clinic.patients", "contact.phone", "randomised", False) in fields(desk)
    with pytest.raises(FieldInvalid) as refused:
        desk.run("service", "protect-field", ACME, "billing", "public.patients", "diagnosis")
    assert refused.value.hint == "add --store postgresql or --store mongodb"


def test_a_dry_run_says_what_it_means_and_changes_nothing(desk: Desk) -> None:
    before = fields(desk)
    said = desk.invoke("service", "protect-field", ACME, *COLUMN, "--dry-run").stdout
    assert "nothing was changed" in said
    known = ("orders", "public.customers", "ssn", "--store", "postgresql")
    told = desk.run("service", "unprotect-field", ACME, *known, "--dry-run")
    assert (told["after"], told["changed"]) == (None, False)
    assert fields(desk) == before


def test_nothing_is_unprotected_unconfirmed(desk: Desk) -> None:
    known = (ACME, "orders", "public.customers", "ssn", "--store", "postgresql")
    for words in ((), ("--confirm", "another")):
        assert desk.invoke("service", "unprotect-field", *known, *words).exit_code == 2
    assert len(fields(desk)) == 1
    done = desk.run("service", "unprotect-field", *known, "--confirm", ACME)
    assert done["changed"]
    assert any("stored plain" in one for one in done["consequences"])
    assert fields(desk) == []
    with pytest.raises(FieldNotProtected):
        desk.run("service", "unprotect-field", *known, "--confirm", ACME)


def test_what_is_not_there_or_no_name_is_refused(desk: Desk) -> None:
    for error, words in (
        (TenantUnknown, ("show", "nobody-here", "orders")),
        (ServiceUnknown, ("show", ACME, "stranger")),
        (ServiceUnknown, ("protect", ACME, "stranger", "public.patients", "diagnosis")),
        (InvalidName, ("show", ACME, "../orders")),
        (FieldInvalid, ("protect", ACME, "orders", "patients", "diagnosis", "--store", "postgresql")),
    ):
        with pytest.raises(error):
            desk.run("protection", *words)
    assert len(fields(desk)) == 1
