"""`openkcm protection`: what it shows, what it changes and says of it, and what it does not do unasked."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import typer
from typer.testing import CliRunner, Result

import cli.protection
from cli import output
from tenancy.errors import InvalidName, ServiceUnknown, TenantUnknown
from tenancy.protection_errors import FieldInvalid, FieldNotProtected
from tenancy.services import ServiceKind
from tests.cli.root_key_stand import ACME, secrets_folder
from tests.database.builders import a_connected_service, a_provisioned_tenant
from tests.database.fixtures import Field

# Fixtures that pytest finds here by their names.
__all__ = ["secrets_folder"]


@dataclass
class Desk:
    field: Field

    def invoke(self, *words: str) -> Result:
        app = typer.Typer()
        app.callback()(lambda: None)
        cli.protection.register(app)
        return CliRunner().invoke(app, ["protection", *words])

    def run(self, *words: str) -> Any:
        result = self.invoke(*words, "--json")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)


COLUMN = ("orders", "public.patients", "diagnosis", "--store", "postgresql")
LISTED = {"store": "postgresql", "place": "public.patients", "field": "diagnosis", "plain_allowed": False}


@pytest.fixture
def desk(field: Field, secrets_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """The tenant has the MongoDB orders, with one protected field, and the microservice billing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENKCM_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("OPENKCM_SECRETS_DIR", str(secrets_folder))
    monkeypatch.setenv("OPENKCM_DATABASE_URL", field.url)
    worker = field.open("worker", max_size=1)
    a_provisioned_tenant(worker, ACME)
    a_connected_service(field, ACME)
    with worker.tenant_tx(ACME) as tx:
        tx.services.connect("billing", ServiceKind.MICROSERVICE)
    return Desk(field)


def fields(desk: Desk, service: str = "orders") -> list[tuple[str, str, str, bool]]:
    shown = desk.run("show", ACME, service)["fields"]
    return [(one["place"], one["field"], one["mode"], one["plain_allowed"]) for one in shown]


def test_it_shows_what_is_protected_and_who_chose_it(desk: Desk) -> None:
    shown = desk.run("show", ACME, "orders")
    assert (shown["tenant_id"], shown["service_id"], shown["version"]) == (ACME, "orders", 1)
    [one] = shown["fields"]
    assert {name: one[name] for name in LISTED} == LISTED | {"place": "public.customers", "field": "ssn"}
    assert (one["mode"], one["changed_by"]) == ("randomised", "ada")
    with patch.object(output.people, "_width", 300):
        assert "public.customers" in desk.invoke("show", ACME, "orders").stdout
    assert "no field of billing is protected" in desk.invoke("show", ACME, "billing").stdout


def test_what_is_not_said_stays_as_it_is(desk: Desk) -> None:
    made = desk.run("protect", ACME, *COLUMN, "--mode", "deterministic")
    assert (made["before"], made["after"], made["changed"]) == (None, LISTED | {"mode": "deterministic"}, True)
    assert any("which values are equal" in one for one in made["consequences"])
    allowed = desk.run("protect", ACME, *COLUMN, "--plain-allowed")
    assert allowed["after"] == LISTED | {"mode": "deterministic", "plain_allowed": True}
    again = desk.run("protect", ACME, *COLUMN)
    assert (again["changed"], again["consequences"]) == (False, [])
    changed = desk.run("protect", ACME, *COLUMN, "--mode", "randomised", "--no-plain-allowed")
    assert changed["after"] == LISTED | {"mode": "randomised"}
    assert any("can no longer be searched" in one for one in changed["consequences"])
    assert ("public.patients", "diagnosis", "randomised", False) in fields(desk)


def test_the_store_is_that_of_the_service_where_it_has_one(desk: Desk) -> None:
    desk.run("protect", ACME, "orders", "clinic.patients", "contact.phone")
    assert ("clinic.patients", "contact.phone", "randomised", False) in fields(desk)
    with pytest.raises(FieldInvalid) as refused:
        desk.run("protect", ACME, "billing", "public.patients", "diagnosis")
    assert refused.value.hint == "add --store postgresql or --store mongodb"


def test_a_dry_run_says_what_it_means_and_changes_nothing(desk: Desk) -> None:
    before = fields(desk)
    said = desk.invoke("protect", ACME, *COLUMN, "--dry-run").stdout
    assert "nothing was changed" in said
    known = ("orders", "public.customers", "ssn", "--store", "postgresql")
    told = desk.run("unprotect", ACME, *known, "--dry-run")
    assert (told["after"], told["changed"]) == (None, False)
    assert fields(desk) == before


def test_nothing_is_unprotected_unconfirmed(desk: Desk) -> None:
    known = (ACME, "orders", "public.customers", "ssn", "--store", "postgresql")
    for words in ((), ("--confirm", "another")):
        assert desk.invoke("unprotect", *known, *words).exit_code == 2
    assert len(fields(desk)) == 1
    done = desk.run("unprotect", *known, "--confirm", ACME)
    assert done["changed"]
    assert any("stored plain" in one for one in done["consequences"])
    assert fields(desk) == []
    with pytest.raises(FieldNotProtected):
        desk.run("unprotect", *known, "--confirm", ACME)


def test_what_is_not_there_or_no_name_is_refused(desk: Desk) -> None:
    for error, words in (
        (TenantUnknown, ("show", "nobody-here", "orders")),
        (ServiceUnknown, ("show", ACME, "stranger")),
        (ServiceUnknown, ("protect", ACME, "stranger", "public.patients", "diagnosis")),
        (InvalidName, ("show", ACME, "../orders")),
        (FieldInvalid, ("protect", ACME, "orders", "patients", "diagnosis", "--store", "postgresql")),
    ):
        with pytest.raises(error):
            desk.run(*words)
    assert len(fields(desk)) == 1
