"""All settings with name, type, default and description. docs/settings.md is generated from them.

Precedence: environment (`OPENKCM_<NAME>`), then the settings file (`config_file`), then the default. Neither the file
nor the state folder depends on the working directory: a command must find the same installation from every folder, and
must not read a settings file that another user has put into one. Unknown keys are rejected, because a misspelt security
setting that is silently ignored would have no effect. Secrets are never settings: they are files in `secrets_dir` (see
`secrets.py`).
"""

import os
import re
from collections.abc import Iterable
from difflib import get_close_matches
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from core import retention
from core.errors.platform import SettingsInvalid
from core.names import TenantId, parse_region
from openkcm.errors import os_reason

PREFIX = "OPENKCM_"
CONFIG_VARIABLE = "OPENKCM_CONFIG"
CLIENT_VARIABLES = frozenset(
    f"OPENKCM_{name}"
    for name in (
        *("RUN_FOLDER", "RUN_KEY_SECONDS", "RUN_CATALOGUE_SECONDS", "RUN_PATHS", "RUN_PYTHON", "BACKFILL_DATABASE"),
        *("JOIN_TOKEN", "JWT", "FOLDER"),
    )
)
"""Variables of the client, which may be set in the same environment."""
LOOPBACK = "127.0.0.1"
"""The address on which all servers of the embedded stack listen; no setting changes it."""
MAX_ROOT_KEY_SHARDS = 64
"""The maximum of `root_key_shards`."""


_AWS_PRINCIPAL = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:(?:role|user)/[\w+=,.@/-]{1,512}")


def _network(text: str) -> str:
    try:
        return str(ip_network(text))
    except ValueError:
        raise ValueError("a network such as 10.20.0.0/16") from None


def _principal(text: str) -> str:
    if not _AWS_PRINCIPAL.fullmatch(text):
        raise ValueError("the ARN of a role or a user such as arn:aws:iam::111122223333:role/openkcm, not of a session")
    return text


def _agents_address(text: str) -> str:
    place = urlsplit(text)
    if place.scheme != "https" and (place.scheme != "http" or place.hostname not in {LOOPBACK, "localhost", "::1"}):
        raise ValueError("an https address; http for this machine's loopback only, because agents send join tokens")
    return text


def _web_address(text: str) -> str:
    place = urlsplit(text)
    if place.scheme not in {"https", "http"} or not place.hostname or place.fragment:
        raise ValueError("an http or https address without a fragment")
    return text


class WorkloadIssuer(BaseModel):
    """An issuer of platform JWTs that attest an agent's workload, and the claims that name tenant and service."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    jwks: str
    tenant_claim: str = Field("openkcm_tenant", min_length=1)
    service_claim: str = Field("openkcm_service", min_length=1)
    tenants: tuple[str, ...] | None = None
    """Tenants whose workloads it may attest; None: all tenants."""

    @field_validator("jwks")
    @classmethod
    def _check_jwks(cls, text: str) -> str:
        place = urlsplit(text)
        plain = place.scheme == "http" and place.hostname in {LOOPBACK, "localhost", "::1"}
        if place.scheme == "https" or plain:
            if not place.hostname or place.username is not None or place.password is not None or place.fragment:
                raise ValueError("an https address without user, password and fragment")
        elif not Path(text).is_absolute():
            raise ValueError("an https address, or the absolute path of a file; http for this machine's loopback only")
        return text


def _retention(chosen: dict[str, int]) -> dict[str, int]:
    retention.days_of(chosen)
    return chosen


def _collector(text: str) -> str:
    place = urlsplit(text)
    if place.scheme not in {"http", "https"} or not place.hostname or place.username is not None:
        raise ValueError("an http or https address without user and password")
    if place.query or place.fragment:
        raise ValueError("an address without query and fragment")
    return text


EMBEDDED_LOG = Path("openbao/audit/audit.log")
"""Path of the embedded OpenBao's audit log in the state folder."""

Port = Annotated[int, Field(ge=1, le=65535)]
Network = Annotated[str, AfterValidator(_network)]
RetentionDays = Annotated[dict[str, int], AfterValidator(_retention)]
AwsPrincipal = Annotated[str, AfterValidator(_principal)]
Region = Annotated[str, AfterValidator(parse_region)]
_PATHS = (Path, Path | None, tuple[Path, ...])


def _place(in_checkout: str, installed: str) -> Path:
    """Return a path in the source checkout to which this module belongs, or that of an installed package."""
    checkout = Path(__file__).resolve().parents[1]
    return checkout / in_checkout if (checkout / "pyproject.toml").is_file() else Path(installed)


def default_state_dir() -> Path:
    """Return the state folder if no setting names one."""
    return _place(".openkcm", "/var/lib/openkcm")


def config_file() -> Path:
    """Return the path of the settings file; the file must exist only if the environment names it."""
    named = os.environ.get(CONFIG_VARIABLE)
    return _place("openkcm.toml", "/etc/openkcm/openkcm.toml") if named is None else Path(named)


def _from_folder(folder: Path, value: object) -> object:
    if isinstance(value, list):
        return [_from_folder(folder, one) for one in value]
    return str(folder / value) if isinstance(value, str) else value


class _SettingsFile(TomlConfigSettingsSource):
    """The settings file; a relative path in it is relative to the folder of the file."""

    def __call__(self) -> dict[str, Any]:
        found, folder = super().__call__(), config_file().resolve().parent
        paths = {name for name, field in self.settings_cls.model_fields.items() if field.annotation in _PATHS}
        return {name: _from_folder(folder, value) if name in paths else value for name, value in found.items()}


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True, env_ignore_empty=True)

    state_dir: Path = Field(
        default_factory=default_state_dir,
        description="folder for data, logs, secrets and the audit journal; default: `.openkcm` in the checkout, "
        "`/var/lib/openkcm` for an installed package",
    )
    secrets_dir: Path | None = Field(
        None, description="folder of secret files, each with mode 0600; default: secrets in state_dir"
    )
    regions: tuple[Region, ...] = Field(
        ("eu-west-1",), min_length=1, description="regions in which tenants may be enabled"
    )
    provisioning_slo_seconds: float = Field(
        180.0, gt=0, description="provisioning SLO: seconds from event to active tenant"
    )
    base_url: str | None = Field(
        None, description="URL under which customers reach the CMK page; default: the dashboard's own address"
    )
    log_format: Literal["console", "json"] = Field("json", description="format of log lines")
    otlp_endpoint: Annotated[str, AfterValidator(_collector)] | None = Field(
        None,
        description="URL of an OpenTelemetry collector, which gets spans by OTLP over HTTP at `/v1/traces` below it; "
        "default: no tracing",
    )
    otlp_ca_file: Path | None = Field(None, description="CA certificates to trust for otlp_endpoint, PEM")
    trace_ratio: float = Field(
        1.0, ge=0, le=1, description="part of the traces that is recorded; use the same value for all processes"
    )

    database_url: str | None = Field(
        None, description="an existing PostgreSQL 15 or newer, without user and password; default: the embedded one"
    )
    postgres_port: Port = Field(15432, description="port of the embedded PostgreSQL")

    vault_address: str | None = Field(None, description="an existing OpenBao or Vault; default: the embedded OpenBao")
    vault_ca_file: Path | None = Field(None, description="CA certificates to trust for vault_address, PEM")
    vault_namespace: str | None = Field(None, description="namespace in vault_address, if it uses namespaces")
    vault_port: Port = Field(18200, description="port of the embedded OpenBao; its cluster port is the next one")

    vault_audit_logs: tuple[Path, ...] = Field(
        (),
        description="paths of the key server's audit logs, one for each node, each with its rotated files in a "
        "separate folder, for the reconciliation with the audit streams; default: that of the embedded OpenBao, none "
        "with vault_address",
    )

    temporal: Literal["embedded", "profile"] = Field(
        "embedded", description="profile reads address, namespace and TLS from Temporal's TEMPORAL_* configuration"
    )
    temporal_port: Port = Field(17233, description="port of the embedded Temporal")
    temporal_ui_port: Port = Field(18233, description="port of the embedded Temporal's web UI")
    temporal_metrics_port: Port = Field(17234, description="port of the embedded Temporal's metrics")

    proxy_networks: tuple[Network, ...] = Field(
        (),
        description="networks of the proxies before marketplace endpoint and dashboard, whose X-Forwarded-For is the "
        "source in audit records and for rates",
    )
    marketplace_host: str = Field(LOOPBACK, description="address the marketplace endpoint listens on")
    marketplace_port: Port = Field(18080, description="port of the marketplace endpoint")
    marketplace_body_limit: int = Field(65536, ge=1024, description="maximum size of an event body, bytes")
    marketplace_base_url: Annotated[str, AfterValidator(_agents_address)] | None = Field(
        None,
        description="URL under which agents reach the marketplace endpoint: https, or http on loopback; "
        "default: its own address",
    )
    workload_issuers: dict[str, WorkloadIssuer] = Field(
        {},
        description="issuers of platform JWTs for the enrolment of agents: issuer → `jwks` (https URL or file), "
        "`tenant_claim`, `service_claim`, and optionally `tenants`, the only tenants that it may attest; default: none",
    )
    callback_url: str | None = Field(
        None, description="URL of the marketplace that receives notifications (signed CloudEvents)"
    )
    webhook_networks: tuple[Network, ...] | None = Field(
        None,
        description="networks (CIDR) in which webhooks that customers choose are allowed, with or without TLS; other "
        "addresses must be public and use https; default: none, with the embedded key server the loopback network",
    )
    smtp_host: str | None = Field(None, description="mail server for notifications; default: no e-mail")
    smtp_port: Port = Field(25, description="port of smtp_host")
    smtp_security: Literal["none", "starttls", "tls"] = Field("starttls", description="transport security of smtp_host")
    smtp_user: str | None = Field(None, description="user at smtp_host; its password is the secret smtp-password")
    email_from: str = Field("openkcm@localhost", description="sender of notifications")
    email_to: str | None = Field(None, description="receiver of notifications; {tenant_id} is replaced")
    notification_retry_hours: float = Field(
        72.0,
        gt=0,
        le=720,
        description="age at which a notification that its receiver does not accept becomes a dead letter, hours; until "
        "then it is attempted again with growing delays, at most 15 minutes",
    )

    codec_host: str = Field(LOOPBACK, description="address the codec server listens on")
    codec_origins: tuple[str, ...] = Field(
        (), description="origins of Temporal UIs whose pages may use the codec server; default: the embedded one"
    )
    codec_port: Port = Field(18081, description="port of the codec server that decodes payloads for the Temporal UI")
    crypto_host: str = Field(LOOPBACK, description="address the crypto service listens on")
    crypto_https_port: Port = Field(18443, description="port of the crypto service's HTTPS API")
    crypto_kmip_port: Port = Field(15696, description="port of the crypto service's KMIP API")
    crypto_proxy_networks: tuple[Network, ...] = Field(
        (),
        description="networks of the load balancers before the crypto service; their connections, and no others, must "
        "begin with a header of the PROXY protocol, version 2",
    )
    crypto_https_public_port: Port | None = Field(
        None, description="port of crypto_names that leads to the HTTPS API; default: crypto_https_port"
    )
    crypto_kmip_public_port: Port | None = Field(
        None, description="port of crypto_names that leads to the KMIP API; default: crypto_kmip_port"
    )
    crypto_names: tuple[str, ...] = Field(
        ("localhost", LOOPBACK), min_length=1, description="names and addresses in the crypto service's certificate"
    )
    crypto_processes: int = Field(
        0, ge=0, le=64, description="number of processes of the crypto service; 0: one for each core"
    )
    crypto_key_cache_seconds: float = Field(
        60.0, gt=0, le=60, description="maximum time that an unwrapped service key stays in memory, seconds"
    )
    crypto_audit_sync: bool = Field(
        default=False,
        description="sync audit records to disk before the response, so that they survive a power loss",
    )
    crypto_audit_copy: bool = Field(
        default=False,
        description="write the audit record of each release of key material (KMIP Get, data key) to PostgreSQL too "
        "before the response, so that it survives the loss of the disk; without PostgreSQL nothing is released",
    )
    crypto_tenant_rate: int = Field(
        20_000, ge=1, description="rate limit of a tenant in one process, requests per second, with a burst of 1 s"
    )
    crypto_tenant_max_in_flight: int = Field(
        256, ge=1, description="maximum concurrent requests of a tenant in one process"
    )
    crypto_service_max_objects: int = Field(
        10_000, ge=1, description="maximum number of KMIP objects of a service that are not destroyed"
    )
    crypto_body_limit: int = Field(1_048_576, ge=4096, description="maximum request size of the crypto service, bytes")
    crypto_metrics_host: str = Field(
        LOOPBACK, description="address of the crypto service's Prometheus metrics and health check"
    )
    crypto_metrics_port: Port = Field(
        17465, description="port of the crypto service's Prometheus metrics and health check"
    )
    service_certificate_hours: float = Field(
        72.0, gt=0, le=72, description="lifetime of a service's certificate, hours; it is renewed after two thirds"
    )

    isolation_complete_days: int = Field(
        7, ge=1, le=7, description="days within which every isolation attack is made on each tenant"
    )
    isolation_per_second: float = Field(
        2.0, gt=0, le=100, description="isolation assessments that the schedule starts in a second, in each region"
    )

    aws_kms_endpoint: str | None = Field(
        None, description="endpoint of AWS KMS and STS for tests; default: the endpoints of AWS"
    )
    aws_principal: AwsPrincipal | None = Field(
        None,
        description="ARN of the platform's AWS role or user, which customers' roles trust; customers see it, it is not "
        "a secret; default: the guides tell customers to ask the operator",
    )
    pkcs11_module: Path | None = Field(
        None, description="PKCS#11 module (shared library) of the HSM for tenants' root keys"
    )
    pkcs11_tokens: dict[str, TenantId] = Field(
        {},
        description="tokens of `pkcs11_module` that tenants may use for root keys: label → tenant; a tenant cannot use "
        "any other token; default: none",
    )
    root_key_networks: tuple[Network, ...] | None = Field(
        None,
        description="networks (CIDR) in which customers' key servers are allowed, with or without TLS; other addresses "
        "must be public and use https; default: none, with the embedded key server the loopback network",
    )
    root_key_timeout_seconds: float = Field(
        2.0,
        gt=0,
        le=10,
        description="timeout for a connection to a customer's key server, and for one response, seconds",
    )
    root_key_poll_seconds: float = Field(
        1.0, gt=0, le=60, description="interval of health checks of a root key in use or shown on an open page, seconds"
    )
    root_key_idle_poll_seconds: float = Field(
        30.0, gt=0, le=3600, description="interval of root key health checks while nothing uses it, seconds"
    )
    root_key_grace_seconds: float = Field(
        60.0, ge=0, le=3600, description="time that a root key may be unreachable before its tenant is locked, seconds"
    )

    rewrap_per_second: float = Field(
        50.0,
        ge=0,
        description="service keys of a tenant that a rotation creates or re-wraps per second; 0: no limit",
    )
    approval_ttl_hours: float = Field(
        24.0, gt=0, le=168, description="time after which a pending approval expires, hours"
    )
    offboard_grace_days: float = Field(
        30.0, ge=1, le=365, description="grace period of an offboarding before the keys are destroyed, days"
    )
    backup_retention_days: int | None = Field(
        None,
        ge=0,
        le=3650,
        description="retention time of backups of database and key server, stated in erasure certificates, days; "
        "default: stated as unknown",
    )

    retention_days: RetentionDays = Field(
        {},
        description="retention of tables: name → days; docs/retention.md#deleted-after-a-time lists them",
    )
    audit_retention_days: int = Field(
        retention.AUDIT_DAYS,
        ge=retention.AUDIT_MINIMUM,
        le=36_500,
        description="time after which records of an audit stream are moved from the database to signed archive files, "
        "days; a compliance report needs the records of its period in the database",
    )
    audit_archive_dir: Path | None = Field(
        None,
        description="folder of the archive files of audit streams; back it up like the database, and mount the same "
        "folder for every worker; default: audit-archive in state_dir",
    )

    dashboard_host: str = Field(LOOPBACK, description="address the dashboard listens on")
    dashboard_port: Port = Field(18501, description="port of the dashboard")
    dashboard_idle_minutes: float = Field(30.0, gt=0, description="idle time after which a session ends, minutes")
    documentation_url: Annotated[str, AfterValidator(_web_address)] | None = Field(
        None,
        description="address at which the documentation of the dashboard is published, without a fragment; the help "
        "of each page has a link to its section; default: no link",
    )
    oidc_metadata_url: str | None = Field(
        None, description="discovery document of the single sign-on; default: a development server on loopback"
    )
    oidc_client_id: str = Field("openkcm-dashboard", description="the dashboard's client id at the single sign-on")
    oidc_scopes: str = Field(
        "openid email profile",
        description="requested scopes, separated by spaces; the tenant and roles claims may need another scope",
    )
    oidc_tenant_claim: str = Field("openkcm_tenant", description="claim of the ID token that names the user's tenant")
    oidc_roles_claim: str = Field("openkcm_roles", description="claim of the ID token that lists the user's roles")

    worker_threads: int = Field(
        16,
        ge=4,
        le=64,
        description="maximum concurrent short activities of a region; half as many long ones run beside them",
    )
    worker_rotations: int = Field(
        4,
        ge=1,
        le=64,
        description="maximum concurrent rotations and root key changes of a region; further ones take turns",
    )
    root_key_shards: int = Field(
        1,
        ge=1,
        le=MAX_ROOT_KEY_SHARDS,
        description="parts of a region's root keys that workers check concurrently, each in one worker at a time; all "
        "workers need the same number",
    )
    worker_build_id: str | None = Field(
        None,
        pattern=r"^\d+\.\d+\.\d+$",
        description="release of this worker, such as 0.2.0, for Temporal's Worker Versioning; without it, workers of "
        "all releases take all tasks",
    )
    worker_metrics_host: str = Field(LOOPBACK, description="address of the worker's Prometheus metrics")
    worker_metrics_port: Port = Field(17464, description="port of the worker's Prometheus metrics")
    shutdown_notice_seconds: float = Field(
        0.0,
        ge=0,
        le=300,
        description="time for which a stopping crypto service still accepts connections and reports that it is not "
        "ready, seconds; at least the interval at which load balancers check it",
    )
    shutdown_grace_seconds: float = Field(
        20.0, ge=0, description="time for running activities of a stopping worker, seconds"
    )

    OWN_VARIABLES: ClassVar[frozenset[str]] = frozenset({CONFIG_VARIABLE, *CLIENT_VARIABLES})

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the base class names it
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - secrets are read by config.secrets
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take arguments, then the environment, then the file; no dotenv."""
        return (init_settings, env_settings, _SettingsFile(settings_cls, config_file()))

    @property
    def secrets(self) -> Path:
        """The folder of secret files."""
        return self.secrets_dir if self.secrets_dir is not None else self.state_dir / "secrets"

    @property
    def audit_archive(self) -> Path:
        """The folder of the archive files of audit streams."""
        return self.state_dir / "audit-archive" if self.audit_archive_dir is None else self.audit_archive_dir

    @property
    def vault_url(self) -> str:
        """The address of OpenBao or Vault, embedded or not."""
        return self.vault_address or f"http://{LOOPBACK}:{self.vault_port}"

    @property
    def key_server_logs(self) -> tuple[Path, ...]:
        """The paths of the key server's audit logs; none if this machine cannot read them."""
        if self.vault_audit_logs or self.vault_address is not None:
            return self.vault_audit_logs
        return (self.state_dir / EMBEDDED_LOG,)

    @property
    def postgres_url(self) -> str:
        """The address of the database without credentials, embedded or not."""
        return self.database_url or f"postgresql://{LOOPBACK}:{self.postgres_port}/openkcm"

    @property
    def key_server_networks(self) -> tuple[str, ...]:
        """The networks in which customers' key servers are allowed, besides public addresses."""
        if self.root_key_networks is not None:
            return self.root_key_networks
        return ("127.0.0.0/8",) if self.vault_address is None else ()

    @property
    def temporal_address(self) -> str | None:
        """The address of the embedded Temporal; None if Temporal's own configuration sets it."""
        return f"{LOOPBACK}:{self.temporal_port}" if self.temporal == "embedded" else None

    @property
    def marketplace_url(self) -> str:
        """The address of the marketplace endpoint."""
        return f"http://{self.marketplace_host}:{self.marketplace_port}"

    @property
    def enrolment_url(self) -> str:
        """The URL under which agents reach the marketplace endpoint, without a trailing slash."""
        return (self.marketplace_base_url or self.marketplace_url).rstrip("/")

    @property
    def dashboard_url(self) -> str:
        """The URL under which customers reach the dashboard, without a trailing slash."""
        return (self.base_url or f"http://{self.dashboard_host}:{self.dashboard_port}").rstrip("/")

    @property
    def crypto_name(self) -> str:
        """The host of the crypto service, always a name in its certificate, even if it listens on all addresses."""
        return self.crypto_host if self.crypto_host in self.crypto_names else self.crypto_names[0]

    @property
    def crypto_ports(self) -> tuple[int, int]:
        """The ports under which clients reach the HTTPS API and the KMIP API."""
        return (
            self.crypto_https_public_port or self.crypto_https_port,
            self.crypto_kmip_public_port or self.crypto_kmip_port,
        )

    @property
    def crypto_https_url(self) -> str:
        """The URL under which clients reach the HTTPS API, without a trailing slash."""
        return f"https://{self.crypto_name}:{self.crypto_ports[0]}"

    @property
    def crypto_kmip_address(self) -> str:
        """The address (`host:port`) under which clients reach the KMIP API."""
        return f"{self.crypto_name}:{self.crypto_ports[1]}"


def load_settings() -> Settings:
    """Return the settings of this process.

    Raises:
        SettingsInvalid: an unknown key, a value of the wrong type, or a missing or unreadable file.
    """
    try:
        return _load()
    except OSError as failed:
        raise SettingsInvalid(
            f"{config_file()} cannot be read: {os_reason(failed)}",
            f"run as its owner, or name another file with {CONFIG_VARIABLE}",
        ) from failed


def command_log_file() -> Path:
    """Return the log of commands in the state folder; the folder need not exist."""
    try:
        state_dir = load_settings().state_dir
    except SettingsInvalid:
        state_dir = default_state_dir()
    return state_dir / "logs" / "command.log"


def _load() -> Settings:
    named = os.environ.get(CONFIG_VARIABLE)
    if named is not None and not Path(named).is_file():
        raise SettingsInvalid(
            f"{CONFIG_VARIABLE} names {named}, which is not a file", "create it or unset the variable"
        )
    known = {f"{PREFIX}{name}".upper() for name in Settings.model_fields} | Settings.OWN_VARIABLES
    unknown = sorted(name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in known)
    if unknown:
        raise SettingsInvalid(f"unknown settings in the environment: {', '.join(unknown)}", _similar(unknown, known))
    try:
        return Settings()
    except ValidationError as invalid:
        # The message contains only name and rule: an invalid value may be a secret in the wrong line.
        errors = invalid.errors(include_input=False)
        misspelt = [str(error["loc"][-1]) for error in errors if _is_unknown(error["loc"])]
        problems = "; ".join(_describe(error["loc"], error["msg"]) for error in errors)
        raise SettingsInvalid(f"invalid settings: {problems}", _similar(misspelt, Settings.model_fields)) from None
    except ValueError as unreadable:
        raise SettingsInvalid(f"{config_file()} is not readable as TOML", "see docs/settings.md") from unreadable


def _is_unknown(place: tuple[int | str, ...]) -> bool:
    return place[0] not in Settings.model_fields


def _describe(place: tuple[int | str, ...], rule: str) -> str:
    """Return an error of a setting with its source."""
    variable = f"{PREFIX}{place[0]}".upper()
    # An empty variable counts as unset.
    set_variables = [name for name, value in os.environ.items() if value and name.upper() == variable]
    source = f"environment variable {set_variables[0]}" if set_variables else config_file()
    return f"{'.'.join(map(str, place))} in {source}: {'unknown setting' if _is_unknown(place) else rule}"


def _similar(names: Iterable[str], known: Iterable[str]) -> str:
    """Return the hint for unknown names: the closest known one of each."""
    spelling = {one.casefold(): one for one in known}
    closest = {name: get_close_matches(name.casefold(), spelling, 1) for name in names}
    meant = "; ".join(f"for {name} use {spelling[close[0]]}" for name, close in closest.items() if close)
    return f"{meant}; see docs/settings.md" if meant else "see docs/settings.md"
