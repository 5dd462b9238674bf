"""Downloads through the middleware, as a browser requests them; database, authorizer and cookies are real."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest
from httpx2 import Response
from starlette.applications import Starlette
from starlette.testclient import TestClient

from config.settings import load_settings
from dashboard import downloads
from dashboard.auth.middleware import PLACE_HEADER, AuthMiddleware
from dashboard.wiring import Dependencies
from database.connection.database import Database
from database.connection.readiness import DatabaseReadiness
from database.offboarding import ErasureCertificateRow
from database.platform.operators import Operations
from openkcm.contract.audit_events import AuditName, verify_chain
from openkcm.verification.audit_export import read_export
from openkcm.verification.erasure_certificate import certificate_file
from tests.dashboard.people import ACME, BETA, ORIGIN, SECRET, Clock, a_guard, claims_of, cookie_of
from tests.dashboard.scene import audit_records
from tests.dashboard.seats import ADDRESSES, UnusedGateway
from tests.database.builders import a_provisioned_tenant, an_audit_event
from tests.database.fixtures import Field

FILE = f"/tenant/{ACME}/audit.jsonl"
PROOF = f"/tenant/{ACME}/destruction-certificate.json"


@dataclass
class Stand:
    field: Field
    inner: Starlette
    edge: AuthMiddleware
    database: Database
    clock: Clock

    def ask(self, path: str = FILE, *, edge: bool = True, **changed: Any) -> Response:
        """Send a request as ACME's administrator, or with changed claims."""
        cookies = cookie_of(claims_of(self.clock, **changed))
        with TestClient(
            self.edge if edge else self.inner, base_url=ORIGIN, cookies=cookies, follow_redirects=False
        ) as browser:
            return browser.get(path)

    def names(self, tenant: str = ACME) -> list[tuple[str, str]]:
        return [(record["name"], record["outcome"]) for record in audit_records(self.database, tenant)]


@pytest.fixture
def stand(field: Field) -> Stand:
    worker = field.open("worker")
    for tenant in (ACME, BETA):
        a_provisioned_tenant(worker, tenant)
        with worker.tenant_tx(tenant) as tx:
            tx.audit.append(an_audit_event("secret", subject=f"of {tenant}"))
    clock, database = Clock(), field.open("dashboard")
    guard = a_guard(database, clock)
    parts = Dependencies(
        settings=load_settings(),
        database=database,
        readiness=DatabaseReadiness(database),
        workflows=UnusedGateway(),
        guard=guard,
        addresses=ADDRESSES,
        origin=ORIGIN,
        cookie_secrets=(SECRET,),
        client_secret="",
        intake_key="",
        operations=Operations(database, 180.0),
        tracer=None,
        development=None,
    )
    routes = downloads.routes(parts)
    inner = Starlette(routes=routes)
    files = frozenset(route.path for route in routes)
    edge = AuthMiddleware(inner, guard, [SECRET], ORIGIN, develops=True, files=files)
    return Stand(field, inner, edge, database, clock)


def test_the_stream_is_a_file_that_verifies(stand: Stand) -> None:
    answer = stand.ask(openkcm_roles=["auditor"])
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/jsonl")
    assert answer.headers["content-disposition"].startswith(f'attachment; filename="{ACME}-audit-2')
    assert answer.headers["cache-control"] == "no-store"
    header, records = read_export(answer.content.splitlines(keepends=True))
    read = [one.stored for one in records]
    assert header.tenant_id == ACME
    assert header.signed_head is not None
    assert verify_chain(read) == read[-1]
    assert BETA not in answer.text
    assert stand.names()[-2:] == [(AuditName.EXPORTED, "intended"), (AuditName.EXPORTED, "success")]


def test_a_selection_is_a_file_too(stand: Stand) -> None:
    answer = stand.ask(f"{FILE}?text=of+{ACME}")
    header, records = read_export(answer.content.splitlines(keepends=True))
    assert header.selection == {"text": f"of {ACME}"}
    assert "audit-selection" in answer.headers["content-disposition"]
    assert json.loads(next(records).stored.record)["subject"] == f"of {ACME}"


@pytest.mark.parametrize(
    ("cookies", "path", "status"),
    [
        ({}, FILE, 403),
        ({"_streamlit_user": "forged"}, FILE, 403),
        (None, f"{FILE}?since=yesterday", 400),
    ],
)
def test_a_request_without_session_or_with_a_wrong_query_exports_nothing(
    stand: Stand, cookies: dict[str, str] | None, path: str, status: int
) -> None:
    cookies = cookie_of(claims_of(stand.clock)) if cookies is None else cookies
    for app, asked in ((stand.edge, path), (stand.inner, path.removeprefix(f"/tenant/{ACME}"))):
        with TestClient(app, base_url=ORIGIN, cookies=cookies) as browser:
            assert browser.get(asked, headers={PLACE_HEADER: f"/tenant/{ACME}"}).status_code == status
    assert (AuditName.EXPORTED, "intended") not in stand.names()


def test_a_role_without_the_audit_stream_gets_none_and_the_refusal_is_recorded(stand: Stand) -> None:
    answer = stand.ask(openkcm_roles=["key-administrator"])
    assert answer.status_code == 403
    assert "does not include the audit stream" in answer.text
    assert "secret" not in answer.text
    assert stand.names()[-1] == (AuditName.ACTION_REFUSED, "refused")


def test_another_tenants_stream_is_refused_by_the_edge_and_by_the_route_itself(stand: Stand) -> None:
    before = len(stand.names(BETA))
    for answer in (
        stand.ask(f"/tenant/{BETA}/audit.jsonl"),
        stand.ask("/operations/audit.jsonl"),
        stand.ask(f"{FILE}?tenant={BETA}"),
    ):
        assert answer.status_code == 403
        assert "record" not in answer.text
    with TestClient(stand.inner, base_url=ORIGIN, cookies=cookie_of(claims_of(stand.clock))) as browser:
        for place in (f"/tenant/{BETA}", "/operations", ""):
            assert browser.get("/audit.jsonl", headers={PLACE_HEADER: place}).status_code == 403
    assert {name for name, _ in stand.names(BETA)[before:]} == {AuditName.ACCESS_REFUSED}


def a_certificate(stand: Stand) -> str:
    """Store an erasure certificate of ACME; return the document."""
    kept = ErasureCertificateRow("{}", "signature", "audit-checkpoints:1", datetime.now(UTC))
    with stand.field.open("worker").tenant_tx(ACME) as tx:
        tx.leaving.certify(kept)
    return certificate_file(kept.statement, kept.signature, kept.key)


def test_the_certificate_of_destruction_is_the_same_file_that_the_command_writes(stand: Stand) -> None:
    document = a_certificate(stand)
    for role in ("administrator", "auditor"):
        assert stand.ask(PROOF, openkcm_roles=[role]).status_code == 200
    answer = stand.ask(PROOF, openkcm_roles=["key-administrator"])
    assert (answer.status_code, answer.text) == (200, document)
    assert answer.headers["content-disposition"] == f'attachment; filename="{ACME}-destruction-certificate.json"'
    assert answer.headers["cache-control"] == "no-store"


def test_the_certificate_of_another_tenant_or_a_missing_one_is_not_returned(stand: Stand) -> None:
    assert stand.ask(PROOF).status_code == 404
    a_certificate(stand)
    assert stand.ask(f"/tenant/{BETA}/destruction-certificate.json").status_code == 403
    assert stand.ask(PROOF, openkcm_tenant=BETA).status_code == 403
    assert stand.ask("/operations/destruction-certificate.json").status_code == 403
    with TestClient(stand.inner, base_url=ORIGIN, cookies={}) as browser:
        headers = {PLACE_HEADER: f"/tenant/{ACME}"}
        assert browser.get("/destruction-certificate.json", headers=headers).status_code == 403


def test_a_database_that_is_down_is_reported(stand: Stand) -> None:
    with stand.field.server.offline(stand.field.name):
        answer = stand.ask(edge=False, path="/audit.jsonl")
    assert answer.status_code == 403  # without a route the database is not queried
    with stand.field.server.offline(stand.field.name):
        assert stand.ask().status_code == 503
