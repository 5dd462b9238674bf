"""The worker's real wiring over a real PostgreSQL (a database of its own for each test) and a real OpenBao.

Activities are run as Temporal would run them, but one at a time and from the test, twice or in a different order.
"""

import dataclasses
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from temporalio.testing import ActivityEnvironment

from config import secrets
from config.secrets import Role, ensure_secret
from config.settings import Settings
from database.connection import Database
from devstack.secrets import ensure_pair
from tenancy import ids
from tenancy.events import EventKind, MarketplaceEvent
from tenancy.ids import CANARY_TENANT_ID
from tenancy.messages import AnnounceInput, FailureInput, StepInput
from tenancy.provisioning import Step
from tests.database.fixtures import Field
from tests.vault import server as openbao
from vault.session import TokenSession
from worker import wiring
from worker.bootstrap import ensure_root_keys

_numbers = itertools.count(1)

REGION = "eu-west-1"
NOWHERE = "http://127.0.0.1:9/"
"""Nobody listens on the discard port of this machine; these tests send nothing."""


class Provisioning:
    """One tenant and the activities of the worker, by their names."""

    def __init__(self, parts: wiring.Parts, tenant_id: str) -> None:
        self._activities = {a.__name__.replace("_", "-"): a for a in (*parts.lifecycle, *parts.platform)}
        self.parts = parts
        self.database: Database = parts.database
        self.tenant_id = tenant_id
        self.attempt = 1

    @property
    def step(self) -> StepInput:
        return StepInput(tenant_id=self.tenant_id, operation_id=f"provision-{self.attempt}")

    def run(self, name: str, **more: Any) -> Any:
        """Run one activity as the workflow of this tenant would."""
        kinds = {Step.ANNOUNCE: AnnounceInput, "record-failure": FailureInput}
        message = kinds.get(name, StepInput)(**self.step.model_dump(), **more)
        return self.run_with(name, message)

    def run_platform(self, name: str) -> Any:
        return self.run_with(name)

    def run_with(self, name: str, *arguments: Any) -> Any:
        environment = ActivityEnvironment()
        workflow_id = ids.provision_workflow(self.tenant_id)
        environment.info = dataclasses.replace(environment.info, activity_type=name, workflow_id=workflow_id)
        return environment.run(self._activities[name], *arguments)

    def run_until(self, last: Step) -> None:
        for step in Step:
            self.run(step)
            if step is last:
                return

    def audited(self) -> list[dict[str, Any]]:
        with self.database.tenant_tx(self.tenant_id) as tx:
            return [json.loads(stored.record) for stored in tx.audit.records()]

    def assert_audited_once(self) -> None:
        """Each thing that happened is on record once for each operation, whatever was repeated."""
        names = Counter((record["event_id"], record["name"], record["subject"]) for record in self.audited())
        assert set(names.values()) == {1}, names

    def is_done(self, step: Step) -> bool:
        with self.database.tenant_tx(self.tenant_id) as tx:
            return any(row.step is step and row.state == "done" for row in tx.steps.latest())


@pytest.fixture(scope="session")
def key_server(vault: openbao.Server) -> openbao.Server:
    return vault


@pytest.fixture(scope="session")
def vault_admin(key_server: openbao.Server) -> TokenSession:
    return key_server.admin()


@pytest.fixture
def settings(field: Field, key_server: openbao.Server, tmp_path: Path) -> Settings:
    folder = tmp_path / "secrets"
    for role in (Role.WORKER, Role.MARKETPLACE, Role.OPERATOR, Role.CRYPTO):
        ensure_secret(folder, secrets.database_password(role), field.server.passwords[role])
        ensure_secret(folder, secrets.context_key(role), field.key(role).hex())
    for role in (Role.WORKER, Role.CRYPTO, Role.OFFBOARDING):
        secret_id = (key_server.folder / f"{role}.secret").read_text(encoding="ascii")
        ensure_secret(folder, secrets.vault_secret(role), secret_id)
    ensure_secret(folder, secrets.BOUNDARY_IDENTITY, key_server.identity_pem)
    ensure_pair(folder, secrets.INTAKE_KEY, secrets.INTAKE_PUBLIC_KEY)
    ensure_secret(folder, secrets.CALLBACK_SECRET, "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    return Settings(
        state_dir=tmp_path,
        database_url=field.url,
        vault_address=key_server.url,
        root_key_networks=("127.0.0.0/8",),
        callback_url=NOWHERE,
        smtp_host="127.0.0.1",
        smtp_port=9,
        smtp_security="none",
        email_to="security@{tenant_id}.example",
        base_url="https://cmk.openkcm.io",
    )


@pytest.fixture
def parts(settings: Settings) -> Iterator[wiring.Parts]:
    built = wiring.build(settings)
    built.keyring.open_platform_key()
    ensure_root_keys(built.root_keys, [REGION])
    yield built
    built.database.close()


@pytest.fixture
def request_tenant(settings: Settings, parts: wiring.Parts) -> Iterator[Callable[..., Provisioning]]:
    """Return a function that accepts an event for a tenant, as the marketplace process does."""
    marketplace = wiring.open_database(settings, Role.MARKETPLACE)

    def request(tenant_id: str | None = None, organization: str = "ACME Corporation") -> Provisioning:
        tenant_id = tenant_id or f"tenant-{next(_numbers)}-corp"
        event = MarketplaceEvent(
            event_id="event-1",
            kind=EventKind.SERVICE_ENABLED,
            tenant_id=tenant_id,
            organization=organization,
            region=REGION,
            timestamp=datetime.now(UTC),
        )
        with marketplace.tenant_tx(tenant_id) as tx:
            tx.tenants.request(event)
            tx.inbox.accept(event)
        return Provisioning(parts, tenant_id)

    yield request
    marketplace.close()


@pytest.fixture
def tenant(request_tenant: Callable[..., Provisioning]) -> Provisioning:
    """A tenant that was asked for and of which nothing exists yet."""
    return request_tenant()


@pytest.fixture
def canary(request_tenant: Callable[..., Provisioning]) -> Provisioning:
    """The canary, ready to be attacked."""
    canary = request_tenant(CANARY_TENANT_ID, "OpenKCM canary")
    run_steps(canary, [step for step in Step if step not in (Step.CHECK_BOUNDARIES, Step.ANNOUNCE)])
    return canary


def run_steps(tenant: Provisioning, steps: Sequence[str]) -> None:
    for step in steps:
        tenant.run(step)
