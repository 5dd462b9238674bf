"""What a service's software is told, by kind: files it can use as they are, with absolute paths."""

import json
from dataclasses import dataclass
from pathlib import Path

from cli.service_files import AUTHORITY, CERTIFICATE, KEY
from config.settings import Settings
from tenancy.services import ServiceKind

MONGODB_PEM = "mongodb.pem"


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the crypto service is reached, under a name that its certificate has."""

    host: str
    https_port: int
    kmip_port: int

    @property
    def https(self) -> str:
        return f"https://{self.host}:{self.https_port}"

    @property
    def kmip(self) -> str:
        return f"{self.host}:{self.kmip_port}"


def addresses(settings: Settings) -> Addresses:
    """Return the addresses to hand out."""
    return Addresses(settings.crypto_name, settings.crypto_https_port, settings.crypto_kmip_port)


def configuration(
    kind: ServiceKind, name: str, folder: Path, where: Addresses, certificate_and_key: str
) -> dict[str, str]:
    """Return file name → text for a kind of service.

    `certificate_and_key` is the one PEM that MongoDB's server and drivers want in a file of its own.
    """
    match kind:
        case ServiceKind.MONGODB:
            return {
                MONGODB_PEM: certificate_and_key,
                "mongod.yaml": _mongod(folder, where),
                "csfle.json": _csfle(folder, where),
            }
        case ServiceKind.POSTGRESQL:
            return {"pg_tde.sql": _pg_tde(name, folder, where)}
        case ServiceKind.MICROSERVICE:
            return {"client.toml": _openkcm(folder, where)}


def _mongod(folder: Path, where: Addresses) -> str:
    return f"""\
# For mongod: MongoDB Enterprise or Percona Server. It encrypts new data files only, so start with an empty dbPath.
security:
  enableEncryption: true
  kmip:
    serverName: {_quoted(where.host)}
    port: {where.kmip_port}
    clientCertificateFile: {_quoted(folder / MONGODB_PEM)}
    serverCAFile: {_quoted(folder / AUTHORITY)}
"""


def _csfle(folder: Path, where: Addresses) -> str:
    tls = {"tlsCAFile": str(folder / AUTHORITY), "tlsCertificateKeyFile": str(folder / MONGODB_PEM)}
    options = {"kms_providers": {"kmip": {"endpoint": where.kmip}}, "kms_tls_options": {"kmip": tls}}
    return json.dumps(options, indent=2) + "\n"


def _pg_tde(name: str, folder: Path, where: Addresses) -> str:
    key = f"{name}-principal"
    return f"""\
-- For Percona's PostgreSQL with pg_tde 2, in the database that is to be encrypted.
CREATE EXTENSION IF NOT EXISTS pg_tde;
SELECT pg_tde_add_database_key_provider_kmip(
    provider_name  => 'openkcm',
    kmip_host      => {_literal(where.host)},
    kmip_port      => {where.kmip_port},
    kmip_cert_path => {_literal(folder / CERTIFICATE)},
    kmip_key_path  => {_literal(folder / KEY)},
    kmip_ca_path   => {_literal(folder / AUTHORITY)}
);
SELECT pg_tde_create_key_using_database_key_provider({_literal(key)}, 'openkcm');
SELECT pg_tde_set_key_using_database_key_provider({_literal(key)}, 'openkcm');
"""


def _openkcm(folder: Path, where: Addresses) -> str:
    return f"""\
# For the client in crypto/client.py, which also fetches each renewed certificate into this folder.
https = {_quoted(where.https)}
kmip = {_quoted(where.kmip)}
certificate = {_quoted(folder / CERTIFICATE)}
key = {_quoted(folder / KEY)}
ca = {_quoted(folder / AUTHORITY)}
"""


def _quoted(value: str | Path) -> str:
    """Return a string in double quotes as YAML and TOML both read it, which is as JSON does."""
    return json.dumps(str(value), ensure_ascii=False)


def _literal(value: str | Path) -> str:
    """Return an SQL string (PostgreSQL, standard_conforming_strings)."""
    return "'" + str(value).replace("'", "''") + "'"
