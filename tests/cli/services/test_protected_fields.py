"""`openkcmctl service protect-field`: shown fields, changes with their consequences, and confirmations."""

import pytest

from core.errors.services import FieldInvalid, FieldNotProtected, ServiceUnknown
from core.errors.tenants import TenantUnknown
from openkcm.contract.services import ServiceKind
from openkcm.errors import InvalidName
from tests.cli.root_key_stand import OperatorCli
from tests.dashboard.scene import ACME

COLUMN = ("orders", "public.patients", "diagnosis", "--store", "postgresql")
LISTED = {"store": "postgresql", "place": "public.patients", "field": "diagnosis", "plaintext_allowed": False}


@pytest.fixture
def operator_cli(operator_cli: OperatorCli) -> OperatorCli:
    """The tenant has the MongoDB orders, with one protected field, and the microservice billing."""
    with operator_cli.worker.tenant_tx(ACME) as tx:
        tx.services.connect("billing", ServiceKind.MICROSERVICE)
    return operator_cli


def fields(operator_cli: OperatorCli, service: str = "orders") -> list[tuple[str, str, str, bool]]:
    shown = operator_cli.run("service", "list-protected-fields", ACME, service)["fields"]
    return [(one["place"], one["field"], one["mode"], one["plaintext_allowed"]) for one in shown]


def test_show_lists_protected_fields_and_who_changed_them(operator_cli: OperatorCli) -> None:
    shown = operator_cli.run("service", "list-protected-fields", ACME, "orders")
    assert (shown["tenant_id"], shown["service_id"], shown["version"]) == (ACME, "orders", 1)
    [one] = shown["fields"]
    assert {name: one[name] for name in LISTED} == LISTED | {"place": "public.customers", "field": "ssn"}
    assert (one["mode"], one["changed_by"]) == ("randomised", "ada")
    assert "public.customers" in operator_cli.invoke("service", "list-protected-fields", ACME, "orders").stdout
    assert (
        "no field of billing is protected"
        in operator_cli.invoke("service", "list-protected-fields", ACME, "billing").stdout
    )


def test_omitted_options_keep_their_values(operator_cli: OperatorCli) -> None:
    made = operator_cli.run("service", "protect-field", ACME, *COLUMN, "--mode", "deterministic")
    assert (made["before"], made["after"], made["changed"]) == (None, LISTED | {"mode": "deterministic"}, True)
    assert any("which values are equal" in one for one in made["consequences"])
    allowed = operator_cli.run("service", "protect-field", ACME, *COLUMN, "--plaintext-allowed")
    assert allowed["after"] == LISTED | {"mode": "deterministic", "plaintext_allowed": True}
    again = operator_cli.run("service", "protect-field", ACME, *COLUMN)
    assert (again["changed"], again["consequences"]) == (False, [])
    changed = operator_cli.run(
        "service", "protect-field", ACME, *COLUMN, "--mode", "randomised", "--no-plaintext-allowed"
    )
    assert changed["after"] == LISTED | {"mode": "randomised"}
    assert any("can no longer search" in one for one in changed["consequences"])
    assert ("public.patients", "diagnosis", "randomised", False) in fields(operator_cli)


def test_the_store_is_required_only_for_a_microservice(operator_cli: OperatorCli) -> None:
    operator_cli.run("service", "protect-field", ACME, "orders", "clinic.patients", "contact.phone")
    assert ("clinic.patients", "contact.phone", "randomised", False) in fields(operator_cli)
    with pytest.raises(FieldInvalid) as refused:
        operator_cli.run("service", "protect-field", ACME, "billing", "public.patients", "diagnosis")
    assert refused.value.hint == "add --store postgresql or --store mongodb"


def test_a_dry_run_shows_the_consequences_and_changes_nothing(operator_cli: OperatorCli) -> None:
    before = fields(operator_cli)
    shown = operator_cli.invoke("service", "protect-field", ACME, *COLUMN, "--dry-run").stdout
    assert "nothing was changed" in shown
    known = ("orders", "public.customers", "ssn", "--store", "postgresql")
    plan = operator_cli.run("service", "unprotect-field", ACME, *known, "--dry-run")
    assert (plan["after"], plan["changed"]) == (None, False)
    assert fields(operator_cli) == before


def test_unprotect_requires_a_confirmation(operator_cli: OperatorCli) -> None:
    known = (ACME, "orders", "public.customers", "ssn", "--store", "postgresql")
    for words in ((), ("--confirm", "another")):
        assert operator_cli.invoke("service", "unprotect-field", *known, *words).exit_code == 2
    assert len(fields(operator_cli)) == 1
    done = operator_cli.run("service", "unprotect-field", *known, "--confirm", ACME)
    assert done["changed"]
    assert any("store new values unencrypted" in one for one in done["consequences"])
    assert fields(operator_cli) == []
    with pytest.raises(FieldNotProtected):
        operator_cli.run("service", "unprotect-field", *known, "--confirm", ACME)


def test_unknown_or_malformed_names_are_rejected(operator_cli: OperatorCli) -> None:
    for error, words in (
        (TenantUnknown, ("list-protected-fields", "unknown-corp", "orders")),
        (ServiceUnknown, ("list-protected-fields", ACME, "unknown")),
        (ServiceUnknown, ("protect-field", ACME, "unknown", "public.patients", "diagnosis")),
        (InvalidName, ("list-protected-fields", ACME, "../orders")),
        (FieldInvalid, ("protect-field", ACME, "orders", "patients", "diagnosis", "--store", "postgresql")),
    ):
        with pytest.raises(error):
            operator_cli.run("service", *words)
    assert len(fields(operator_cli)) == 1
