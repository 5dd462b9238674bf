"""The certificate authorities of a tenant, their certificates and their CRLs, as rows."""

from datetime import timedelta

import psycopg
import pytest

from core.certificates import AuthorityState
from core.errors.platform import DatabaseRefused
from database.certificates import AuthorityRow
from database.connection.database import Database
from database.platform.scheduled import PlatformQueries
from tests.database.builders import (
    NOW,
    a_leaf,
    a_revocation_list,
    a_route,
    an_authority,
    an_authority_serial,
)
from tests.database.fixtures import Field
from tests.database.templates import filled_template, two_tenants

FIRST = an_authority_serial("acme")
NEXT = an_authority("bb")._replace(key_version=2, state=AuthorityState.PREPARED)


template = filled_template(two_tenants())


@pytest.fixture
def acme(worker: Database) -> Database:
    return worker


@pytest.fixture
def crypto(field: Field) -> Database:
    return field.open("crypto")


def states(worker: Database) -> dict[str, str]:
    with worker.tenant_tx("acme") as tx:
        return {row.serial: row.state.value for row in tx.certificates.authorities()}


def roll(worker: Database, row: AuthorityRow = NEXT) -> None:
    with worker.tenant_tx("acme") as tx:
        tx.certificates.record_authority(row)
        tx.certificates.activate(row.serial)


def test_tenant_has_one_current_and_one_former_authority(acme: Database) -> None:
    roll(acme)
    assert states(acme) == {"bb": "current", FIRST: "former"}
    with acme.tenant_tx("acme") as tx:
        assert tx.certificates.authority() == NEXT._replace(state=AuthorityState.CURRENT)
        assert {key.name: key.version for key in tx.keys.all()}["ca-acme"] == 2
    third = NEXT._replace(serial="cc", key_version=3)
    with pytest.raises(DatabaseRefused):
        roll(acme, third)
    assert states(acme) == {"bb": "current", FIRST: "former"}
    with acme.tenant_tx("acme") as tx:
        assert tx.certificates.end(FIRST)
        assert not tx.certificates.end(FIRST)
        assert not tx.certificates.end("bb")  # the issuing authority cannot be ended
    roll(acme, third)
    assert states(acme) == {"cc": "current", "bb": "former", FIRST: "ended"}


def test_ended_authority_cannot_be_activated(acme: Database) -> None:
    with acme.tenant_tx("acme") as tx:
        tx.certificates.record_authority(NEXT)
        tx.certificates.end("bb")
    with pytest.raises(DatabaseRefused), acme.tenant_tx("acme") as tx:
        tx.certificates.activate("bb")
    assert states(acme)[FIRST] == "current"


def test_first_authority_of_a_key_version_is_kept(acme: Database) -> None:
    with acme.tenant_tx("acme") as tx:
        current = tx.certificates.authority()
        assert tx.certificates.record_authority(an_authority("dd")) == current
        assert tx.certificates.record_authority(NEXT) == NEXT
        assert tx.certificates.record_authority(NEXT._replace(serial="cc")) == NEXT


def test_certificate_has_the_chain_of_its_issuer(acme: Database) -> None:
    roll(acme, NEXT._replace(chain_pem="chain of bb"))
    with acme.tenant_tx("acme") as tx:
        assert tx.certificates.unrenewed(10) == ["orders"]
        assert tx.services.issued("orders", "request-1")[1] == "chain"
        tx.services.record_leaf(a_leaf("aa02", generation=2)._replace(authority="bb"))
        assert tx.services.issued("orders", "request-1")[1] == "chain of bb"
        assert tx.certificates.unrenewed(10) == []
        old, new = tx.services.caller("1a2b"), tx.services.caller("aa02")
        assert tx.certificates.issued_until(FIRST) == NOW + timedelta(hours=72)
        assert tx.certificates.issued_until("bb") == NOW + timedelta(hours=72)
    assert (old.authority_state, new.authority_state) == ("former", "current")


def test_crl_number_never_decreases(acme: Database) -> None:
    roll(acme)
    with acme.tenant_tx("acme") as tx:
        assert not tx.certificates.publish(a_revocation_list(FIRST, 1))
        assert tx.certificates.publish(a_revocation_list("bb", 2))
        assert not tx.certificates.publish(a_revocation_list(FIRST, 2))
        assert tx.certificates.publish(a_revocation_list(FIRST, 3))
        assert [(row.authority, row.number) for row in tx.certificates.revocation_lists()] == [(FIRST, 3), ("bb", 2)]
        assert {row.der for row in tx.certificates.revocation_lists()} == {b"der"}


def test_route_has_the_former_issuer_until_it_is_removed(acme: Database) -> None:
    both = a_route("acme")._replace(former_issuer_fingerprint="cd" * 32)
    with acme.tenant_tx("acme") as tx:
        tx.routes.publish(both)
        assert tx.routes.get() == both
        tx.routes.publish(a_route("acme"))
        assert tx.routes.get() == a_route("acme")


def test_database_rejects_a_second_current_authority(acme: Database, field: Field) -> None:
    roll(acme)
    with field.administrator() as administrator, pytest.raises(psycopg.errors.UniqueViolation):
        administrator.execute("update okcm.certificate_authority set state = 'current' where tenant_id = 'acme'")


def test_client_authorities_are_returned_in_pages_until_they_end(acme: Database, crypto: Database) -> None:
    queries = PlatformQueries(crypto)
    roll(acme)
    start = ("0", "")
    everything = queries.client_authorities(start, 10)
    assert {row.serial for row in everything} == {FIRST, an_authority_serial("beta"), "bb"}
    assert {row.certificate_pem for row in everything} == {"certificate"}
    found, after = [], start
    while page := queries.client_authorities(after, 1):
        found += [page[0].serial]
        after = (page[0].xid, page[0].serial)
    assert found == [row.serial for row in everything]
    with acme.tenant_tx("acme") as tx:
        assert tx.certificates.end(FIRST)
    assert FIRST not in {row.serial for row in queries.client_authorities(start, 10)}


def test_client_authority_that_is_committed_late_is_not_missed(acme: Database, crypto: Database, field: Field) -> None:
    queries = PlatformQueries(crypto)
    with field.open("worker").tenant_tx("beta") as late:
        late.certificates.record_authority(NEXT._replace(serial="dd"))
        roll(acme)
        read = queries.client_authorities(("0", ""), 10)
        assert {"bb", "dd"} & {row.serial for row in read} == {"bb"}
    assert {"dd", "bb"} <= {row.serial for row in queries.client_authorities((read[0].until, ""), 10)}
