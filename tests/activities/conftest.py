"""The worker's wiring with a real PostgreSQL (a separate database for each test) and a real OpenBao.

The tests run activities as Temporal does, but one at a time, and also twice or in a different order.
"""

import itertools
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from temporalio.testing import ActivityEnvironment

from config import secrets
from config.secrets import Role, ensure_pair, ensure_secret
from config.settings import Settings
from core.names import CANARY_TENANT_ID
from core.tenants.provisioning import Step
from database.connection.database import Database
from tests.activities.certificates.rolling import Roll
from tests.activities.isolation.attacking import Attack, Found, Widen, attacks_of
from tests.activities.notifications.receiving import Mailbox
from tests.activities.offboarding.leaving import Leaving, connected
from tests.activities.provisioning import MADE, REGION, Provisioning, run_steps
from tests.activities.root_keys.changing import Change, connect_services
from tests.activities.rotation.rotating import Rotating
from tests.activities.services.connecting import Connection
from tests.database.builders import an_event
from tests.database.fixtures import Field
from tests.e2e.receivers import CallbackReceiver
from tests.kms.customer_openbao import CustomerOpenBao
from tests.kms.opening import Opener
from tests.vault import server as openbao
from vault.auth.client import TokenSession
from worker import wiring
from worker.bootstrap import ensure_root_keys

_numbers = itertools.count(1)

NOWHERE = "http://127.0.0.1:9/"
"""The discard port of this machine has no listener; these tests send nothing."""


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
def parts(settings: Settings) -> Iterator[wiring.WorkerDependencies]:
    built = wiring.build(settings)
    built.keyring.open_platform_key()
    ensure_root_keys(built.root_keys, [REGION])
    yield built
    built.database.close()


@pytest.fixture
def request_tenant(settings: Settings, parts: wiring.WorkerDependencies) -> Iterator[Callable[..., Provisioning]]:
    """Return a function that accepts an event for a tenant, as the marketplace process does."""
    marketplace = wiring.open_database(settings, Role.MARKETPLACE)

    def request(tenant_id: str | None = None, organization: str = "ACME Corporation") -> Provisioning:
        tenant_id = tenant_id or f"tenant-{next(_numbers)}-corp"
        event = an_event(tenant_id, organization=organization, region=REGION, timestamp=datetime.now(UTC))
        with marketplace.tenant_tx(tenant_id) as tx:
            tx.tenants.request(event)
            tx.inbox.accept(event)
        return Provisioning(parts, tenant_id)

    yield request
    marketplace.close()


@pytest.fixture
def tenant(request_tenant: Callable[..., Provisioning]) -> Provisioning:
    """Return a requested tenant without keys."""
    return request_tenant()


@pytest.fixture
def canary(request_tenant: Callable[..., Provisioning]) -> Provisioning:
    """Return the canary tenant, ready for isolation checks."""
    canary = request_tenant(CANARY_TENANT_ID, "OpenKCM canary")
    run_steps(canary, [step for step in Step if step not in (Step.CHECK_BOUNDARIES, Step.ANNOUNCE)])
    return canary


@pytest.fixture
def ready(canary: Provisioning, tenant: Provisioning) -> Provisioning:
    """Return a tenant that passed the isolation gate and is active, before its notification."""
    assert canary.is_done(Step.ACTIVATE)
    tenant.run_until(Step.ACTIVATE)
    return tenant


@pytest.fixture
def operator(settings: Settings) -> Iterator[Database]:
    with closing(wiring.open_database(settings, Role.OPERATOR)) as opened:
        yield opened


@pytest.fixture
def active(tenant: Provisioning) -> Provisioning:
    """Return an active tenant without a service."""
    run_steps(tenant, MADE)
    return tenant


@pytest.fixture
def connection(active: Provisioning, operator: Database) -> Connection:
    """Return a requested service of an active tenant."""
    asked = Connection(active, operator)
    asked.ask()
    return asked


@pytest.fixture
def roll(connection: Connection, field: Field) -> Roll:
    """Return a tenant with a connected service and its first CA."""
    connection.connect()
    return Roll(connection, field)


@pytest.fixture
def opener(settings: Settings) -> Iterator[Opener]:
    with Opener(settings) as opener:
        yield opener


@pytest.fixture(scope="session")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CustomerOpenBao]:
    """Run a customer's key server with two keys."""
    started = CustomerOpenBao.start(tmp_path_factory.mktemp("customer"))
    started.make_key("second")
    yield started
    started.kill()


@pytest.fixture
def change(active: Provisioning, operator: Database, opener: Opener, bao: CustomerOpenBao) -> Iterator[Change]:
    """Return a tenant with services whose root key can be changed."""
    yield connect_services(Change, active, operator, opener)
    bao.allow()


@pytest.fixture
def rotating(active: Provisioning, operator: Database, opener: Opener) -> Rotating:
    """Return a tenant with services whose keys can be rotated."""
    return connect_services(Rotating, active, operator, opener)


@pytest.fixture
def leaving(tenant: Provisioning, operator: Database, vault_admin: TokenSession) -> Leaving:
    """Return an active tenant with a connected service, ready for offboarding."""
    return Leaving(connected(tenant, operator), vault_admin)


@pytest.fixture
def attack(parts: wiring.WorkerDependencies, settings: Settings, canary: Provisioning) -> Attack:
    """Return a function that attacks a tenant as an activity does, and returns the results by name."""
    assert canary.is_done(Step.ACTIVATE)
    attacks = attacks_of(parts, settings)
    ActivityEnvironment().run(lambda: attacks(CANARY_TENANT_ID))  # it stores a ciphertext for checks of others

    def attack(tenant_id: str) -> Found:
        results = ActivityEnvironment().run(lambda: attacks(tenant_id))
        found = {result.name: result for result in results}
        assert len(found) == len(results)
        return found

    return attack


@pytest.fixture
def widen(vault_admin: TokenSession) -> Widen:
    """Return a function that extends or changes one role's policy temporarily."""

    @contextmanager
    def widen(role: str, more: str = "", *, swap: tuple[str, str] = ("", "")) -> Iterator[None]:
        path = f"sys/policies/acl/openkcm-{role}"
        policy = (vault_admin.read(path) or {})["policy"]
        vault_admin.write(path, {"policy": policy.replace(*swap) + more if swap[0] else policy + more})
        try:
            yield
        finally:
            vault_admin.write(path, {"policy": policy})

    return widen


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    with closing(Mailbox()) as box:
        yield box


@pytest.fixture
def callback() -> Iterator[CallbackReceiver]:
    with closing(CallbackReceiver()) as receiver:
        yield receiver


@pytest.fixture
def unused_port() -> Iterator[int]:
    """Return a port that refuses connections: bound for the test, without a listener."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]
