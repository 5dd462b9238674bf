"""Builds the dependencies of the dashboard; the only module of this package that selects implementations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

from starlette.routing import BaseRoute

from config.networks import webhook_networks
from config.secrets import (
    DASHBOARD_COOKIE,
    INTAKE_PUBLIC_KEY,
    OIDC_CLIENT_SECRET,
    Role,
    context_key,
    read_database_password,
    read_secret,
    read_secret_values,
)
from config.settings import LOOPBACK, Settings
from config.tracing import open_tracer
from core.errors.platform import SettingsInvalid
from core.tracing.spans import Tracer
from dashboard.auth.authorization import SessionAuthorizer
from dashboard.auth.claims import ClaimNames, Session
from dashboard.auth.routes import DEVELOPMENT_SIGN_ON
from dashboard.components.navigation import NO_PAGES, Navigation
from dashboard.components.selection import this_run
from dashboard.page_context import PageContext, ServiceUrls
from dashboard.workflow_bridge import WorkflowBridge
from database.connection.database import Database
from database.connection.readiness import DatabaseReadiness
from database.platform.operators import Operations
from workflows.client.workflow_client import WorkflowClient

_ACCEPT_SECONDS = 8.0
"""After this time without a worker a dialog says that the request is queued: users wait at most ten seconds."""
_DATABASE_CONNECTIONS = 16
_LOOPBACK_NAMES = frozenset({LOOPBACK, "localhost", "::1"})


@dataclass(frozen=True, slots=True)
class Development:
    """What the development stack adds to the dashboard: a sign-on without passwords and a marketplace page."""

    routes: Sequence[BaseRoute]
    draw_marketplace: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Dependencies:
    """The dependencies of the process. `development` is None outside the development stack."""

    settings: Settings
    database: Database
    readiness: DatabaseReadiness
    workflows: WorkflowBridge
    guard: SessionAuthorizer
    addresses: ServiceUrls
    origin: str
    cookie_secrets: tuple[str, ...]
    client_secret: str
    intake_key: str
    operations: Operations
    tracer: Tracer | None
    development: Development | None

    @property
    def develops(self) -> bool:
        """Whether the sign-on and the marketplace page of the development stack are served."""
        return self.development is not None

    @property
    def metadata_url(self) -> str:
        """Address of the discovery document of the single sign-on (OpenID Connect Discovery 1.0)."""
        return self.settings.oidc_metadata_url or f"{self.origin}{DEVELOPMENT_SIGN_ON}/.well-known/openid-configuration"

    def page_context(self, sign_on: Session, source: str, navigation: Navigation = NO_PAGES) -> PageContext:
        """Return the page context of a user whom the authorizer has just admitted."""
        admitted = this_run()
        return PageContext(
            person=sign_on.person,
            tenant_id=sign_on.person.tenant_id,
            source=source,
            database=self.database,
            workflows=self.workflows,
            addresses=self.addresses,
            now=utc_now,
            provisioning_slo_seconds=self.settings.provisioning_slo_seconds,
            grace_seconds=self.settings.root_key_grace_seconds,
            approval_ttl_hours=self.settings.approval_ttl_hours,
            offboard_grace_days=self.settings.offboard_grace_days,
            root_key_shards=self.settings.root_key_shards,
            intake_key=self.intake_key,
            aws_principal=self.settings.aws_principal,
            plain_webhooks=bool(webhook_networks(self.settings)),
            present=lambda: self.guard.holds(sign_on, source),
            admitted=admitted,
            left=lambda: not admitted() and self.guard.has_ended(sign_on),
            platform=self.operations if sign_on.person.is_operator else None,
            navigation=navigation,
        )


Develop = Callable[[Settings, str, str, ClaimNames], Development]
"""Creates the development parts from settings, origin, client secret and claim names."""

_built: list[Dependencies] = []


def parts() -> Dependencies:
    """Return the dependencies of this process; raises RuntimeError before `install`."""
    if not _built:
        raise RuntimeError("the dashboard is not wired: start it with python -m dashboard")
    return _built[0]


def install(made: Dependencies) -> None:
    """Make these the dependencies of this process, for the script that Streamlit runs."""
    _built[:] = [made]


def build(settings: Settings, develop: Develop | None = None) -> Dependencies:
    """Build all dependencies from settings, without connecting.

    Raises:
        SettingsInvalid: a secret is missing, no single sign-on is configured, or the development sign-on would be
            reachable from another machine.
    """
    develops = settings.oidc_metadata_url is None
    address = urlsplit(settings.dashboard_url)
    if develops and develop is None:
        raise SettingsInvalid(
            "no single sign-on is configured",
            "set oidc_metadata_url to the discovery document of your platform's single sign-on",
        )
    if develops and not {settings.dashboard_host, address.hostname or ""} <= _LOOPBACK_NAMES:
        raise SettingsInvalid(
            "the development sign-on has no passwords and is allowed on loopback only",
            "set oidc_metadata_url to your platform's single sign-on, or base_url and dashboard_host to 127.0.0.1",
        )
    folder = settings.secrets
    database = Database(
        settings.postgres_url,
        Role.DASHBOARD,
        read_database_password(folder, Role.DASHBOARD),
        bytes.fromhex(read_secret(folder, context_key(Role.DASHBOARD))),
        max_size=_DATABASE_CONNECTIONS,
    )
    readiness = DatabaseReadiness(database)
    origin = f"{address.scheme}://{address.netloc}"
    client_secret = read_secret(folder, OIDC_CLIENT_SECRET)
    names = ClaimNames(settings.oidc_tenant_claim, settings.oidc_roles_claim)
    embedded = settings.temporal == "embedded"
    tracer = open_tracer(settings, "dashboard")
    return Dependencies(
        settings=settings,
        database=database,
        readiness=readiness,
        workflows=WorkflowBridge(
            lambda: WorkflowClient.connect(
                settings.temporal_address,
                settings.provisioning_slo_seconds,
                settings.log_format,
                tracer,
                accept_seconds=_ACCEPT_SECONDS,
            )
        ),
        guard=SessionAuthorizer(
            database, names, timedelta(minutes=settings.dashboard_idle_minutes), utc_now, readiness.require
        ),
        addresses=ServiceUrls(
            dashboard=settings.dashboard_url,
            marketplace=settings.marketplace_url,
            crypto_https=settings.crypto_https_url,
            crypto_kmip=settings.crypto_kmip_address,
            temporal_ui=f"http://{LOOPBACK}:{settings.temporal_ui_port}" if embedded else None,
            enrolment=settings.enrolment_url,
        ),
        origin=origin,
        cookie_secrets=read_secret_values(folder, DASHBOARD_COOKIE),
        client_secret=client_secret,
        intake_key=read_secret(folder, INTAKE_PUBLIC_KEY),
        operations=Operations(database, settings.provisioning_slo_seconds),
        tracer=tracer,
        development=develop(settings, origin, client_secret, names) if develops and develop is not None else None,
    )


def utc_now() -> datetime:
    """Return the current time; the only clock of this process."""
    return datetime.now(UTC)
