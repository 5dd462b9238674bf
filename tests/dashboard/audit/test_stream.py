"""Verification and export of a tenant's audit stream from the dashboard, on a real database."""

import json
from collections.abc import Iterable, Iterator

import pytest

from core.audit import AuditFilter
from core.errors.platform import DatabaseUnavailable
from core.tenants.roles import PersonRole
from dashboard.audit import stream
from database.connection.database import Database
from openkcm.contract.audit_events import verify_chain
from openkcm.errors import AuditBroken
from openkcm.verification.audit_export import read_export
from tests.dashboard.seats import TENANT, a_page_context
from tests.database.builders import an_audit_event
from tests.database.fixtures import Field, Server, clone
from tests.database.signing import sign_head

MANY = 5_010
"""More than one piece."""


@pytest.fixture(scope="module")
def filled(server: Server, template: str) -> Iterator[str]:
    """The name of a database with the stream, to be cloned."""
    with clone(server, template) as one:
        worker = one.open("worker", max_size=1)
        with worker.tenant_tx(TENANT) as tx:
            tx.audit.append_all([an_audit_event(f"e{n}", subject=f"object {n}") for n in range(MANY)])
        with worker.tenant_tx("beta") as tx:
            tx.audit.append(an_audit_event("other", subject="object of another"))
        one.close()
        yield one.name


@pytest.fixture
def field(server: Server, filled: str) -> Iterator[Field]:
    with clone(server, filled) as one:
        yield one


def lines_of(texts: Iterable[str]) -> list[bytes]:
    return "".join(texts).encode().splitlines(keepends=True)


def tamper(field: Field, *statements: str) -> None:
    with field.administrator() as administrator:
        for table in ("audit_event", "audit_signed_head"):
            administrator.execute(f"alter table okcm.{table} disable trigger append_only")
        for statement in statements:
            administrator.execute(statement)


def test_an_intact_stream_is_verified_with_progress(dashboard: Database, worker: Database) -> None:
    progress: list[tuple[int, int]] = []
    verified = stream.verify(dashboard, TENANT, lambda done, of: progress.append((done, of)))
    assert (verified.records, verified.signed) == (MANY, 0)
    assert progress == [(5_000, MANY), (MANY, MANY)]
    signed = sign_head(worker, TENANT)
    assert stream.verify(dashboard, TENANT, lambda *_: None).signed == signed.seq
    assert stream.verify(dashboard, "gamma", lambda *_: None).records == 0


def test_records_deleted_during_the_verification_are_missed(dashboard: Database, field: Field) -> None:
    def progressed(done: int, of: int) -> None:
        assert done < of
        tamper(field, "delete from okcm.audit_event where seq > 5000")

    with pytest.raises(AuditBroken, match="record 5001 is missing"):
        stream.verify(dashboard, TENANT, progressed)


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("update okcm.audit_event set record = replace(record, 'object 3', 'object 4') where seq = 4", "record 4 was"),
        ("update okcm.audit_event set record = 'x' where seq = 5002", "record 5002 was altered"),
        ("delete from okcm.audit_event where seq = 7", "record 7 is missing"),
        ("delete from okcm.audit_event where seq > 3", "record 4 is missing: the stream is signed up to record 5010"),
        ("delete from okcm.audit_event", "record 1 is missing: the stream is signed up to record 5010"),
        ("update okcm.audit_signed_head set chain_hash = sha256('x')", "record 5010 differs from the signed record"),
    ],
)
def test_the_error_names_the_changed_record(
    dashboard: Database, worker: Database, field: Field, statement: str, says: str
) -> None:
    sign_head(worker, TENANT)
    tamper(field, statement)
    with pytest.raises(AuditBroken, match=says):
        stream.verify(dashboard, TENANT, lambda *_: None)


def test_an_export_is_the_stream_and_is_recorded_before_and_after(dashboard: Database, worker: Database) -> None:
    signed = sign_head(worker, TENANT)
    lines = stream.export(a_page_context(dashboard), AuditFilter())
    assert lines is not None
    header, records = read_export(lines_of(lines))
    last = verify_chain(one.stored for one in records)
    assert (header.tenant_id, header.selection) == (TENANT, {})
    assert header.signed_head is not None
    assert (header.signed_head.seq, bytes.fromhex(header.signed_head.chain_hash)) == (signed.seq, signed.chain_hash)
    assert last is not None
    assert last.seq == header.last_seq == MANY + 1
    with dashboard.tenant_tx(TENANT) as tx:
        before, after = (json.loads(one.record) for one in tx.audit.records(after=MANY))
    assert (before["name"], before["outcome"], before["actor"]) == ("audit.exported", "intended", "ada")
    assert (before["source"], after["outcome"]) == ("192.0.2.7", "success")
    assert after["details"] == {"records": str(MANY + 1)}


def test_an_export_of_a_selection_states_the_selection_and_holds_no_other_tenants_records(dashboard: Database) -> None:
    other = stream.export(a_page_context(dashboard), AuditFilter(text="object of another"))
    assert other is not None
    _, records = read_export(lines_of(other))
    found = [json.loads(one.stored.record)["name"] for one in records]
    assert found == ["audit.exported"]  # its own record has the text; no other tenant's record is found
    lines = stream.export(a_page_context(dashboard), AuditFilter(subject="object 12"))
    assert lines is not None
    header, records = read_export(lines_of(lines))
    assert header.selection == {"object": "object 12"}
    assert header.signed_head is None
    subjects = [json.loads(one.stored.record)["subject"] for one in records]
    assert subjects == [f"object {n}" for n in range(MANY) if "object 12" in f"object {n}"]


def test_an_export_is_sent_in_pieces_and_a_partial_one_does_not_verify(dashboard: Database, field: Field) -> None:
    lines = stream.export(a_page_context(dashboard), AuditFilter())
    assert lines is not None
    pieces = []
    for _ in range(2):
        pieces.append(next(lines))
        assert pieces[-1].count("\n") <= 5_000
        with dashboard.tenant_tx(TENANT):
            pass  # transactions do not nest: none is open between two pieces
    with field.server.offline(field.name), pytest.raises(DatabaseUnavailable):
        next(lines)
    _, records = read_export(lines_of(pieces))
    with pytest.raises(AuditBroken, match="ends early"):
        list(records)


def test_an_export_without_the_permission_is_denied_and_recorded(dashboard: Database) -> None:
    assert stream.export(a_page_context(dashboard, PersonRole.KEY_ADMINISTRATOR), AuditFilter()) is None
    with dashboard.tenant_tx(TENANT) as tx:
        [refused] = (json.loads(one.record) for one in tx.audit.records(after=MANY))
    assert (refused["name"], refused["outcome"], refused["details"]) == (
        "dashboard.action_refused",
        "refused",
        {"action": "export"},
    )
