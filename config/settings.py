"""One table of settings: name, type, default, one sentence each. docs/settings.md is generated from it.

Order: environment (`OPENKCM_<NAME>`), then the file named by `OPENKCM_CONFIG` (or `openkcm.toml` in the working
directory), then the default. An unknown key in either is refused, because a misspelt setting that is silently ignored
is how a wall comes down. Secrets are never settings: they are files in `secrets_dir` (see `secrets.py`).
"""

import os
import re
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from core.errors.platform import SettingsInvalid
from core.names import parse_region
from openkcm.errors import os_reason

PREFIX = "OPENKCM_"
CONFIG_VARIABLE = "OPENKCM_CONFIG"
LOOPBACK = "127.0.0.1"
"""Where everything of the embedded stack listens; there is no setting to widen it."""


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


class WorkloadIssuer(BaseModel):
    """Whose JWTs prove which workload an agent runs beside, and what in them says so."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    jwks: str
    tenant_claim: str = Field("openkcm_tenant", min_length=1)
    service_claim: str = Field("openkcm_service", min_length=1)
    tenants: tuple[str, ...] | None = None
    """For which tenants it may speak; None: for every one."""

    @field_validator("jwks")
    @classmethod
    def _where(cls, text: str) -> str:
        place = urlsplit(text)
        plain = place.scheme == "http" and place.hostname in {LOOPBACK, "localhost", "::1"}
        if place.scheme == "https" or plain:
            if not place.hostname or place.username is not None or place.password is not None or place.fragment:
                raise ValueError("an https address without user, password and fragment")
        elif not Path(text).is_absolute():
            raise ValueError("an https address, or the absolute path of a file; http for this machine's loopback only")
        return text


EMBEDDED_LOG = Path("openbao/audit/audit.log")
"""Where in the state folder the embedded OpenBao writes its audit log."""

Port = Annotated[int, Field(ge=1, le=65535)]
Network = Annotated[str, AfterValidator(_network)]
AwsPrincipal = Annotated[str, AfterValidator(_principal)]
Region = Annotated[str, AfterValidator(parse_region)]


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True, env_ignore_empty=True)

    state_dir: Path = Field(Path(".openkcm"), description="folder of the embedded servers' data, logs and secrets")
    secrets_dir: Path | None = Field(
        None, description="folder of secret files, each 0600; default: secrets in state_dir"
    )
    regions: tuple[Region, ...] = Field(
        ("eu-west-1",), min_length=1, description="regions in which tenants may be enabled"
    )
    promise_seconds: float = Field(180.0, gt=0, description="time from the event to a ready tenant that is promised")
    base_url: str | None = Field(
        None, description="address under which customers reach the CMK page; default: where the dashboard listens"
    )
    log_format: Literal["console", "json"] = Field("json", description="form of log lines")

    database_url: str | None = Field(
        None, description="an existing PostgreSQL 15 or newer, without user and password; default: the embedded one"
    )
    postgres_port: Port = Field(15432, description="port of the embedded PostgreSQL")

    vault_address: str | None = Field(None, description="an existing OpenBao or Vault; default: the embedded OpenBao")
    vault_ca_file: Path | None = Field(None, description="certificates to trust for vault_address, PEM")
    vault_namespace: str | None = Field(None, description="namespace within vault_address, where it has them")
    vault_port: Port = Field(18200, description="port of the embedded OpenBao; its cluster port is the next one")

    vault_audit_log: Path | None = Field(
        None,
        description="the key server's own audit log, where this machine can read it (with rotated ones beside it), to "
        "be held against the audit streams; default: that of the embedded OpenBao, and none with vault_address",
    )

    temporal: Literal["embedded", "profile"] = Field(
        "embedded", description="profile takes address, namespace and TLS from Temporal's own TEMPORAL_* configuration"
    )
    temporal_port: Port = Field(17233, description="port of the embedded Temporal")
    temporal_ui_port: Port = Field(18233, description="port of the embedded Temporal's web UI")
    temporal_metrics_port: Port = Field(17234, description="port of the embedded Temporal's own metrics")

    marketplace_host: str = Field(LOOPBACK, description="address the marketplace endpoint listens on")
    marketplace_port: Port = Field(18080, description="port of the marketplace endpoint")
    marketplace_body_limit: int = Field(65536, ge=1024, description="largest event body taken, bytes")
    marketplace_base_url: str | None = Field(
        None,
        description="address under which services' agents reach the marketplace endpoint: https, and http on loopback; "
        "default: where it listens",
    )
    workload_issuers: dict[str, WorkloadIssuer] = Field(
        {},
        description="issuers of platform JWTs by which agents enrol: issuer → `jwks` (https address or file), "
        "`tenant_claim`, `service_claim`, and `tenants` where it may speak for some only; default: none",
    )
    callback_url: str | None = Field(None, description="where the marketplace takes announcements (signed CloudEvents)")
    smtp_host: str | None = Field(None, description="mail server for announcements; default: no e-mail")
    smtp_port: Port = Field(25, description="port of smtp_host")
    smtp_security: Literal["none", "starttls", "tls"] = Field("starttls", description="how smtp_host is spoken to")
    smtp_user: str | None = Field(None, description="user at smtp_host; its password is the secret smtp-password")
    email_from: str = Field("openkcm@localhost", description="sender of announcements")
    email_to: str | None = Field(None, description="receiver of announcements; {tenant_id} is replaced")

    codec_port: Port = Field(18081, description="port of the codec server that lets the Temporal UI decode payloads")
    crypto_host: str = Field(LOOPBACK, description="address the crypto service listens on")
    crypto_https_port: Port = Field(18443, description="port of the crypto service's HTTPS front")
    crypto_kmip_port: Port = Field(15696, description="port of the crypto service's KMIP front")
    crypto_names: tuple[str, ...] = Field(
        ("localhost", LOOPBACK), min_length=1, description="names and addresses in the crypto service's certificate"
    )
    crypto_processes: int = Field(0, ge=0, le=64, description="processes of the crypto service; 0: one for each core")
    crypto_cache_seconds: float = Field(
        60.0, gt=0, le=60, description="how long an opened service key may stay in memory"
    )
    crypto_audit_sync: bool = Field(
        default=False, description="make audit records safe against power loss before answering, not only against kill"
    )
    crypto_tenant_rate: int = Field(
        20_000, ge=1, description="requests a second that one tenant may send to one process, bursts of one second"
    )
    crypto_tenant_places: int = Field(256, ge=1, description="requests of one tenant that one process works on at once")
    crypto_body_limit: int = Field(1_048_576, ge=4096, description="largest request the crypto service takes, bytes")
    crypto_metrics_port: Port = Field(17465, description="port of the crypto service's Prometheus metrics and health")
    service_certificate_hours: float = Field(
        72.0, gt=0, le=72, description="life of a service's certificate; it is renewed after two thirds"
    )

    aws_kms_endpoint: str | None = Field(
        None, description="where AWS KMS and STS are asked instead of at AWS's own addresses, for tests"
    )
    aws_principal: AwsPrincipal | None = Field(
        None,
        description="ARN of the role or user that the platform is at AWS, which customers' roles trust; it is shown to "
        "customers and gives nothing. Default: their guides say to ask the operator",
    )
    pkcs11_module: Path | None = Field(
        None, description="the PKCS#11 module (a shared library) of the HSM that tenants may hold a root key in"
    )
    root_key_networks: tuple[Network, ...] | None = Field(
        None,
        description="networks (CIDR) where customers' key servers may be, with or without TLS; elsewhere only public "
        "addresses, and only by https; default: none, and with the embedded key server this machine's loopback",
    )
    root_key_timeout_seconds: float = Field(
        2.0,
        gt=0,
        le=10,
        description="how long a customer's key server may take to take a connection, and then for one answer",
    )
    root_key_check_seconds: float = Field(
        1.0, gt=0, le=60, description="how often a customer's root key is tried while services of the tenant use it"
    )
    root_key_idle_check_seconds: float = Field(
        30.0, gt=0, le=3600, description="how often it is tried while none does, when nothing of it is in memory"
    )
    root_key_grace_seconds: float = Field(
        60.0, ge=0, le=3600, description="how long a root key may be out of reach before its tenant is locked"
    )

    rewrap_per_second: float = Field(
        50.0,
        ge=0,
        description="service keys of a tenant that a rotation makes or wraps anew in a second; 0: as many as go",
    )
    approval_hours: float = Field(
        24.0, gt=0, le=168, description="how long a request waits for a second person before it is over"
    )
    offboard_grace_days: float = Field(
        30.0, ge=1, le=365, description="how long a tenant that leaves can be restored before its keys are destroyed"
    )
    backup_days: int | None = Field(
        None,
        ge=0,
        le=3650,
        description="how long backups of database and key server are kept, as certificates of destruction say; "
        "default: they say that it is not known",
    )

    dashboard_host: str = Field(LOOPBACK, description="address the dashboard listens on")
    dashboard_port: Port = Field(18501, description="port of the dashboard")
    dashboard_idle_minutes: float = Field(30.0, gt=0, description="a session nobody used for so long has ended")
    oidc_metadata_url: str | None = Field(
        None, description="discovery document of the platform's single sign-on; default: a development one on loopback"
    )
    oidc_client_id: str = Field("openkcm-dashboard", description="the dashboard's client id at the single sign-on")
    oidc_scopes: str = Field(
        "openid email profile", description="scopes asked for, separated by spaces; claims of ours may need one more"
    )
    oidc_tenant_claim: str = Field("openkcm_tenant", description="claim of the ID token that names somebody's tenant")
    oidc_roles_claim: str = Field("openkcm_roles", description="claim of the ID token that lists somebody's roles")

    worker_threads: int = Field(16, ge=4, le=256, description="activities one worker runs at once")
    worker_metrics_port: Port = Field(17464, description="port of the worker's Prometheus metrics")
    drain_seconds: float = Field(20.0, ge=0, description="time a stopping worker gives running activities")

    OWN_VARIABLES: ClassVar[frozenset[str]] = frozenset({CONFIG_VARIABLE})

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
        return (init_settings, env_settings, TomlConfigSettingsSource(settings_cls, config_file()))

    @property
    def secrets(self) -> Path:
        """The folder of secret files."""
        return self.secrets_dir if self.secrets_dir is not None else self.state_dir / "secrets"

    @property
    def vault_url(self) -> str:
        """The address of OpenBao or Vault, embedded or not."""
        return self.vault_address or f"http://{LOOPBACK}:{self.vault_port}"

    @property
    def key_server_log(self) -> Path | None:
        """Where the key server's audit log can be read; None: not here."""
        if self.vault_audit_log is not None or self.vault_address is not None:
            return self.vault_audit_log
        return self.state_dir / EMBEDDED_LOG

    @property
    def postgres_url(self) -> str:
        """The address of the database without credentials, embedded or not."""
        return self.database_url or f"postgresql://{LOOPBACK}:{self.postgres_port}/openkcm"

    @property
    def key_server_networks(self) -> tuple[str, ...]:
        """The networks in which customers' key servers may be, beside public addresses."""
        if self.root_key_networks is not None:
            return self.root_key_networks
        return ("127.0.0.0/8",) if self.vault_address is None else ()

    @property
    def temporal_address(self) -> str | None:
        """The address of the embedded Temporal; None where Temporal's own configuration decides."""
        return f"{LOOPBACK}:{self.temporal_port}" if self.temporal == "embedded" else None

    @property
    def marketplace_url(self) -> str:
        """The address of the marketplace endpoint."""
        return f"http://{self.marketplace_host}:{self.marketplace_port}"

    @property
    def enrolment_url(self) -> str:
        """The address under which agents reach the marketplace endpoint, without a slash at its end."""
        return (self.marketplace_base_url or self.marketplace_url).rstrip("/")

    @property
    def dashboard_url(self) -> str:
        """The address under which customers reach the dashboard, without a slash at its end."""
        return (self.base_url or f"http://{self.dashboard_host}:{self.dashboard_port}").rstrip("/")

    @property
    def crypto_name(self) -> str:
        """Where to reach the crypto service, under a name that its certificate has even if it listens everywhere."""
        return self.crypto_host if self.crypto_host in self.crypto_names else self.crypto_names[0]


def config_file() -> Path:
    """Return the settings file that would be read; it need not exist unless the environment names it."""
    return Path(os.environ.get(CONFIG_VARIABLE, "openkcm.toml"))


def load_settings() -> Settings:
    """Return the settings of this process.

    Raises:
        SettingsInvalid: an unknown key, a value of the wrong type, or a file that is not there or unreadable.
    """
    try:
        return _load()
    except OSError as failed:
        raise SettingsInvalid(
            f"{config_file()} cannot be read: {os_reason(failed)}",
            f"run as its owner, or name another file by {CONFIG_VARIABLE}",
        ) from failed


def command_log_file() -> Path:
    """Return the log of commands in the state folder; the folder need not exist."""
    try:
        state_dir = load_settings().state_dir
    except SettingsInvalid:
        state_dir = Path(str(Settings.model_fields["state_dir"].default))
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
        raise SettingsInvalid(f"unknown settings in the environment: {', '.join(unknown)}", "see docs/settings.md")
    try:
        return Settings()
    except ValidationError as refused:
        # Only place and rule are shown: a mistyped value may be a secret pasted into the wrong line.
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in refused.errors(include_input=False))
        raise SettingsInvalid(f"settings refused: {problems}", "see docs/settings.md") from None
    except ValueError as unreadable:
        raise SettingsInvalid(f"{config_file()} is not readable as TOML", "see docs/settings.md") from unreadable
