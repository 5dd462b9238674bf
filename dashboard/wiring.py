"""Builds what the dashboard stands on; the one place of this package where implementations are chosen."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from urllib.parse import urlsplit

from config.secrets import (
    DASHBOARD_COOKIE,
    INTAKE_PUBLIC_KEY,
    MARKETPLACE_TOKEN,
    OIDC_CLIENT_SECRET,
    WEBHOOK_SECRETS,
    Role,
    context_key,
    database_password,
    read_secret,
    read_secret_lines,
)
from config.settings import LOOPBACK, Settings, load_settings
from dashboard.claims import ClaimNames, SignOn
from dashboard.guard import Guard
from dashboard.market import Market
from dashboard.seat import Addresses, Seat
from dashboard.temporal_bridge import TemporalBridge
from database.connection import Database
from database.operations import Operations
from storefront.sender import Sender
from tenancy.errors import SettingsInvalid
from workflows.gateway import Gateway

_DATABASE_CONNECTIONS = 16
_LOOPBACK_NAMES = frozenset({LOOPBACK, "localhost", "::1"})
DEVELOPMENT_PATH = "/dev-sign-on"


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything the process is made of. `market` is there in development only, where the sign-on is its own too."""

    settings: Settings
    database: Database
    door: TemporalBridge
    guard: Guard
    addresses: Addresses
    origin: str
    cookie_secret: str
    client_secret: str
    intake_key: str
    operations: Operations
    market: Market | None

    @property
    def develops(self) -> bool:
        """Whether the sign-on and the marketplace page are this process's own."""
        return self.market is not None

    @property
    def metadata_url(self) -> str:
        """Where the single sign-on describes itself (OpenID Connect Discovery 1.0)."""
        return self.settings.oidc_metadata_url or f"{self.origin}{DEVELOPMENT_PATH}/.well-known/openid-configuration"

    def seat(self, sign_on: SignOn, source: str) -> Seat:
        """Return where somebody sits whom the guard has just admitted."""
        return Seat(
            person=sign_on.person,
            tenant_id=sign_on.person.tenant_id,
            source=source,
            database=self.database,
            door=self.door,
            addresses=self.addresses,
            now=utc_now,
            promise_seconds=self.settings.promise_seconds,
            grace_seconds=self.settings.root_key_grace_seconds,
            approval_hours=self.settings.approval_hours,
            offboard_grace_days=self.settings.offboard_grace_days,
            intake_key=self.intake_key,
            aws_principal=self.settings.aws_principal,
            present=lambda: self.guard.holds(sign_on, source),
            left=lambda: self.guard.has_ended(sign_on),
            platform=self.operations if sign_on.person.is_operator else None,
        )


@cache
def parts() -> Parts:
    """Return the parts of this process, built from its settings at the first call.

    Raises:
        SettingsInvalid: a secret is missing, or the development sign-on would be reachable from elsewhere.
    """
    return build(load_settings())


def build(settings: Settings) -> Parts:
    """Build everything from settings; connects nothing. Raises SettingsInvalid."""
    develops = settings.oidc_metadata_url is None
    address = urlsplit(settings.dashboard_url)
    if develops and not {settings.dashboard_host, address.hostname or ""} <= _LOOPBACK_NAMES:
        raise SettingsInvalid(
            "the development sign-on lets everybody in, so it is for loopback only",
            "set oidc_metadata_url to your platform's single sign-on, or base_url and dashboard_host to 127.0.0.1",
        )
    folder = settings.secrets
    database = Database(
        settings.postgres_url,
        Role.DASHBOARD,
        read_secret(folder, database_password(Role.DASHBOARD)),
        bytes.fromhex(read_secret(folder, context_key(Role.DASHBOARD))),
        max_size=_DATABASE_CONNECTIONS,
    )
    names = ClaimNames(settings.oidc_tenant_claim, settings.oidc_roles_claim)
    embedded = settings.temporal == "embedded"
    return Parts(
        settings=settings,
        database=database,
        door=TemporalBridge(
            lambda: Gateway.connect(settings.temporal_address, settings.promise_seconds, settings.log_format)
        ),
        guard=Guard(database, names, timedelta(minutes=settings.dashboard_idle_minutes), utc_now),
        addresses=Addresses(
            dashboard=settings.dashboard_url,
            marketplace=settings.marketplace_url,
            crypto_https=f"https://{settings.crypto_name}:{settings.crypto_https_port}",
            crypto_kmip=f"{settings.crypto_name}:{settings.crypto_kmip_port}",
            temporal_ui=f"http://{LOOPBACK}:{settings.temporal_ui_port}" if embedded else None,
            enrolment=settings.enrolment_url,
        ),
        origin=f"{address.scheme}://{address.netloc}",
        cookie_secret=read_secret(folder, DASHBOARD_COOKIE),
        client_secret=read_secret(folder, OIDC_CLIENT_SECRET),
        intake_key=read_secret(folder, INTAKE_PUBLIC_KEY),
        operations=Operations(database, settings.promise_seconds),
        market=_market(settings) if develops else None,
    )


def _market(settings: Settings) -> Market:
    """Return what the marketplace page stands on, with the secrets of the platform whose marketplace it plays."""
    folder = settings.secrets
    sender = Sender(
        settings.marketplace_url,
        read_secret_lines(folder, WEBHOOK_SECRETS)[0],
        read_secret(folder, MARKETPLACE_TOKEN),
        utc_now,
    )
    return Market(sender, settings.regions, settings.promise_seconds, utc_now)


def utc_now() -> datetime:
    """Return the present; the only clock of this process."""
    return datetime.now(UTC)
