"""The list of components for given settings. A server that is configured elsewhere is not included."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations

from config.secrets import MIGRATOR, database_credentials, database_password, read_secret
from config.settings import LOOPBACK, Settings
from core.errors.platform import ComponentFailed, DatabaseUnavailable
from devstack.servers.base import Server
from devstack.servers.openbao import OpenBaoServer
from devstack.servers.ports import variable
from devstack.servers.postgres import PostgresServer
from devstack.servers.python_process import EVERYWHERE, PythonProcess
from devstack.servers.temporal import TemporalServer

_DRAIN_MARGIN_SECONDS = 10.0
"""More than a process takes to end itself after its grace."""
WORKER_READY = 'openkcm_worker_ready{service_name="temporal-core-sdk"} 1'
"""The sample in a ready worker's metrics; the help text contains only its name."""
_HOST_SETTINGS = {
    "marketplace_port": "marketplace_host",
    "dashboard_port": "dashboard_host",
    "crypto_https_port": "crypto_host",
    "crypto_kmip_port": "crypto_host",
    "crypto_metrics_port": "crypto_metrics_host",
    "codec_port": "codec_host",
    "worker_metrics_port": "worker_metrics_host",
}
"""The setting for the address of a port; every other port is on loopback."""


@dataclass(frozen=True, slots=True)
class Task:
    """A one-time step of the start, before the components that name it in `after`; retried until it succeeds."""

    name: str
    run: Callable[[], object]
    after: tuple[str, ...] = ()


Component = Server | Task


def components(settings: Settings) -> list[Component]:
    """Return all components to run, each after its dependencies."""
    state_dir = settings.state_dir
    found: list[Component] = []
    prepared = ("database",)
    allowed: tuple[str, ...] = ()
    if settings.database_url is None:
        postgres = PostgresServer(state_dir, settings.postgres_port)
        found += [postgres, Task("database", lambda: _prepare_database(settings, postgres), after=(postgres.name,))]
    else:
        found.append(Task("database", lambda: _require_prepared_database(settings)))
    if settings.vault_address is None:
        openbao = OpenBaoServer(state_dir, settings.vault_port, settings.secrets, settings.crypto_names)
        found += [openbao, Task("policies", openbao.bring_up_to_date, after=(openbao.name,))]
        # A process that needs a new policy waits until an older server has it; a new server is created with it.
        allowed = () if openbao.is_new else ("policies",)
    if settings.temporal == "embedded":
        found.append(
            TemporalServer(
                state_dir,
                settings.temporal_port,
                settings.temporal_ui_port,
                settings.temporal_metrics_port,
                f"http://{LOOPBACK}:{settings.codec_port}",
            )
        )
    # Worker and marketplace wait for Temporal themselves, so they start in parallel.
    return [
        *found,
        PythonProcess(
            "worker",
            "worker",
            state_dir,
            {"worker_metrics_port": settings.worker_metrics_port},
            host=settings.worker_metrics_host,
            health="/metrics",
            saying=WORKER_READY,
            after=prepared + allowed,
            stop_seconds=settings.shutdown_grace_seconds + _DRAIN_MARGIN_SECONDS,
        ),
        PythonProcess(
            "marketplace",
            "marketplace",
            state_dir,
            {"marketplace_port": settings.marketplace_port},
            health="/healthz",
            after=prepared,
            host=settings.marketplace_host,
        ),
        PythonProcess(
            "crypto",
            "crypto_service",
            state_dir,
            {
                "crypto_metrics_port": settings.crypto_metrics_port,
                "crypto_https_port": settings.crypto_https_port,
                "crypto_kmip_port": settings.crypto_kmip_port,
            },
            health="/readyz",
            after=prepared + allowed,
            stop_seconds=settings.shutdown_notice_seconds + 2 * settings.shutdown_grace_seconds + _DRAIN_MARGIN_SECONDS,
            host=settings.crypto_metrics_host,
            niceness=0,  # customers' databases wait for its responses
        ),
        PythonProcess(
            "dashboard",
            "devstack.dashboard",
            state_dir,
            {"dashboard_port": settings.dashboard_port},
            health="/healthz",
            after=prepared,
            host=settings.dashboard_host,
        ),
        PythonProcess(
            "codec",
            "worker.codec_server",
            state_dir,
            {"codec_port": settings.codec_port},
            health="/healthz",
            host=settings.codec_host,
        ),
    ]


def servers(settings: Settings) -> list[Server]:
    """Return the servers of the stack, without tasks."""
    return [component for component in components(settings) if isinstance(component, Server)]


@dataclass(frozen=True, slots=True)
class PortConflict:
    """Two components listen on one port of one address: the second to start would fail."""

    port: int
    detail: str
    hint: str


def port_conflicts(settings: Settings) -> list[PortConflict]:
    """Return each pair of settings that gives one port to two listeners."""
    wanted = [
        (port, _listening_host(settings, setting), server.name, setting)
        for server in servers(settings)
        for setting, port in server.ports.items()
    ]
    return [
        PortConflict(
            port, f"given to {name} and to {other}", f"set {variable(setting)} or {variable(second)} to another port"
        )
        for (port, host, name, setting), (its_port, its_host, other, second) in combinations(wanted, 2)
        if port == its_port and (host == its_host or not EVERYWHERE.isdisjoint({host, its_host}))
    ]


def _listening_host(settings: Settings, setting: str) -> str:
    """Return the address of a port's listener; each address of a machine has its own ports."""
    host = str(getattr(settings, _HOST_SETTINGS[setting])) if setting in _HOST_SETTINGS else LOOPBACK
    return LOOPBACK if host == "localhost" else host


def addresses(settings: Settings) -> dict[str, str | None]:
    """Return the address of each component; None for one outside of this stack."""
    embedded = settings.temporal == "embedded"
    return {
        "dashboard": settings.dashboard_url,
        "marketplace": settings.marketplace_url,
        "temporal": settings.temporal_address,
        "temporal_ui": f"http://{LOOPBACK}:{settings.temporal_ui_port}" if embedded else None,
        "vault": settings.vault_url,
        "crypto_https": settings.crypto_https_url,
        "crypto_kmip": settings.crypto_kmip_address,
    }


def _prepare_database(settings: Settings, postgres: PostgresServer) -> None:
    from core.existing_secrets import ExistingSecrets  # noqa: PLC0415 - needed only while servers start
    from database.schema.setup import prepare_database  # noqa: PLC0415 - the same

    passwords, keys = database_credentials(settings.secrets)
    # The server belongs to this state folder, and so do all processes that use its secrets.
    prepare_database(postgres.admin_conninfo, passwords=passwords, context_keys=keys, existing=ExistingSecrets.REPLACE)


def _require_prepared_database(settings: Settings) -> None:
    """Report a database without roles or schema at once: the processes would wait for it without an end."""
    from database.schema.setup import require_prepared  # noqa: PLC0415 - needed only while servers start

    try:
        require_prepared(settings.postgres_url, read_secret(settings.secrets, database_password(MIGRATOR)))
    except DatabaseUnavailable:
        raise ComponentFailed(
            "database_url does not respond, or has no role okcm_migrator with this password",
            "check the server and its address, then run openkcmctl setup database",
        ) from None
