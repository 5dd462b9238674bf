"""Tenants in every state with services, keys and usage, and a page context for each of them."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, NoReturn
from urllib.parse import urlencode

import streamlit as st
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from streamlit.testing.v1 import AppTest

from config.credential_encryption import encrypt_credentials
from core.keys.root_keys import Credentials, parse_place
from core.names import ca_key, l2_key
from core.services import CryptoOperation
from core.tenants.approvals import Action
from core.tenants.lifecycle import State, Transition
from core.tenants.locks import HEALTHY, LockReason, requires_lock
from core.tenants.policy import TenantPolicy
from core.tenants.provisioning import Step, steps_of
from core.tenants.roles import Person, PersonRole
from core.tenants.status import ProcessKind
from dashboard.components.navigation import Navigation
from dashboard.components.tenant_status import standing
from dashboard.page_context import PageContext, ServiceUrls
from database.connection.database import Database
from database.offboarding import ErasureCertificateRow, KeyToDestroyRow
from database.platform.processes import ProcessReporter, watch_name
from database.root_keys import RootKeyRequestRow
from database.services.repository import ServiceRequestRow
from database.usage import UsesRow
from devstack.marketplace_simulator.page import Market
from openkcm.contract.services import ServiceKind
from tests.dashboard.gateways.root_key_gateway import INTAKE_PUBLIC
from tests.dashboard.gateways.rotation_gateway import GRACE
from tests.dashboard.gateways.workflow_gateway import FakeAuthority, FakeGateway
from tests.database.builders import a_result, a_route, an_event, an_object
from tests.database.fixtures import Field

ADDRESSES = ServiceUrls(
    dashboard="http://127.0.0.1:18501",
    marketplace="http://127.0.0.1:18080",
    crypto_https="https://127.0.0.1:18443",
    crypto_kmip="127.0.0.1:15696",
    temporal_ui=None,
    enrolment="https://enrol.example",
)
ACME = "acme-corp-12345"
KEY_ARN = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
ROLE_ARN = "arn:aws:iam::111122223333:role/openkcm"
SECONDS = 120
"""Timeout of one run of a page on a busy machine."""
CLAUSES = ("U2", "U2", "C2", "C3", "M1", "M2", "M2", "A1", "A3")
_MOVES = {
    State.ACTIVE: (Transition.ACTIVATE,),
    State.SUSPENDED: (Transition.ACTIVATE, Transition.SUSPEND),
    State.LOCKED: (Transition.ACTIVATE,),
    State.LEAVING: (Transition.ACTIVATE,),
    State.OFFBOARDED: (Transition.ACTIVATE,),
    State.FAILED: (Transition.FAIL,),
    State.PROVISIONING: (),
}


class PlainNavigation(Navigation):
    """Draws a link as Markdown and keeps where a page went in the session (`went`), as one page has no others."""

    def draw_link(self, path: str, label: str, *, icon: str | None = None, **query: str) -> None:  # noqa: ARG002 - the interface
        st.markdown(f"[{label}]({_address(path, query)})")

    def go(self, path: str, **query: str) -> NoReturn:
        st.session_state["went"] = _address(path, query)
        st.stop()


def _address(path: str, query: dict[str, str]) -> str:
    return f"{path or '.'}{'?' if query else ''}{urlencode(query)}"


def a_request_pem(key: ec.EllipticCurvePrivateKey | None = None) -> str:
    key = key or ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def audit_records(database: Database, tenant_id: str) -> list[dict[str, Any]]:
    """Return every audit record of a tenant, the oldest first."""
    with database.tenant_tx(tenant_id) as tx:
        return [json.loads(stored.record) for stored in tx.audit.records()]


def everything_stored(field: Field) -> str:
    """Return every row of every table, as an attacker with the whole database reads them."""
    with field.administrator() as administrator:
        tables = administrator.execute("select tablename from pg_tables where schemaname = 'okcm'").fetchall()
        return "\n".join(
            str(row) for (table,) in tables for row in administrator.execute(f"select * from okcm.{table}")
        )


@dataclass
class Scene:
    """One database and the changes in it."""

    field: Field

    def __post_init__(self) -> None:
        self.worker = self.field.open("worker")
        self.crypto = self.field.open("crypto", max_size=1)
        self.dashboard = self.field.open("dashboard")
        self.authority = FakeAuthority()
        self.gateway = FakeGateway(self.worker, self.authority)

    def page_context(
        self, tenant_id: str = ACME, *roles: PersonRole, name: str = "Ada", subject: str = ""
    ) -> PageContext:
        subject = subject or f"{name.lower()}@acme.example"
        person = Person(subject, name, tenant_id, frozenset(roles or {PersonRole.ADMINISTRATOR}))
        with self.dashboard.tenant_tx(tenant_id) as tx:
            session = sha256(f"{tenant_id} {subject}".encode()).hexdigest()
            tx.sessions.begin(session, subject, datetime.now(UTC) + timedelta(hours=1))
        return PageContext(
            person,
            tenant_id,
            "127.0.0.1",
            self.dashboard,
            self.gateway,
            ADDRESSES,
            lambda: datetime.now(UTC),
            180.0,
            intake_key=INTAKE_PUBLIC,
            navigation=PlainNavigation(),
        )

    def tenant(self, state: State, tenant_id: str = ACME, organization: str = "ACME Corporation") -> None:
        """Create a tenant in a state, by the same transitions as provisioning."""
        with self.worker.tenant_tx(tenant_id) as tx:
            tx.tenants.request(an_event(tenant_id, organization=organization))
            tx.inbox.accept(an_event(tenant_id))
            if state is State.REQUESTED:
                return
            tx.tenants.move(Transition.PROVISION)
            tx.steps.plan("provision-1", steps_of(tenant_id))
            began = datetime.now(UTC)
            tx.steps.finish("provision-1", Step.OPEN_RECORDS, began)
            tx.keys.record(l2_key(tenant_id), "L2", 1)
            tx.keys.record(ca_key(tenant_id), "CA", 1)
            tx.steps.finish("provision-1", Step.CREATE_KEYS, began)
            if state is State.PROVISIONING:
                tx.steps.retry("provision-1", Step.CREATE_AUTHORITY, "vault_unavailable")
                return
            if state is State.FAILED:
                tx.steps.fail("provision-1", Step.CREATE_AUTHORITY, "vault_refused")
            else:
                for step in (Step.CREATE_AUTHORITY, Step.CHECK_BOUNDARIES, Step.ACTIVATE, Step.ANNOUNCE):
                    tx.steps.finish("provision-1", step, began)
                tx.certificates.record_authority(self.authority.row())
                tx.boundaries.record(
                    "provision-1", [a_result(f"attack-{n}", clause=clause) for n, clause in enumerate(CLAUSES)]
                )
                tx.routes.publish(a_route(tenant_id))
            for move in _MOVES[state]:
                tx.tenants.move(move)
            if state is State.LOCKED:
                tx.tenants.hold(LockReason.MANUAL)
            elif state is State.LEAVING:
                tx.leaving.begin(GRACE)
        if state is State.OFFBOARDED:
            self._destroy(tenant_id)

    def _destroy(self, tenant_id: str) -> None:
        """Offboard a tenant without a grace period and store its erasure certificate."""
        with self.worker.tenant_tx(tenant_id) as tx:  # after the transaction that accepted the event
            tx.leaving.begin(timedelta())
        with self.worker.tenant_tx(tenant_id) as tx:
            tx.leaving.begin_destruction(datetime.now(UTC) + timedelta(seconds=1))
            tx.leaving.gather([KeyToDestroyRow("L2 tenant key", l2_key(tenant_id), "1", "a" * 64)])
            tx.leaving.destroyed("L2 tenant key")
            tx.leaving.certify(ErasureCertificateRow("{}", "signature", "audit-checkpoints:1", datetime.now(UTC)))
            tx.leaving.end()

    def measured(self, *, key_server: str = "ok", faults: Sequence[str] = (), applied: int | None = 2**40) -> None:
        """Report worker, crypto process and shipper; the reports stay current, however slowly the page is drawn."""
        now = datetime.now(UTC)
        watches = [watch_name("eu-west-1", 0, 1)]
        ProcessReporter(self.worker, ProcessKind.WORKER, "host/1", now).write(
            key_server, faults=faults, watches=watches
        )
        ProcessReporter(self.crypto, ProcessKind.CRYPTO, "host/2", now).write(key_server, applied=applied)
        ProcessReporter(self.crypto, ProcessKind.SHIPPER, "host/3", now).write(None)
        with self.field.administrator() as administrator:
            administrator.execute("update okcm.process_report set reported_at = now() + interval '1 hour'")

    def service(self, name: str, kind: ServiceKind, tenant_id: str = ACME, uses: int = 0) -> None:
        """Connect a service of an active tenant and have it use its key."""
        request_id = f"request-{name}"
        with self.dashboard.tenant_tx(tenant_id) as tx:
            tx.services.request(ServiceRequestRow(request_id, name, kind, a_request_pem()))
        self.gateway.connect_service(tenant_id, "eu-west-1", name, request_id, another_key=False)
        if uses:
            now = datetime.now(UTC).replace(second=0, microsecond=0)
            minute = max(now - timedelta(hours=1), now.replace(hour=0, minute=0))  # an hour ago, but today
            with self.crypto.tenant_tx(tenant_id) as tx:
                tx.services.seen([name], datetime.now(UTC) - timedelta(minutes=4))
                answered = UsesRow(minute, name, CryptoOperation.ENCRYPT, "", uses - 3, 64 * uses)
                refused = replace(answered, refusal="object_not_found", count=3, bytes=0)
                tx.usage.add([answered, refused], f"batch-{name}")

    def held_key(self, health: str = HEALTHY, tenant_id: str = ACME) -> None:
        """Make the customer hold the root key, with the given health; lock the tenant if the health requires it."""
        request_id = "5" * 32
        place = parse_place({"provider": "aws-kms", "key_arn": KEY_ARN, "role_arn": ROLE_ARN})
        with self.dashboard.tenant_tx(tenant_id) as tx:
            sealed = encrypt_credentials(INTAKE_PUBLIC, tenant_id, request_id, Credentials())
            tx.root_keys.request(RootKeyRequestRow(request_id, place, sealed))
        self.gateway.change_root_key(tenant_id, request_id)
        self.gateway.asked.pop()
        self.report(health, tenant_id)

    def report(self, health: str, tenant_id: str = ACME) -> None:
        """Set the health of the current root key, and lock or unlock the tenant as the monitoring does."""
        with self.worker.tenant_tx(tenant_id) as tx:
            key, tenant = tx.root_keys.current(), tx.tenants.get()
            assert key is not None
            assert tenant is not None
            tx.root_keys.report(key.root_key_id, health)
            if requires_lock(health, 0.0, 60.0):
                tx.tenants.hold(LockReason.ROOT_KEY)
            elif LockReason.ROOT_KEY in tenant.locks:
                tx.tenants.release(LockReason.ROOT_KEY)

    def wants_two_for(self, *actions: Action, tenant_id: str = ACME) -> None:
        with self.worker.tenant_tx(tenant_id) as tx:
            tx.policy.set(TenantPolicy(four_eyes=frozenset(actions)))

    def standing(self, tenant_id: str = ACME) -> tuple[State, tuple[LockReason, ...]]:
        with self.worker.tenant_tx(tenant_id) as tx:
            row = tx.tenants.get()
        assert row is not None
        return row.state, row.locks

    def records(self, tenant_id: str = ACME) -> list[dict[str, Any]]:
        return audit_records(self.worker, tenant_id)

    def recorded(self, name: str, tenant_id: str = ACME) -> list[tuple[str, str]]:
        """Return actor and outcome of each audit record with a name."""
        return [(one["actor"], one["outcome"]) for one in self.records(tenant_id) if one["name"] == name]

    def objects(self, service: str, *states: int, tenant_id: str = ACME) -> None:
        rows = [an_object(tenant_id, f"{service}-{n}", service=service, state=state) for n, state in enumerate(states)]
        with self.crypto.tenant_tx(tenant_id) as tx:
            tx.objects.add(rows)


def meaning(state: State) -> str:
    """Return the meaning that a page shows for the state of a tenant of this scene."""
    return standing(state, [LockReason.MANUAL]).meaning


def shown(page: str, context: PageContext | Market, **query: str) -> AppTest:
    """Draw a page as Streamlit does, with the query of its address; an exception of the page fails the test."""
    at = AppTest.from_function(_draw, args=(page, context), default_timeout=SECONDS)
    for name, value in query.items():
        at.query_params[name] = value
    at.run()
    assert not at.exception, at.exception
    return at


def text(at: AppTest) -> str:
    """Return all texts of a page and its dialog, in order, each element once."""
    return "\n".join(word for node in at._tree for word in _said(node))


def shortcodes(at: AppTest) -> list[str]:
    """Return the parts of a page's texts for which Streamlit loads its list of emoji."""
    return re.findall(r":(?!material/|streamlit:)[\w+-]+:", text(at))


def press(at: AppTest, key: str) -> str:
    """Press a button and return all texts of the page afterwards."""
    at.button(key=key).click().run()
    assert not at.exception, at.exception
    return text(at)


def open_tab(at: AppTest, key: str, label: str) -> str:
    """Open a tab, whose content is drawn only then, and return all texts of the page afterwards."""
    at.session_state[key] = label
    at.run()
    assert not at.exception, at.exception
    return text(at)


def select(at: AppTest, key: str, row: int) -> None:
    """Select a row of a table, as the browser sends it: AppTest has no such action."""
    [table] = [one for one in at.dataframe if one.key == key]
    send_selection(at, table.proto.id, row)


def send_selection(at: AppTest, widget: str, row: int) -> None:
    """Send a selection in a table that need not be drawn any more: a request on its way has the former widget."""
    states = at._tree.get_widget_states()
    selection = {"selection": {"rows": [row], "columns": [], "cells": []}}
    states.widgets.add(id=widget, string_value=json.dumps(selection))
    at._run(states)
    assert not at.exception, at.exception


def _said(node: object) -> dict[str, None]:
    proto = getattr(node, "proto", None)
    found = [getattr(node, name, None) for name in ("label", "value")]
    found += [getattr(proto, name, None) for name in ("title", "label", "value", "body", "text")]
    return dict.fromkeys(word for word in found if isinstance(word, str) and word)


def _draw(page, context) -> None:
    import importlib  # noqa: PLC0415 - AppTest runs this function's source as a separate script

    importlib.import_module(page if "." in page else f"dashboard.{page}.page").draw(context)
